//! Checking signatures (RFC 6376 6.1).

use base64::Engine as _;

use super::{Algorithm, BodyHasher, Canonicalization, PublicKey, TagList};
use crate::{Content, HeaderIndex, MailError, content::for_each_chunk, mime::Tree};

/// Which field a signature stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureKind {
    /// DKIM-Signature.
    Dkim,
    /// ARC-Message-Signature (RFC 8617 4.1.2): `i=` is its instance, and there is no `v=`.
    Arc,
}

/// Why a signature does not hold, once and for all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The signature holds.
    Pass,
    /// It does not, and never will.
    PermError(String),
    /// It could not be checked now.
    TempError(String),
}

/// A parsed signature field.
#[derive(Clone, Debug)]
pub struct Signature {
    raw: Vec<u8>,
    value_start: usize,
    tags: TagList,
    algorithm: Algorithm,
    header: Canonicalization,
    body: Canonicalization,
    domain: String,
    selector: String,
    names: Vec<String>,
    signature: Vec<u8>,
    body_hash: Vec<u8>,
    length: Option<u64>,
    expires_s: Option<u64>,
    identity_domain: String,
}

impl Signature {
    /// Reads a whole DKIM-Signature field, name included.
    ///
    /// # Errors
    /// What the field says cannot be a signature.
    pub fn parse(field: &[u8]) -> Result<Self, Failure> {
        Self::parse_kind(field, SignatureKind::Dkim)
    }

    /// The tags of a field, name included, if it is a tag list.
    pub fn tags_of(field: &[u8]) -> Option<TagList> {
        let colon = memchr::memchr(b':', field)?;
        TagList::parse(&field[colon + 1..])
    }

    pub(crate) fn parse_kind(field: &[u8], kind: SignatureKind) -> Result<Self, Failure> {
        let fail = |text: &str| Failure(text.to_owned());
        let colon = memchr::memchr(b':', field).ok_or_else(|| fail("no header field"))?;
        let tags = TagList::parse(&field[colon + 1..]).ok_or_else(|| fail("no tag list"))?;
        let need = |name: &str| tags.word(name).ok_or_else(|| Failure(format!("tag {name}= is missing")));
        let decoded = |name: &str| {
            let text = need(name)?;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|_| Failure(format!("tag {name}= is not base64")))
        };
        let number = |name: &str| match tags.number(name) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(())) => Err(Failure(format!("tag {name}= is no number"))),
        };
        if kind == SignatureKind::Dkim && need("v")? != "1" {
            return Err(fail("unknown version"));
        }
        let name = need("a")?;
        let algorithm =
            Algorithm::from_name(&name).ok_or_else(|| Failure(format!("unknown algorithm {name}")))?;
        let modes = tags.word("c").unwrap_or_else(|| "simple/simple".to_owned());
        let (header, body) = modes.split_once('/').unwrap_or((&modes, "simple"));
        let mode = |name| Canonicalization::from_name(name).ok_or_else(|| fail("unknown canonicalization"));
        let (header, body) = (mode(header)?, mode(body)?);
        let domain = need("d")?.to_lowercase();
        let selector = need("s")?;
        if domain.is_empty() || selector.is_empty() {
            return Err(fail("domain or selector is empty"));
        }
        let names: Vec<String> = need("h")?.split(':').map(str::to_ascii_lowercase).collect();
        if kind == SignatureKind::Dkim && !names.iter().any(|name| name == "from") {
            return Err(fail("From is not signed"));
        }
        if kind == SignatureKind::Arc && names.iter().any(|name| name == "arc-seal") {
            return Err(fail("ARC-Seal must not be signed"));
        }
        let methods = tags.word("q").unwrap_or_else(|| "dns/txt".to_owned());
        if !methods.split(':').any(|method| method.eq_ignore_ascii_case("dns/txt")) {
            return Err(fail("unknown query method"));
        }
        let mut identity_domain = domain.clone();
        if kind == SignatureKind::Arc {
            let i = number("i")?.and_then(|i| u32::try_from(i).ok()).filter(|i| (1..=50).contains(i));
            if i.is_none() {
                return Err(fail("no instance"));
            }
        } else if let Some(identity) = tags.word("i") {
            identity_domain = identity.rsplit('@').next().unwrap_or_default().to_lowercase();
            let inside = identity_domain == domain || identity_domain.ends_with(&format!(".{domain}"));
            if !identity.contains('@') || !inside {
                return Err(fail("identity is not in the domain"));
            }
        }
        let (signed_s, expires_s) = (number("t")?, number("x")?);
        if signed_s.zip(expires_s).is_some_and(|(signed, expires)| expires <= signed) {
            return Err(fail("expires before it is signed"));
        }
        Ok(Self {
            raw: field.to_vec(),
            value_start: colon + 1,
            algorithm,
            header,
            body,
            selector,
            names,
            signature: decoded("b")?,
            body_hash: decoded("bh")?,
            length: number("l")?,
            expires_s,
            identity_domain,
            domain,
            tags,
        })
    }

    /// The tags.
    pub fn tags(&self) -> &TagList {
        &self.tags
    }

    /// `d=`, lower case.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `s=`.
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// The name whose TXT record holds the key.
    pub fn key_name(&self) -> String {
        let domain = idna::domain_to_ascii(&self.domain).unwrap_or_else(|_| self.domain.clone());
        format!("{}._domainkey.{domain}", self.selector)
    }

    /// Checks the signature over a message with the key record.
    ///
    /// # Errors
    /// Reading the message failed.
    pub fn verify(&self, content: &dyn Content, record: &[u8], now_s: u64) -> Result<Verdict, MailError> {
        let key = match PublicKey::parse(record) {
            Ok(key) => key,
            Err(error) => return Ok(Verdict::PermError(error.to_string())),
        };
        Ok(match self.check(content, &key, now_s)? {
            Ok(()) => Verdict::Pass,
            Err(failure) => Verdict::PermError(failure.0),
        })
    }

    fn check(
        &self,
        content: &dyn Content,
        key: &PublicKey,
        now_s: u64,
    ) -> Result<Result<(), Failure>, MailError> {
        let fail = |text: &str| Ok(Err(Failure(text.to_owned())));
        if self.expires_s.is_some_and(|expires| expires <= now_s) {
            return fail("signature has expired");
        }
        if !key.allows(self.algorithm) {
            return fail("the key is not for this algorithm or not for mail");
        }
        if key.strict && self.identity_domain != self.domain {
            return fail("the key does not allow identities in subdomains");
        }
        let header = HeaderIndex::read(content)?;
        let mut data = hash_header(&header, &self.names, self.header);
        self.header.field(&self.without_signature(), &mut data);
        data.truncate(data.len() - 2);
        // The cheap check first.
        if !key.verify(self.algorithm, &data, &self.signature) {
            return fail("signature does not match");
        }
        let failed = |error: openssl::error::ErrorStack| MailError::Crypto(format!("hashing: {error}"));
        let mut hasher = BodyHasher::new(self.algorithm.digest(), self.body, self.length).map_err(failed)?;
        let body = Tree::root_only(content)?.body();
        for_each_chunk(content, body, |piece| hasher.update(piece).map_err(failed))?;
        let (digest, octets) = hasher.finish().map_err(failed)?;
        if self.length.is_some_and(|length| length > octets) {
            return fail("body is shorter than what was signed");
        }
        if digest != self.body_hash {
            return fail("body hash does not match");
        }
        Ok(Ok(()))
    }

    /// The field with an empty `b=`.
    fn without_signature(&self) -> Vec<u8> {
        without_value(&self.raw, self.value_start, &self.tags)
    }
}

/// A field with an empty value of `b=` (RFC 6376 3.7).
pub(crate) fn without_value(raw: &[u8], value_start: usize, tags: &TagList) -> Vec<u8> {
    let Some(tag) = tags.tag("b") else { return raw.to_vec() };
    let (from, to) = (value_start + tag.place.start, value_start + tag.place.end);
    let tail = &raw[to..];
    let mut out = raw[..from].to_vec();
    // The line end of the field is not part of the value.
    if !tail.is_empty() {
        out.extend_from_slice(tail);
    }
    while out.ends_with(b"\n") || out.ends_with(b"\r") {
        out.pop();
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// The canonical fields of `names`: of each name from the bottom up, missing ones left out (RFC 6376 5.4.2).
pub(crate) fn hash_header(header: &HeaderIndex, names: &[String], mode: Canonicalization) -> Vec<u8> {
    let mut by_name: std::collections::HashMap<Vec<u8>, Vec<&crate::header::Field>> =
        std::collections::HashMap::new();
    for field in header.fields() {
        by_name.entry(header.name(field).to_ascii_lowercase()).or_default().push(field);
    }
    let mut out = Vec::new();
    for name in names {
        if let Some(field) = by_name.get_mut(name.as_bytes()).and_then(Vec::pop) {
            mode.field(header.raw(field), &mut out);
        }
    }
    out
}
