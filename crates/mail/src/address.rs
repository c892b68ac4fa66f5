//! Mail addresses as they stand in envelopes (RFC 5321 4.1.2, RFC 6531).
//!
//! The local part is kept unquoted and with its case; the domain is lower-case, as sent (A-labels or U-labels).
//! The null sender has both parts empty; `postmaster` alone has an empty domain.

use std::{fmt, str::FromStr};

/// Longest local part in octets. RFC 5321 says 64; longer ones exist and hurt nobody.
pub const LOCALPART_BYTES_MAX: usize = 255;
/// Longest domain in octets (RFC 5321 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;

/// An envelope address.
///
/// ```
/// use mail::Address;
/// let address = Address::parse("\"a b\"@EXAMPLE.com").unwrap();
/// assert_eq!((address.localpart.as_str(), address.domain.as_str()), ("a b", "example.com"));
/// assert_eq!(address.to_string(), "\"a b\"@example.com");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// What stands before the `@`, unquoted, case kept.
    pub localpart: String,
    /// What stands behind it, lower-case; address literals keep their brackets. Empty: none.
    pub domain: String,
}

/// Why something is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// A local part that is empty, has forbidden characters or an unfinished quoted string.
    #[error("invalid local part")]
    Localpart,
    /// A domain that is empty, has forbidden characters, an empty or too long label, or an unfinished literal.
    #[error("invalid domain")]
    Domain,
    /// Local part or domain exceed 255 octets.
    #[error("address too long")]
    TooLong,
    /// Non-ASCII characters where SMTPUTF8 is not in force.
    #[error("non-ASCII address without SMTPUTF8")]
    NonAscii,
    /// Bytes that are not UTF-8.
    #[error("address is not UTF-8")]
    NotUtf8,
    /// A source route (`@a,@b:`) that does not end.
    #[error("invalid source route")]
    SourceRoute,
}

impl Address {
    /// The null sender `<>`.
    pub const fn null() -> Self {
        Self { localpart: String::new(), domain: String::new() }
    }

    /// An address from its parts; the domain is lower-cased and checked, the local part checked for control
    /// characters and length only. Both empty is the null sender.
    ///
    /// # Errors
    /// What is wrong with which part.
    pub fn new(localpart: &str, domain: &str) -> Result<Self, AddressError> {
        if localpart.len() > LOCALPART_BYTES_MAX || domain.len() > DOMAIN_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        if localpart.chars().any(char::is_control) || (localpart.is_empty() && !domain.is_empty()) {
            return Err(AddressError::Localpart);
        }
        let domain = if domain.is_empty() { String::new() } else { checked_domain(domain)? };
        Ok(Self { localpart: localpart.to_owned(), domain })
    }

    /// The address a script names as a string: the last `@` outside quotes separates, without one the whole is the
    /// local part, and the empty string is the null sender.
    ///
    /// # Errors
    /// What is wrong with which part.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Ok(Self::null());
        }
        let (local, domain) = match last_at_outside_quotes(text) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let localpart = if local.starts_with('"') {
            let (unquoted, rest) = unquote(local)?;
            if !rest.is_empty() {
                return Err(AddressError::Localpart);
            }
            unquoted
        } else {
            if local.is_empty()
                || local.chars().any(|c| c.is_control() || matches!(c, ' ' | '"' | '\\' | '<' | '>'))
            {
                return Err(AddressError::Localpart);
            }
            local.to_owned()
        };
        match domain {
            Some("") => Err(AddressError::Domain),
            Some(domain) => Self::new(&localpart, domain),
            None => Self::new(&localpart, ""),
        }
    }

    /// The address inside `<` and `>` of MAIL and RCPT: RFC 5321 `Path`, source routes stripped, dots anywhere in the
    /// local part, a local part without domain accepted. Empty is the null sender (legal in MAIL only; the caller
    /// knows which command it is).
    ///
    /// # Errors
    /// What is wrong with which part; [`AddressError::NonAscii`] if `allow_utf8` is false and that is all.
    pub fn parse_path(path: &[u8], allow_utf8: bool) -> Result<Self, AddressError> {
        let text = std::str::from_utf8(path)
            .map_err(|_| if allow_utf8 { AddressError::NotUtf8 } else { AddressError::NonAscii })?;
        if !allow_utf8 && !text.is_ascii() {
            return Err(AddressError::NonAscii);
        }
        if text.is_empty() {
            return Ok(Self::null());
        }
        let mailbox = without_source_route(text)?;
        let (localpart, rest) = if mailbox.starts_with('"') {
            unquote(mailbox)?
        } else {
            let end = mailbox.find('@').unwrap_or(mailbox.len());
            let local = &mailbox[..end];
            if local.is_empty() || !local.chars().all(|c| c == '.' || is_atext(c)) {
                return Err(AddressError::Localpart);
            }
            (local.to_owned(), &mailbox[end..])
        };
        match rest.strip_prefix('@') {
            Some("") => Err(AddressError::Domain),
            Some(domain) => Self::new(&localpart, domain),
            None if rest.is_empty() => Self::new(&localpart, ""),
            None => Err(AddressError::Localpart),
        }
    }

    /// Whether this is the null sender.
    pub fn is_null(&self) -> bool {
        self.localpart.is_empty() && self.domain.is_empty()
    }

    /// Whether both parts are ASCII, that is, sendable without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.localpart.is_ascii() && self.domain.is_ascii()
    }

    /// The string form in lower case, as `$transaction["sender"]` shows it.
    pub fn to_lower(&self) -> String {
        self.to_string().to_lowercase()
    }
}

impl fmt::Display for Address {
    /// Writes `localpart@domain`, the local part quoted where RFC 5321 needs it; nothing for the null sender.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            return Ok(());
        }
        if is_dot_string(&self.localpart) {
            f.write_str(&self.localpart)?;
        } else {
            f.write_str("\"")?;
            for c in self.localpart.chars() {
                if matches!(c, '"' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
            f.write_str("\"")?;
        }
        if !self.domain.is_empty() {
            write!(f, "@{}", self.domain)?;
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// The domain in A-labels (RFC 5891); address literals pass unchanged.
///
/// # Errors
/// [`AddressError::Domain`] if a label cannot be converted.
pub fn domain_to_ascii(domain: &str) -> Result<String, AddressError> {
    if domain.starts_with('[') {
        return Ok(domain.to_owned());
    }
    idna::domain_to_ascii(domain).map_err(|_| AddressError::Domain)
}

/// The domain in U-labels; labels that cannot be converted and address literals pass unchanged.
pub fn domain_to_unicode(domain: &str) -> String {
    if domain.starts_with('[') {
        return domain.to_owned();
    }
    let (unicode, outcome) = idna::domain_to_unicode(domain);
    if outcome.is_ok() { unicode } else { domain.to_owned() }
}

/// RFC 5322 `atext`, and with RFC 6531 every character beyond ASCII.
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || (!c.is_ascii() && !c.is_control() && !c.is_whitespace())
}

fn is_dot_string(local: &str) -> bool {
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn last_at_outside_quotes(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped, mut last) = (false, false, None);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '@' if !quoted => last = Some(at),
            _ => {}
        }
    }
    last
}

/// The content of the quoted string at the start of `text`, and what follows it.
fn unquote(text: &str) -> Result<(String, &str), AddressError> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            // Quoting is ASCII: the byte behind the quote starts a character.
            '"' if out.is_empty() => return Err(AddressError::Localpart),
            '"' => return Ok((out, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, c)) if !c.is_control() => out.push(c),
                _ => return Err(AddressError::Localpart),
            },
            c if c.is_control() => return Err(AddressError::Localpart),
            c => out.push(c),
        }
    }
    Err(AddressError::Localpart)
}

/// RFC 5321 `A-d-l ":"`: a list of `@domain` before the mailbox, to be ignored.
fn without_source_route(text: &str) -> Result<&str, AddressError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let mut rest = text;
    loop {
        let Some(domain) = rest.strip_prefix('@') else { return Err(AddressError::SourceRoute) };
        // A literal may hold colons of its own (IPv6).
        let from =
            if domain.starts_with('[') { domain.find(']').ok_or(AddressError::SourceRoute)? } else { 0 };
        let end = from + domain[from..].find([',', ':']).ok_or(AddressError::SourceRoute)?;
        checked_domain(&domain[..end]).map_err(|_| AddressError::SourceRoute)?;
        let ended = domain.as_bytes()[end] == b':';
        rest = &domain[end + 1..];
        if ended {
            return Ok(rest);
        }
    }
}

fn checked_domain(domain: &str) -> Result<String, AddressError> {
    if domain.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    if let Some(literal) = domain.strip_prefix('[') {
        let inside = literal.strip_suffix(']').ok_or(AddressError::Domain)?;
        let legal = |b: u8| matches!(b, 33..=90 | 94..=126);
        if inside.is_empty() || !inside.bytes().all(legal) {
            return Err(AddressError::Domain);
        }
        return Ok(domain.to_ascii_lowercase());
    }
    // Underscores are no host names, but names with MX records have them.
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || (!c.is_ascii() && is_atext(c));
    let label_is_legal = |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(legal);
    // The limit of 63 holds for A-labels; a U-label in UTF-8 may be longer than its A-label, so it gets more room.
    let wide = |label: &str| !label.is_ascii() && label.len() <= 252 && label.chars().all(legal);
    if !domain.split('.').all(|label| label_is_legal(label) || wide(label)) {
        return Err(AddressError::Domain);
    }
    Ok(domain.to_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(localpart: &str, domain: &str) -> Address {
        Address { localpart: localpart.into(), domain: domain.into() }
    }

    #[test]
    fn script_strings() {
        let good = [
            ("", "", ""),
            ("postmaster", "postmaster", ""),
            ("User@Example.COM", "User", "example.com"),
            ("\"a b\"@x", "a b", "x"),
            ("\"a@b\"@x.y", "a@b", "x.y"),
            ("a@b@x.y", "a@b", "x.y"),
            ("u@[IPv6:2001:DB8::1]", "u", "[ipv6:2001:db8::1]"),
            ("jörg@BÜCHER.example", "jörg", "bücher.example"),
        ];
        for (text, localpart, domain) in good {
            assert_eq!(Address::parse(text), Ok(address(localpart, domain)), "{text:?}");
        }
        for text in
            ["@x", "a@", "a b@x", "\"a@x", "\"a\"b@x", "a@x..y", "a@-x y", "a\r\n@x", "\"\"@x", "a@[1.2"]
        {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn smtp_paths() {
        let good = [
            ("", "", ""),
            ("Postmaster", "Postmaster", ""),
            ("@a,@[IPv6:::1],@b.c:u@c", "u", "c"),
            (".odd..dots.@x", ".odd..dots.", "x"),
            ("\"q\\\"q\"@x", "q\"q", "x"),
            ("a+b=c@x_y.z", "a+b=c", "x_y.z"),
        ];
        for (path, localpart, domain) in good {
            assert_eq!(
                Address::parse_path(path.as_bytes(), false),
                Ok(address(localpart, domain)),
                "{path:?}"
            );
        }
        for path in
            ["a@b@c", "a b@c", "@a:", "@a", "@a,b:c@d", "a@", "a(b)@c", "a@b:c", "<a@b>", "a@.b", "\"x\"y@z"]
        {
            assert!(Address::parse_path(path.as_bytes(), true).is_err(), "{path:?}");
        }
        assert_eq!(Address::parse_path("ü@x".as_bytes(), false), Err(AddressError::NonAscii));
        assert_eq!(Address::parse_path(b"\xff@x", true), Err(AddressError::NotUtf8));
        assert!(Address::parse_path("ü@x".as_bytes(), true).is_ok());
        let long = format!("{}@x", "a".repeat(256));
        assert_eq!(Address::parse_path(long.as_bytes(), false), Err(AddressError::TooLong));
        let long = format!("{}@x", "a".repeat(255));
        assert!(Address::parse_path(long.as_bytes(), false).is_ok());
    }

    #[test]
    fn written_forms() {
        let cases = [
            (address("", ""), ""),
            (address("Post", ""), "Post"),
            (address("a b", "x"), "\"a b\"@x"),
            (address("a\"\\", "x"), "\"a\\\"\\\\\"@x"),
            (address(".a", "x"), "\".a\"@x"),
        ];
        for (address, text) in cases {
            assert_eq!(address.to_string(), text);
        }
        assert_eq!(address("ÄB", "x").to_lower(), "äb@x");
    }

    #[test]
    fn labels() {
        assert_eq!(domain_to_ascii("bücher.example").as_deref(), Ok("xn--bcher-kva.example"));
        assert_eq!(domain_to_unicode("xn--bcher-kva.example"), "bücher.example");
        assert_eq!(domain_to_ascii("[1.2.3.4]").as_deref(), Ok("[1.2.3.4]"));
        assert_eq!(domain_to_unicode("_dmarc.x"), "_dmarc.x");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), utf8: bool) {
            let _ = Address::parse_path(&bytes, utf8);
            let _ = Address::parse(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn what_is_written_reads_back(local in "[ -~]{1,20}", domain in "[a-z0-9]{1,8}(\\.[a-z]{1,4}){0,2}") {
            let address = Address::new(&local, &domain).unwrap();
            prop_assert_eq!(Address::parse(&address.to_string()), Ok(address.clone()));
            prop_assert_eq!(Address::parse_path(address.to_string().as_bytes(), false), Ok(address));
        }
    }
}
