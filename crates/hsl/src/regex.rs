//! [`Regex`]: PCRE2 patterns with match limits (language section 7.8).

use crate::error::Error;
use crate::object::{NativeObject, Object};
use crate::string::Str;
use crate::value::Value;
use parking_lot::Mutex;
use pcre2::bytes::{CaptureLocations, RegexBuilder};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Backtracking bound per match; beyond it the match raises.
const MATCH_LIMIT: u32 = 1_000_000;
/// Stack of the JIT code per thread, bytes.
const JIT_STACK_MAX: usize = 1 << 20;
/// Compiled dynamic patterns kept per process.
const CACHE_MAX: usize = 1024;
/// Compiled dynamic patterns kept per thread beside them.
const NEWEST_MAX: usize = 8;

/// A compiled pattern. Cloning shares it.
#[derive(Clone)]
pub struct Regex(Arc<Inner>);

struct Inner {
    pcre: pcre2::bytes::Regex,
    pattern: Vec<u8>,
    flags: Vec<u8>,
    /// Buffers for capture positions, kept between matches.
    spare: Mutex<Vec<CaptureLocations>>,
}

/// Byte ranges of the groups of a match; index 0 is the whole match, unmatched groups are `None`.
pub type Groups = Vec<Option<(usize, usize)>>;

impl Regex {
    /// Compiles a pattern with flags.
    ///
    /// # Errors
    /// The message of PCRE2 with the offset, or an unknown flag.
    pub fn new(pattern: &[u8], flags: &[u8]) -> Result<Regex, String> {
        let mut builder = RegexBuilder::new();
        let mut text = format!("(*LIMIT_MATCH={MATCH_LIMIT})(*LIMIT_DEPTH={MATCH_LIMIT})");
        let mut unicode = false;
        let mut ungreedy = false;
        for flag in flags {
            match flag {
                b'i' => {
                    builder.caseless(true);
                }
                b'm' => {
                    builder.multi_line(true);
                }
                b's' => {
                    builder.dotall(true);
                }
                b'x' => {
                    builder.extended(true);
                }
                b'u' => unicode = true,
                b'U' => ungreedy = true,
                b'X' => {}
                other => return Err(format!("Unknown regex flag '{}'", *other as char)),
            }
        }
        builder.utf(unicode).ucp(unicode).jit_if_available(true).max_jit_stack_size(Some(JIT_STACK_MAX));
        if ungreedy {
            text.push_str("(?U)");
        }
        let prefix = text.len();
        if unicode {
            text.push_str(std::str::from_utf8(pattern).map_err(|_| "Pattern is not valid UTF-8".to_owned())?);
        } else {
            // The library takes text; bytes above ASCII go in as escapes.
            for c in pattern {
                if c.is_ascii() {
                    text.push(*c as char);
                } else {
                    text.push_str(&format!("\\x{{{c:02x}}}"));
                }
            }
        }
        let pcre = builder.build(&text).map_err(|e| {
            let offset = e.offset().map_or(0, |o| o.saturating_sub(prefix));
            format!(
                "Invalid pattern at offset {offset}: {}",
                e.to_string().rsplit(": ").next().unwrap_or("error")
            )
        })?;
        let spare = Mutex::new(Vec::new());
        Ok(Regex(Arc::new(Inner { pcre, pattern: pattern.to_vec(), flags: flags.to_vec(), spare })))
    }

    /// Compiles a pattern given as string: `/pattern/flags` or the pattern itself. Recent patterns are kept.
    ///
    /// # Errors
    /// As [`new`](Regex::new).
    pub fn from_string(text: &[u8]) -> Result<Regex, String> {
        thread_local! {
            /// The patterns this thread used last, newest first: loops use few, and this takes neither lock nor hash.
            static NEWEST: RefCell<Vec<(Vec<u8>, Regex)>> = const { RefCell::new(Vec::new()) };
        }
        let newest = NEWEST.with_borrow_mut(|list| {
            let at = list.iter().position(|(t, _)| t == text)?;
            list.swap(0, at);
            list.first().map(|(_, regex)| regex.clone())
        });
        if let Some(regex) = newest {
            return Ok(regex);
        }
        let regex = Regex::from_process_cache(text)?;
        NEWEST.with_borrow_mut(|list| {
            list.truncate(NEWEST_MAX - 1);
            list.insert(0, (text.to_vec(), regex.clone()));
        });
        Ok(regex)
    }

    fn from_process_cache(text: &[u8]) -> Result<Regex, String> {
        static CACHE: LazyLock<Mutex<Recent>> = LazyLock::new(Default::default);
        {
            let mut guard = CACHE.lock();
            let (map, clock) = &mut *guard;
            *clock += 1;
            if let Some((regex, used)) = map.get_mut(text) {
                *used = *clock;
                return Ok(regex.clone());
            }
        }
        let (pattern, flags) = split(text);
        let regex = Regex::new(pattern, flags)?;
        let mut guard = CACHE.lock();
        let (map, clock) = &mut *guard;
        if map.len() >= CACHE_MAX {
            // Dropping the older half at once keeps this amortised.
            let mut ages: Vec<u64> = map.values().map(|v| v.1).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            map.retain(|_, v| v.1 > middle);
        }
        map.insert(Str::from_bytes(text), (regex.clone(), *clock));
        Ok(regex)
    }

    /// The pattern behind a value: a Regex object or a string.
    ///
    /// # Errors
    /// An exception for bad patterns and other types.
    pub fn from_value(value: &Value) -> Result<Regex, Error> {
        match value {
            Value::Str(s) => Regex::from_string(s.as_bytes()).map_err(Error::exception),
            Value::Object(o) => match o.data::<Regex>() {
                Some(regex) => Ok(regex.clone()),
                None => Err(Error::exception(format!("Expected a pattern, {} given", o.class_name()))),
            },
            other => Err(Error::exception(format!("Expected a pattern, {} given", other.type_name()))),
        }
    }

    /// The Regex object of the language.
    pub fn to_value(&self) -> Value {
        Object::native(&crate::vm::builtin::REGEX_CLASS, self.clone())
    }

    /// Whether the pattern matches anywhere.
    ///
    /// # Errors
    /// An exception when the match limit is exceeded.
    pub fn is_match(&self, subject: &[u8]) -> Result<bool, Error> {
        match self.0.pcre.is_match(subject) {
            Ok(found) => Ok(found),
            Err(e) => failed(&e).map(|()| false),
        }
    }

    /// The groups of the first match at or after `start`.
    ///
    /// # Errors
    /// An exception when the match limit is exceeded.
    pub fn groups(&self, subject: &[u8], start: usize) -> Result<Option<Groups>, Error> {
        if start > subject.len() {
            return Ok(None);
        }
        let mut found = None;
        self.with_groups(subject, start, |locations| {
            found = Some((0..locations.len()).map(|i| locations.get(i)).collect());
        })?;
        Ok(found)
    }

    /// Calls `use_groups` with the positions of the first match at or after `start`; false without a match.
    ///
    /// # Errors
    /// An exception when the match limit is exceeded.
    pub fn with_groups(
        &self,
        subject: &[u8],
        start: usize,
        use_groups: impl FnOnce(&CaptureLocations),
    ) -> Result<bool, Error> {
        let spare = self.0.spare.lock().pop();
        let mut locations = spare.unwrap_or_else(|| self.0.pcre.capture_locations());
        let found = match self.0.pcre.captures_read_at(&mut locations, subject, start) {
            Ok(found) => found.is_some(),
            Err(e) => {
                failed(&e)?;
                false
            }
        };
        if found {
            use_groups(&locations);
        }
        let mut spare = self.0.spare.lock();
        if spare.len() < 8 {
            spare.push(locations);
        }
        Ok(found)
    }

    /// Names of the groups by number.
    pub fn names(&self) -> &[Option<String>] {
        self.0.pcre.capture_names()
    }

    /// True with flag `u`: positions move by characters.
    pub fn unicode(&self) -> bool {
        self.0.flags.contains(&b'u')
    }
}

/// Patterns with the time of their last use, and the clock that counts uses.
type Recent = (HashMap<Str, (Regex, u64)>, u64);

/// Splits `/pattern/flags`; any other text is the pattern.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    if text.first() == Some(&b'/')
        && let Some(end) = text.iter().rposition(|c| *c == b'/')
        && end > 0
        && text[end + 1..].iter().all(|c| b"imusxUX".contains(c))
    {
        return (&text[1..end], &text[end + 1..]);
    }
    (text, b"")
}

/// An invalid UTF-8 subject does not match; everything else raises.
fn failed(e: &pcre2::Error) -> Result<(), Error> {
    // PCRE2_ERROR_UTF8_ERR1 (-3) down to PCRE2_ERROR_UTF8_ERR21 (-23), and PCRE2_ERROR_BADUTFOFFSET (-36).
    if (-23..=-3).contains(&e.code()) || e.code() == -36 {
        return Ok(());
    }
    Err(Error::exception(format!("Regex match failed: {e}")))
}

impl NativeObject for Regex {
    fn display(&self) -> Option<Vec<u8>> {
        let mut out = b"#/".to_vec();
        for (i, c) in self.0.pattern.iter().enumerate() {
            if *c == b'/' && (i == 0 || self.0.pattern[i - 1] != b'\\') {
                out.push(b'\\');
            }
            out.push(*c);
        }
        out.push(b'/');
        out.extend_from_slice(&self.0.flags);
        Some(out)
    }

    fn shareable(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.display().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_forms() {
        for (pattern, subject, matches) in [
            ("abc", "xabcx", true),
            ("/ABC/i", "xabcx", true),
            ("/a.b/", "a\nb", false),
            ("/a.b/s", "a\nb", true),
            ("/^b$/m", "a\nb", true),
            ("/a b/x", "ab", true),
            ("/usr/lib", "x/usr/lib", true),
            ("/^.$/u", "å", true),
            ("^.$", "å", false),
        ] {
            let regex = Regex::from_string(pattern.as_bytes()).unwrap();
            assert_eq!(regex.is_match(subject.as_bytes()).unwrap(), matches, "{pattern}");
        }
        assert!(Regex::from_string(b"(").is_err());
        let latin = Regex::new(b"\xe5", b"").unwrap();
        assert!(latin.is_match(b"\xe5").unwrap());
        assert!(!Regex::new(b".", b"u").unwrap().is_match(b"\xff\xfe").unwrap());
        assert_eq!(Regex::new(b"a/b", b"i").unwrap().to_value().to_string_lossy(), r"#/a\/b/i");
    }

    #[test]
    fn match_limit_raises() {
        let regex = Regex::new(b"^(a+)+$", b"").unwrap();
        let subject = [vec![b'a'; 40], vec![b'b']].concat();
        assert!(regex.is_match(&subject).is_err());
    }
}
