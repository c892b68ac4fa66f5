//! Address lists in header fields (RFC 5322 3.4 with the obsolete forms of 4.4), read in one pass.

use crate::words;

/// One address of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// The display name, decoded; empty without one.
    pub name: String,
    /// The address as written, comments and white space left out; the domain may be missing.
    pub address: String,
}

/// No more addresses than this are read.
const MAILBOXES_MAX: usize = 100_000;
/// Deepest nesting of comments.
const COMMENT_DEPTH_MAX: usize = 100;

/// Reads a field body; `None` if it is no address list. Semicolons separate as commas do.
pub fn parse(text: &[u8]) -> Option<Vec<Mailbox>> {
    let mut reader =
        Reader { rest: text, list: Vec::new(), tokens: Vec::new(), angle: None, in_group: false };
    reader.run()?;
    Some(reader.list)
}

/// A list as a field body, for folding.
pub fn compile<'a>(mailboxes: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let written: Vec<String> = mailboxes
        .into_iter()
        .map(|(name, address)| {
            let address = escaped_address(address);
            let name: String = name.chars().filter(|c| !c.is_control()).collect();
            if name.is_empty() { address } else { format!("{} <{address}>", words::phrase(&name)) }
        })
        .collect();
    written.join(", ")
}

/// A local part as it stands in front of an `@`: quoted unless it is a dot-string (RFC 5321 4.1.2).
pub fn escaped_localpart(localpart: &str) -> String {
    if localpart.is_empty() {
        return String::new();
    }
    crate::Address { localpart: localpart.to_owned(), domain: String::new() }.to_string()
}

/// An envelope address in its parts, the local part unquoted; `None` if it is no RFC 5321 mailbox. Empty is the null
/// sender.
pub fn envelope_parts(text: &str) -> Option<(String, String)> {
    if text.is_empty() {
        return Some((String::new(), String::new()));
    }
    let parsed = crate::Address::parse(text).ok()?;
    let domain = text.rsplit_once('@')?.1;
    let special = |c: char| "()<>[]:;@,".contains(c);
    let atoms = |local: &str| local.split('.').all(|atom| !atom.is_empty() && !atom.contains(special));
    if parsed.domain.is_empty() || (!text.starts_with('"') && !atoms(&parsed.localpart)) {
        return None;
    }
    Some((parsed.localpart, domain.to_owned()))
}

fn escaped_address(address: &str) -> String {
    let clean: String = address.chars().filter(|c| !c.is_control()).collect();
    match clean.rsplit_once('@') {
        Some((local, domain)) if !local.starts_with('"') => {
            let domain: String = domain.chars().filter(|c| !" <>,;\"".contains(*c)).collect();
            format!("{}@{domain}", escaped_localpart(local))
        }
        Some(_) => clean,
        None => escaped_localpart(&clean),
    }
}

enum Token {
    /// Characters up to the next special one; `@`, `.` and domain literals included.
    Atom(Vec<u8>),
    /// A quoted string: as written and unquoted.
    Quoted(Vec<u8>, Vec<u8>),
}

struct Reader<'a> {
    rest: &'a [u8],
    list: Vec<Mailbox>,
    tokens: Vec<Token>,
    angle: Option<String>,
    in_group: bool,
}

impl Reader<'_> {
    fn run(&mut self) -> Option<()> {
        loop {
            self.skip_white_space()?;
            let Some(&first) = self.rest.first() else { break };
            match first {
                b',' | b';' => {
                    self.rest = &self.rest[1..];
                    self.finish()?;
                    self.in_group &= first == b',';
                }
                b':' if !self.tokens.is_empty() && self.angle.is_none() && !self.in_group => {
                    // What was read is the name of a group.
                    self.rest = &self.rest[1..];
                    self.tokens.clear();
                    self.in_group = true;
                }
                b'<' if self.angle.is_none() => {
                    self.rest = &self.rest[1..];
                    self.angle = Some(self.angle_address()?);
                }
                // Nothing but the end may follow an address in angle brackets.
                _ if self.angle.is_some() => return None,
                b'"' => {
                    let token = self.quoted()?;
                    self.tokens.push(token);
                }
                b'>' | b')' | b'<' | b':' | b'\\' => return None,
                _ => {
                    let token = self.atom()?;
                    self.tokens.push(token);
                }
            }
        }
        self.finish()
    }

    /// Ends one address.
    fn finish(&mut self) -> Option<()> {
        let tokens = std::mem::take(&mut self.tokens);
        let mailbox = match self.angle.take() {
            Some(address) => Mailbox { name: name(&tokens), address },
            None if tokens.is_empty() => return Some(()),
            None => Mailbox { name: String::new(), address: address(&tokens)? },
        };
        if self.list.len() >= MAILBOXES_MAX {
            return None;
        }
        self.list.push(mailbox);
        Some(())
    }

    /// Skips white space and comments.
    fn skip_white_space(&mut self) -> Option<()> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if self.rest.first() != Some(&b'(') {
                return Some(());
            }
            let (mut depth, mut at) = (0_usize, 0);
            loop {
                match self.rest.get(at)? {
                    b'\\' => at += 1,
                    b'(' => depth += 1,
                    b')' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    break;
                }
                if depth > COMMENT_DEPTH_MAX {
                    return None;
                }
            }
            self.rest = self.rest.get(at..)?;
        }
    }

    fn quoted(&mut self) -> Option<Token> {
        let mut plain = Vec::new();
        let mut at = 1;
        loop {
            match self.rest.get(at)? {
                b'"' => break,
                b'\\' => {
                    at += 1;
                    plain.push(*self.rest.get(at)?);
                }
                b'\r' | b'\n' => {}
                b => plain.push(*b),
            }
            at += 1;
        }
        let raw = self.rest[..=at].iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        self.rest = &self.rest[at + 1..];
        Some(Token::Quoted(raw, plain))
    }

    fn atom(&mut self) -> Option<Token> {
        let mut at = 0;
        while let Some(&b) = self.rest.get(at) {
            if b == b'[' {
                // A domain literal, specials and all.
                at += memchr::memchr(b']', &self.rest[at..])? + 1;
                continue;
            }
            if b.is_ascii_whitespace() || b"\"(),:;<>\\".contains(&b) {
                break;
            }
            at += 1;
        }
        let text = self.rest[..at].to_vec();
        self.rest = &self.rest[at..];
        (!text.is_empty()).then_some(Token::Atom(text))
    }

    /// What stands between `<` and `>`, a route left out; the opening bracket is read.
    fn angle_address(&mut self) -> Option<String> {
        let mut tokens = Vec::new();
        loop {
            self.skip_white_space()?;
            match self.rest.first()? {
                b'>' => break,
                b'"' => tokens.push(self.quoted()?),
                // The obsolete route: `@a,@b:` (RFC 5322 4.4).
                b',' if matches!(tokens.first(), Some(Token::Atom(text)) if text.first() == Some(&b'@')) => {
                    self.rest = &self.rest[1..];
                }
                b':' if matches!(tokens.first(), Some(Token::Atom(text)) if text.first() == Some(&b'@')) => {
                    self.rest = &self.rest[1..];
                    tokens.clear();
                }
                _ => tokens.push(self.atom()?),
            }
        }
        self.rest = &self.rest[1..];
        if tokens.is_empty() { Some(String::new()) } else { address(&tokens) }
    }
}

/// Tokens as an address; two words side by side are none.
fn address(tokens: &[Token]) -> Option<String> {
    let mut out: Vec<u8> = Vec::new();
    for token in tokens {
        let text = match token {
            Token::Atom(text) => text,
            Token::Quoted(raw, _) => raw,
        };
        let joins = |b: Option<&u8>| matches!(b, None | Some(b'@' | b'.'));
        if !out.is_empty() && !joins(out.last()) && !joins(text.first()) {
            return None;
        }
        out.extend_from_slice(text);
    }
    Some(words::text(&out))
}

fn name(tokens: &[Token]) -> String {
    let mut out: Vec<u8> = Vec::new();
    for token in tokens {
        if !out.is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(match token {
            Token::Atom(text) => text,
            Token::Quoted(_, plain) => plain,
        });
    }
    words::decode(&out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Option<Vec<String>> {
        Some(parse(text.as_bytes())?.into_iter().map(|one| format!("{}|{}", one.name, one.address)).collect())
    }

    #[test]
    fn lists() {
        let cases: &[(&str, Option<&[&str]>)] = &[
            ("", Some(&[])),
            (" , ;", Some(&[])),
            ("a@b", Some(&["|a@b"])),
            ("A B <a@b>, \"C, D\" <c@d>; e", Some(&["A B|a@b", "C, D|c@d", "|e"])),
            ("G: a@b, C <c@d>; e@f", Some(&["|a@b", "C|c@d", "|e@f"])),
            ("undisclosed-recipients:;", Some(&[])),
            ("(x (y) \\) z) a . b (q) @ c . d", Some(&["|a.b@c.d"])),
            ("\"a b\"@c, <\"x\"@[IPv6:::1]>", Some(&["|\"a b\"@c", "|\"x\"@[IPv6:::1]"])),
            ("A <@x,@y:a@b>", Some(&["A|a@b"])),
            ("=?utf-8?Q?=C3=A9?= B. <a@b>", Some(&["\u{e9} B.|a@b"])),
            ("<>", Some(&["|"])),
            ("A B", None),
            ("A <a@b", None),
            ("a@b>", None),
            ("\"a@b", None),
            ("(a@b", None),
            ("A <a@b> c", None),
            ("a: b: c@d;", None),
        ];
        for (text, expected) in cases {
            let expected =
                expected.map(|list| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn compiled() {
        let list = compile([
            ("A", "a@b"),
            ("", "c d@e"),
            ("F, G", "h@i"),
            ("\u{e9}", "j"),
            ("k\r\nBcc: x", "l>\r\nm@n"),
        ]);
        assert_eq!(list, "A <a@b>, \"c d\"@e, \"F, G\" <h@i>, =?UTF-8?B?w6k=?= <j>, \"kBcc: x\" <\"l>m\"@n>");
        assert_eq!(envelope_parts("\"a@b\"@C.d"), Some(("a@b".into(), "C.d".into())));
        assert_eq!(envelope_parts("a@b@c"), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'<'), Just(b'"'), Just(b'('), Just(b'@'), Just(b','), Just(b'['), Just(b'\\')], 0..100)) {
            parse(&text);
        }

        #[test]
        fn what_is_compiled_reads_back(list in prop::collection::vec(("[ -~\u{e9}\u{20ac}]{0,12}", "[a-z.\"]{1,6}", "[a-z]{1,4}"), 0..5)) {
            let pairs: Vec<(String, String)> = list
                .into_iter()
                .map(|(name, local, domain)| (name.trim().to_owned(), format!("{}@{domain}", escaped_localpart(&local))))
                .filter(|(name, _)| !name.contains("=?") && !name.contains("  "))
                .collect();
            let text = compile(pairs.iter().map(|(name, address)| (&**name, &**address)));
            let read = parse(text.as_bytes()).unwrap();
            let read: Vec<(String, String)> = read.into_iter().map(|one| (one.name, one.address)).collect();
            prop_assert_eq!(read, pairs, "{}", text);
        }
    }

    #[test]
    fn hostile_lists_are_fast() {
        let began = std::time::Instant::now();
        for text in [
            "(".repeat(1 << 20),
            "<@a,".repeat(1 << 18),
            "[".repeat(1 << 20),
            "a:".repeat(1 << 19),
            "a,".repeat(1 << 20),
        ] {
            parse(text.as_bytes());
        }
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }
}
