//! The ESMTP extensions of a session and the parameters they allow. RFC 1869, 1870, 6152, 6531, 3461.

use super::command::Parameter;
use std::sync::Arc;

/// Facts taken from valid MAIL parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailFacts {
    /// `SIZE=`, octets.
    pub size: Option<u64>,
    /// `SMTPUTF8` was given.
    pub smtputf8: bool,
    /// `BODY=BINARYMIME` was given.
    pub binary: bool,
}

/// Why a parameter is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParameterError {
    /// Not announced, 555 5.5.4.
    Unknown(String),
    /// Value out of form, 501 5.5.4.
    Value(String),
    /// `SIZE=` over the limit, 552 5.3.4.
    TooLarge,
}

/// The effective extension set of a session: the items of the EHLO reply in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Shared: an idle session costs no copy of it.
    items: Arc<[String]>,
}

/// Items whose parameters have rules of their own; any other item allows unknown parameters.
const BUILT_IN: [&str; 11] = [
    "PIPELINING",
    "SIZE",
    "STARTTLS",
    "AUTH",
    "8BITMIME",
    "SMTPUTF8",
    "CHUNKING",
    "BINARYMIME",
    "ENHANCEDSTATUSCODES",
    "DSN",
    "LIMITS",
];

impl Extensions {
    /// A set from its EHLO lines; lines with control bytes are dropped, CR and LF cannot be announced.
    pub fn new(items: impl IntoIterator<Item = String>) -> Extensions {
        let items = items
            .into_iter()
            .filter(|item| !item.is_empty() && !item.bytes().any(|b| b < b' ' || b == 0x7f))
            .collect();
        Extensions { items }
    }

    /// The lines in the order of announcement.
    pub fn items(&self) -> &[String] {
        &self.items
    }

    /// True when the keyword (first word of a line) is in the set; keywords compare without case.
    pub fn has(&self, keyword: &str) -> bool {
        self.items
            .iter()
            .any(|item| item.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)))
    }

    /// The words behind a keyword, of all its lines; none when it is not in the set.
    pub fn arguments(&self, keyword: &str) -> Option<Vec<&str>> {
        let mut found = None;
        for item in &*self.items {
            let mut words = item.split(' ').filter(|word| !word.is_empty());
            if words.next().is_some_and(|word| word.eq_ignore_ascii_case(keyword)) {
                found.get_or_insert_with(Vec::new).extend(words);
            }
        }
        found
    }

    /// The set without some keywords.
    pub fn without(&self, keywords: &[&str]) -> Extensions {
        if keywords.is_empty() {
            return self.clone();
        }
        let kept = self.items.iter().filter(|item| {
            let word = item.split(' ').next().unwrap_or_default();
            !keywords.iter().any(|keyword| keyword.eq_ignore_ascii_case(word))
        });
        Extensions { items: kept.cloned().collect() }
    }

    fn has_foreign(&self) -> bool {
        self.items.iter().any(|item| {
            let word = item.split(' ').next().unwrap_or_default();
            !BUILT_IN.iter().any(|known| known.eq_ignore_ascii_case(word))
        })
    }

    pub(super) fn check_mail(
        &self,
        parameters: &[Parameter],
        size_max: u64,
    ) -> Result<MailFacts, ParameterError> {
        let mut facts = MailFacts::default();
        for (keyword, value) in parameters {
            let bad = || Err(ParameterError::Value(keyword.clone()));
            match keyword.as_str() {
                "SIZE" if self.has("SIZE") => {
                    if value.is_empty() || value.len() > 20 || !value.bytes().all(|b| b.is_ascii_digit()) {
                        return bad();
                    }
                    let size = value.parse().unwrap_or(u64::MAX);
                    if size_max > 0 && size > size_max {
                        return Err(ParameterError::TooLarge);
                    }
                    facts.size = Some(size);
                }
                "BODY" if value.eq_ignore_ascii_case("BINARYMIME") && self.has("BINARYMIME") => {
                    if !self.has("CHUNKING") {
                        return bad();
                    }
                    facts.binary = true;
                }
                "BODY" if self.has("8BITMIME") => {
                    if !value.eq_ignore_ascii_case("7BIT") && !value.eq_ignore_ascii_case("8BITMIME") {
                        return bad();
                    }
                }
                "SMTPUTF8" if self.has("SMTPUTF8") => {
                    if !value.is_empty() {
                        return bad();
                    }
                    facts.smtputf8 = true;
                }
                "AUTH" if self.has("AUTH") => {
                    if !is_xtext(value) {
                        return bad();
                    }
                }
                "RET" if self.has("DSN") => {
                    if !value.eq_ignore_ascii_case("FULL") && !value.eq_ignore_ascii_case("HDRS") {
                        return bad();
                    }
                }
                "ENVID" if self.has("DSN") => {
                    if value.is_empty() || value.len() > 100 || !is_xtext(value) {
                        return bad();
                    }
                }
                "SIZE" | "BODY" | "SMTPUTF8" | "AUTH" | "RET" | "ENVID" => {
                    return Err(ParameterError::Unknown(keyword.clone()));
                }
                _ if self.has_foreign() => {}
                _ => return Err(ParameterError::Unknown(keyword.clone())),
            }
        }
        Ok(facts)
    }

    pub(super) fn check_rcpt(&self, parameters: &[Parameter]) -> Result<(), ParameterError> {
        for (keyword, value) in parameters {
            match keyword.as_str() {
                "NOTIFY" | "ORCPT" if !self.has("DSN") => {
                    return Err(ParameterError::Unknown(keyword.clone()));
                }
                "NOTIFY" if !is_notify(value) => return Err(ParameterError::Value(keyword.clone())),
                "ORCPT" if !is_orcpt(value) => return Err(ParameterError::Value(keyword.clone())),
                "NOTIFY" | "ORCPT" => {}
                _ if self.has_foreign() => {}
                _ => return Err(ParameterError::Unknown(keyword.clone())),
            }
        }
        Ok(())
    }
}

/// xtext of RFC 3461 4: printable ASCII without `+` and `=`, or `+` and two upper-case hexadecimal digits.
fn is_xtext(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                for _ in 0..2 {
                    if !bytes.next().is_some_and(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
                        return false;
                    }
                }
            }
            b'!'..=b'~' if byte != b'=' => {}
            _ => return false,
        }
    }
    true
}

/// NOTIFY of RFC 3461 4.1: NEVER alone, or a list of SUCCESS, FAILURE, DELAY.
fn is_notify(value: &str) -> bool {
    value.eq_ignore_ascii_case("NEVER")
        || (!value.is_empty()
            && value.split(',').all(|word| {
                ["SUCCESS", "FAILURE", "DELAY"].iter().any(|known| known.eq_ignore_ascii_case(word))
            }))
}

/// ORCPT of RFC 3461 4.2: `type;xtext`, at most 500 octets.
fn is_orcpt(value: &str) -> bool {
    value.len() <= 500
        && value.split_once(';').is_some_and(|(kind, address)| {
            !kind.is_empty()
                && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !address.is_empty()
                && is_xtext(address)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(items: &[&str]) -> Extensions {
        Extensions::new(items.iter().map(|&item| item.to_owned()))
    }

    fn parameters(text: &str) -> Vec<Parameter> {
        text.split_whitespace()
            .map(|word| word.split_once('=').unwrap_or((word, "")))
            .map(|(keyword, value)| (keyword.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn checks_mail_parameters_against_the_set() {
        let all = set(&["SIZE 100", "8BITMIME", "SMTPUTF8", "DSN"]);
        let facts = all.check_mail(&parameters("SIZE=100 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb"), 100);
        assert_eq!(facts, Ok(MailFacts { size: Some(100), smtputf8: true, binary: false }));
        for (text, error) in [
            ("SIZE=101", ParameterError::TooLarge),
            ("SIZE=99999999999999999999", ParameterError::TooLarge),
            ("SIZE=x", ParameterError::Value("SIZE".into())),
            ("BODY=9BIT", ParameterError::Value("BODY".into())),
            ("RET=ALL", ParameterError::Value("RET".into())),
            ("ENVID=a+2", ParameterError::Value("ENVID".into())),
            ("FOO=1", ParameterError::Unknown("FOO".into())),
        ] {
            assert_eq!(all.check_mail(&parameters(text), 100), Err(error), "{text}");
        }
        let none = Extensions::default();
        for text in ["SIZE=1", "BODY=7BIT", "SMTPUTF8", "RET=HDRS"] {
            assert!(
                matches!(none.check_mail(&parameters(text), 100), Err(ParameterError::Unknown(_))),
                "{text}"
            );
        }
        assert!(set(&["XCUSTOM"]).check_mail(&parameters("FOO=1"), 100).is_ok());
    }

    #[test]
    fn checks_rcpt_parameters_against_the_set() {
        let dsn = set(&["DSN"]);
        assert!(dsn.check_rcpt(&parameters("NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b")).is_ok());
        for text in ["NOTIFY=NEVER,DELAY", "NOTIFY=", "ORCPT=a@b", "ORCPT=rfc822;"] {
            assert!(matches!(dsn.check_rcpt(&parameters(text)), Err(ParameterError::Value(_))), "{text}");
        }
        assert!(matches!(
            Extensions::default().check_rcpt(&parameters("NOTIFY=NEVER")),
            Err(ParameterError::Unknown(_))
        ));
    }
}
