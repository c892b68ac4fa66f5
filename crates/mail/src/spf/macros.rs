//! Macros in policies (RFC 7208 7).

use std::net::IpAddr;

/// What macros stand for.
pub(super) struct Context<'a> {
    pub(super) localpart: &'a str,
    pub(super) sender_domain: &'a str,
    pub(super) domain: &'a str,
    pub(super) ip: IpAddr,
    pub(super) validated: &'a str,
    pub(super) helo: &'a str,
    pub(super) hostname: &'a str,
    pub(super) now_s: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Macro { letter: char, keep: usize, reverse: bool, delimiters: String, escape: bool },
}

/// A parsed macro-string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MacroString(Vec<Piece>);

impl MacroString {
    /// A domain-spec: a macro-string that ends with a top label or a macro.
    pub(super) fn parse_domain(text: &str) -> Result<Self, String> {
        let parsed = Self::parse(text, "slodiphv", false)?;
        let ends_well = match parsed.0.last() {
            Some(Piece::Macro { .. }) => true,
            Some(Piece::Text(text)) => {
                let text = text.strip_suffix('.').unwrap_or(text);
                text.rsplit_once('.').is_some_and(|(_, label)| is_top_label(label))
            }
            None => false,
        };
        if ends_well { Ok(parsed) } else { Err(format!("'{text}' is no domain")) }
    }

    /// The value of a modifier.
    pub(super) fn parse_value(text: &str) -> Result<Self, String> {
        Self::parse(text, "slodiphv", false)
    }

    /// The text of an explanation, which may hold spaces and further macros.
    pub(super) fn parse_explanation(text: &str) -> Result<Self, String> {
        Self::parse(text, "slodiphvcrt", true)
    }

    fn parse(text: &str, letters: &str, spaces: bool) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{what} in '{text}'"));
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                if !(c.is_ascii_graphic() || (spaces && c == ' ')) {
                    return wrong("illegal character");
                }
                plain.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => plain.push('%'),
                Some('_') => plain.push(' '),
                Some('-') => plain.push_str("%20"),
                Some('{') => {
                    let Some((inside, _)) = chars.as_str().split_once('}') else {
                        return wrong("unclosed macro");
                    };
                    let piece =
                        macro_piece(inside, letters).ok_or_else(|| format!("bad macro in '{text}'"))?;
                    chars = chars.as_str()[inside.len() + 1..].chars();
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(piece);
                }
                _ => return wrong("bad macro"),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    pub(super) fn needs_validated_name(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Macro { letter: 'p', .. }))
    }

    pub(super) fn expand(&self, context: &Context<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Macro { letter, keep, reverse, delimiters, escape } => {
                    let value = value(*letter, context);
                    let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
                    if *reverse {
                        parts.reverse();
                    }
                    let skip = parts.len().saturating_sub(*keep);
                    let text = parts[skip..].join(".");
                    if *escape { push_escaped(&mut out, &text) } else { out.push_str(&text) }
                }
            }
        }
        out
    }
}

fn macro_piece(inside: &str, letters: &str) -> Option<Piece> {
    let mut chars = inside.chars();
    let letter = chars.next()?;
    let lower = letter.to_ascii_lowercase();
    if !letters.contains(lower) {
        return None;
    }
    let rest = chars.as_str();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let keep =
        if digits == 0 { usize::MAX } else { rest[..digits].parse::<u32>().unwrap_or(u32::MAX) as usize };
    if keep == 0 {
        return None;
    }
    let rest = &rest[digits..];
    let (reverse, rest) = match rest.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if !rest.chars().all(|c| ".-+,/_=".contains(c)) {
        return None;
    }
    let delimiters = if rest.is_empty() { ".".to_owned() } else { rest.to_owned() };
    Some(Piece::Macro { letter: lower, keep, reverse, delimiters, escape: letter.is_ascii_uppercase() })
}

fn value(letter: char, context: &Context<'_>) -> String {
    match letter {
        's' => format!("{}@{}", context.localpart, context.sender_domain),
        'l' => context.localpart.to_owned(),
        'o' => context.sender_domain.to_owned(),
        'd' => context.domain.to_owned(),
        'i' => match context.ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => {
                let nibbles =
                    ip.octets().into_iter().flat_map(|o| [o >> 4, o & 15]).map(|n| format!("{n:X}"));
                nibbles.collect::<Vec<_>>().join(".")
            }
        },
        'p' => context.validated.to_owned(),
        'h' => context.helo.to_owned(),
        'v' => if context.ip.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
        'c' => context.ip.to_string(),
        'r' => if context.hostname.is_empty() { "unknown" } else { context.hostname }.to_owned(),
        't' => context.now_s.to_string(),
        // Only letters of the list are parsed.
        _ => String::new(),
    }
}

fn push_escaped(out: &mut String, text: &str) {
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
}

/// RFC 7208 7.1 `toplabel`: letters, digits and inner hyphens, not all digits.
fn is_top_label(label: &str) -> bool {
    let legal = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    legal
        && !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().any(|b| b.is_ascii_alphabetic() || b == b'-')
}
