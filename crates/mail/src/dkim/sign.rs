//! Making signatures.

use base64::Engine as _;

use super::{Algorithm, BodyHasher, Canonicalization, SigningKey};
use crate::{Content, HeaderIndex, MailError, content::for_each_chunk, mime::Tree};

/// Fields signed unless others are named: RFC 6376 5.4.1.
pub const DEFAULT_HEADERS: [&str; 21] = [
    "From",
    "Reply-To",
    "Subject",
    "Date",
    "To",
    "Cc",
    "Resent-Date",
    "Resent-From",
    "Resent-To",
    "Resent-Cc",
    "In-Reply-To",
    "References",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "Message-ID",
    "MIME-Version",
];

/// The instance of an ARC-Message-Signature.
pub type ArcInstance = u32;

/// What a signature says.
#[derive(Clone, Debug)]
pub struct SignOptions {
    /// `s=`.
    pub selector: String,
    /// `d=`.
    pub domain: String,
    /// Of the header.
    pub header: Canonicalization,
    /// Of the body.
    pub body: Canonicalization,
    /// `a=`; that of the key if absent.
    pub algorithm: Option<Algorithm>,
    /// Names to sign; [`DEFAULT_HEADERS`] if absent.
    pub headers: Option<Vec<String>>,
    /// Further names.
    pub additional_headers: Vec<String>,
    /// Names listed once more than there are fields, so that none can be added.
    pub oversign_headers: Vec<String>,
    /// `t=`.
    pub timestamp_s: Option<u64>,
    /// `x=`.
    pub expiration_s: Option<u64>,
    /// `i=`.
    pub identity: Option<String>,
    /// `l=`.
    pub body_length: Option<u64>,
    /// Makes an ARC-Message-Signature (RFC 8617 4.1.2) of that instance.
    pub arc: Option<ArcInstance>,
}

impl SignOptions {
    /// For a selector and a domain, all else at its default.
    pub fn new(selector: &str, domain: &str) -> Self {
        Self {
            selector: selector.to_owned(),
            domain: domain.to_owned(),
            header: Canonicalization::Relaxed,
            body: Canonicalization::Relaxed,
            algorithm: None,
            headers: None,
            additional_headers: Vec::new(),
            oversign_headers: vec!["from".to_owned()],
            timestamp_s: None,
            expiration_s: None,
            identity: None,
            body_length: None,
            arc: None,
        }
    }

    /// The field that the signature goes into.
    pub fn field_name(&self) -> &'static str {
        if self.arc.is_some() { "ARC-Message-Signature" } else { "DKIM-Signature" }
    }

    /// The names for `h=`, in order, repeated as often as there are fields.
    fn names(&self, header: &HeaderIndex) -> Vec<String> {
        let mut names: Vec<String> = match &self.headers {
            Some(names) => names.clone(),
            None => DEFAULT_HEADERS
                .iter()
                .map(|name| (*name).to_owned())
                .chain(["Content-Type".to_owned(), "Content-Transfer-Encoding".to_owned()])
                .filter(|name| header.named(name).next().is_some())
                .collect(),
        };
        names.extend(self.additional_headers.iter().cloned());
        let mut list: Vec<String> = Vec::new();
        for name in names.into_iter().chain(self.oversign_headers.iter().cloned()) {
            let name = name.trim().to_ascii_lowercase();
            // A signature must not cover itself (RFC 6376 5.4); names that are none are left out.
            let legal = !name.is_empty() && name.bytes().all(|b| matches!(b, 33..=57 | 60..=126));
            if !legal || list.contains(&name) || name.eq_ignore_ascii_case(self.field_name()) {
                continue;
            }
            let times = header.named(&name).count();
            let over = self.oversign_headers.iter().any(|known| known.trim().eq_ignore_ascii_case(&name));
            let listed = self
                .headers
                .as_ref()
                .is_some_and(|names| names.iter().any(|n| n.trim().eq_ignore_ascii_case(&name)));
            let total = (times + usize::from(over)).max(usize::from(listed));
            list.extend(std::iter::repeat_n(name, total));
        }
        list
    }
}

/// Signs a message; gives the value of the field, folded.
///
/// # Errors
/// Reading the message failed, or the key is not for the algorithm.
pub fn sign(content: &dyn Content, key: &SigningKey, options: &SignOptions) -> Result<String, MailError> {
    let algorithm = options.algorithm.unwrap_or_else(|| key.algorithm());
    check_words(options)?;
    let header = HeaderIndex::read(content)?;
    let failed = |error: openssl::error::ErrorStack| MailError::Crypto(format!("hashing: {error}"));
    let body = Tree::root_only(content)?.body();
    let mut hasher =
        BodyHasher::new(algorithm.digest(), options.body, options.body_length).map_err(failed)?;
    for_each_chunk(content, body, |piece| hasher.update(piece).map_err(failed))?;
    let (digest, octets) = hasher.finish().map_err(failed)?;
    if options.body_length.is_some_and(|limit| limit > octets) {
        return Err(MailError::Crypto(format!("body_length is more than the {octets} octets of the body")));
    }
    let names = options.names(&header);
    let mut value = first_tags(options, algorithm);
    value.push_str(&folded_list("h", &names));
    value.push_str(&format!(
        ";\r\n\tbh={};\r\n\tb=",
        base64::engine::general_purpose::STANDARD.encode(digest)
    ));
    let mut data = super::hash_header(&header, &names, options.header);
    let field = format!("{}: {value}", options.field_name());
    options.header.field(field.as_bytes(), &mut data);
    data.truncate(data.len() - 2);
    let signature = key.sign(algorithm, &data)?;
    value.push_str(&fold_base64(&signature));
    Ok(value)
}

/// Base64 in lines that fit a folded field.
pub(crate) fn fold_base64(bytes: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    let lines: Vec<String> =
        text.as_bytes().chunks(70).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    lines.join("\r\n\t ")
}

fn first_tags(options: &SignOptions, algorithm: Algorithm) -> String {
    let mut value = match options.arc {
        Some(instance) => format!("i={instance}; "),
        None => "v=1; ".to_owned(),
    };
    value.push_str(&format!(
        "a={}; c={}/{};\r\n\td={}; s={};\r\n\t",
        algorithm.name(),
        options.header.name(),
        options.body.name(),
        options.domain,
        options.selector
    ));
    if let Some(time) = options.timestamp_s {
        value.push_str(&format!("t={time}; "));
    }
    if let Some(time) = options.expiration_s {
        value.push_str(&format!("x={time}; "));
    }
    if let Some(length) = options.body_length {
        value.push_str(&format!("l={length}; "));
    }
    if let Some(identity) = options.identity.as_ref().filter(|_| options.arc.is_none()) {
        value.push_str(&format!("i={identity}; "));
    }
    if !value.ends_with('\t') {
        value.truncate(value.trim_end().len());
        value.push_str("\r\n\t");
    }
    value
}

fn folded_list(tag: &str, names: &[String]) -> String {
    let mut out = format!("{tag}=");
    let mut column = out.len() + 8;
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            out.push(':');
            column += 1;
        }
        if column + name.len() > 74 && index > 0 {
            out.push_str("\r\n\t ");
            column = 9;
        }
        out.push_str(name);
        column += name.len();
    }
    out
}

/// What goes into the field must not be able to end a tag.
fn check_words(options: &SignOptions) -> Result<(), MailError> {
    let words = [Some(&options.selector), Some(&options.domain), options.identity.as_ref()];
    for word in words.into_iter().flatten() {
        let legal = !word.is_empty() && word.bytes().all(|b| b > b' ' && b != b';' && b != 0x7f);
        if !legal {
            return Err(MailError::Crypto(format!(
                "'{}' cannot be part of a signature",
                word.escape_debug()
            )));
        }
    }
    Ok(())
}
