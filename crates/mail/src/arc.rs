//! Authenticated Received Chain (RFC 8617): checking the chain of a message, and adding a link to it.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Content, HeaderIndex, MailError,
    dkim::{
        Canonicalization, Failure, PublicKey, SignOptions, Signature, SignatureKind, SigningKey, TagList,
        Verdict, fold_base64, sign, without_value,
    },
    dns::DnsError,
};

/// Longest chain (RFC 8617 4.2.1).
pub const INSTANCES_MAX: u32 = 50;

/// The names of the fields of a set, in the order in which a seal covers them.
const RESULTS: &str = "ARC-Authentication-Results";
const MESSAGE_SIGNATURE: &str = "ARC-Message-Signature";
const SEAL: &str = "ARC-Seal";

/// What a chain says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainStatus {
    /// There is none.
    None,
    /// It holds.
    Pass,
    /// It does not.
    Fail(String),
    /// A key could not be had now.
    TempError(String),
}

impl ChainStatus {
    /// The word for `cv=`; a chain that could not be checked has none.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::TempError(_) => "temperror",
        }
    }
}

/// One link: three fields of the same instance.
struct Set {
    results: Vec<u8>,
    message_signature: Vec<u8>,
    seal: Vec<u8>,
    seal_tags: TagList,
}

/// The chain of a message.
pub struct Chain {
    sets: Vec<Set>,
    broken: Option<String>,
}

/// Key records by name, as the DNS gave them.
pub type Keys = HashMap<String, Result<Vec<u8>, DnsError>>;

impl Chain {
    /// Collects the sets (RFC 8617 5.2, steps 1 to 3 as far as they need no keys).
    pub fn read(header: &HeaderIndex) -> Self {
        match collect(header) {
            Ok(sets) => Self { sets, broken: None },
            Err(text) => Self { sets: Vec::new(), broken: Some(text) },
        }
    }

    /// The instance of the newest set; 0 without a chain.
    pub fn instance(&self) -> u32 {
        // No more than INSTANCES_MAX.
        self.sets.len() as u32
    }

    /// The names of the keys that [`Chain::verify`] needs.
    pub fn key_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.sets.iter().filter_map(|set| seal_key_name(&set.seal_tags)).collect();
        if let Some(newest) = self.sets.last()
            && let Ok(signature) = Signature::parse_kind(&newest.message_signature, SignatureKind::Arc)
        {
            names.push(signature.key_name());
        }
        names.sort();
        names.dedup();
        names
    }

    /// Checks the chain (RFC 8617 5.2).
    ///
    /// # Errors
    /// Reading the message failed.
    pub fn verify(&self, content: &dyn Content, keys: &Keys, now_s: u64) -> Result<ChainStatus, MailError> {
        if let Some(text) = &self.broken {
            return Ok(ChainStatus::Fail(text.clone()));
        }
        let Some(newest) = self.sets.last() else { return Ok(ChainStatus::None) };
        for (index, set) in self.sets.iter().enumerate() {
            let wanted = if index == 0 { "none" } else { "pass" };
            let found = set.seal_tags.word("cv").unwrap_or_default().to_ascii_lowercase();
            if found != wanted {
                return Ok(ChainStatus::Fail(format!("seal {} says cv={found}", index + 1)));
            }
        }
        let signature = match Signature::parse_kind(&newest.message_signature, SignatureKind::Arc) {
            Ok(signature) => signature,
            Err(Failure(text)) => return Ok(ChainStatus::Fail(format!("message signature: {text}"))),
        };
        let record = match key(keys, &signature.key_name()) {
            Ok(record) => record,
            Err(status) => return Ok(status),
        };
        if let Verdict::PermError(text) | Verdict::TempError(text) =
            signature.verify(content, record, now_s)?
        {
            return Ok(ChainStatus::Fail(format!("message signature: {text}")));
        }
        for index in (0..self.sets.len()).rev() {
            if let Err(status) = self.verify_seal(index, keys) {
                return Ok(status);
            }
        }
        Ok(ChainStatus::Pass)
    }

    fn verify_seal(&self, index: usize, keys: &Keys) -> Result<(), ChainStatus> {
        let fail = |text: &str| ChainStatus::Fail(format!("seal {}: {text}", index + 1));
        let tags = &self.sets[index].seal_tags;
        // RFC 8617 4.1.3: a seal names no fields.
        if tags.get("h").is_some() {
            return Err(fail("has a tag h="));
        }
        let algorithm = tags.word("a").and_then(|name| crate::dkim::Algorithm::from_name(&name));
        let algorithm = algorithm.ok_or_else(|| fail("unknown algorithm"))?;
        let name = seal_key_name(tags).ok_or_else(|| fail("no domain or selector"))?;
        let record = key(keys, &name)?;
        let key = PublicKey::parse(record).map_err(|error| fail(&error.to_string()))?;
        if !key.allows(algorithm) {
            return Err(fail("the key is not for this algorithm or not for mail"));
        }
        let signature =
            tags.word("b").and_then(|text| decoded(&text)).ok_or_else(|| fail("b= is not base64"))?;
        let data = seal_data(&self.sets, index);
        if key.verify(algorithm, &data, &signature) { Ok(()) } else { Err(fail("signature does not match")) }
    }
}

/// What a seal of set `index` covers: all sets up to it, its own seal with an empty signature last (RFC 8617 5.1.1).
fn seal_data(sets: &[Set], index: usize) -> Vec<u8> {
    let mut data = Vec::new();
    for set in &sets[..index] {
        for field in [&set.results, &set.message_signature, &set.seal] {
            Canonicalization::Relaxed.field(field, &mut data);
        }
    }
    let own = &sets[index];
    Canonicalization::Relaxed.field(&own.results, &mut data);
    Canonicalization::Relaxed.field(&own.message_signature, &mut data);
    let value_start = memchr::memchr(b':', &own.seal).map_or(0, |colon| colon + 1);
    Canonicalization::Relaxed.field(&without_value(&own.seal, value_start, &own.seal_tags), &mut data);
    data.truncate(data.len() - 2);
    data
}

fn key<'a>(keys: &'a Keys, name: &str) -> Result<&'a [u8], ChainStatus> {
    match keys.get(name) {
        Some(Ok(record)) => Ok(record),
        Some(Err(DnsError::Temporary(text))) => Err(ChainStatus::TempError(format!("key {name}: {text}"))),
        Some(Err(error)) => Err(ChainStatus::Fail(format!("key {name}: {error}"))),
        None => Err(ChainStatus::TempError(format!("key {name} was not looked up"))),
    }
}

fn seal_key_name(tags: &TagList) -> Option<String> {
    let (domain, selector) = (tags.word("d")?, tags.word("s")?);
    let domain = idna::domain_to_ascii(&domain).unwrap_or(domain);
    (!domain.is_empty() && !selector.is_empty())
        .then(|| format!("{selector}._domainkey.{}", domain.to_lowercase()))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn collect(header: &HeaderIndex) -> Result<Vec<Set>, String> {
    let mut found: BTreeMap<u32, [Option<Vec<u8>>; 3]> = BTreeMap::new();
    for (kind, name) in [RESULTS, MESSAGE_SIGNATURE, SEAL].into_iter().enumerate() {
        for field in header.named(name) {
            let instance = instance_of(header.body(field), kind == 0);
            let instance = instance.ok_or_else(|| format!("{name} without a good instance"))?;
            let slot = &mut found.entry(instance).or_default()[kind];
            if slot.replace(header.raw(field).to_vec()).is_some() {
                return Err(format!("two {name} of instance {instance}"));
            }
        }
    }
    let mut sets = Vec::new();
    for (index, (instance, fields)) in found.into_iter().enumerate() {
        let [Some(results), Some(message_signature), Some(seal)] = fields else {
            return Err(format!("instance {instance} is not complete"));
        };
        if instance as usize != index + 1 {
            return Err(format!("instance {} is missing", index + 1));
        }
        let seal_tags = Signature::tags_of(&seal).ok_or_else(|| format!("seal {instance} is no tag list"))?;
        sets.push(Set { results, message_signature, seal, seal_tags });
    }
    Ok(sets)
}

/// `i=` of a field. Authentication results begin with it and are no tag list.
fn instance_of(body: &[u8], results: bool) -> Option<u32> {
    let instance = if results {
        let first = body.split(|b| *b == b';').next()?;
        let (name, value) = first.split_at(memchr::memchr(b'=', first)?);
        if name.trim_ascii() != b"i" {
            return None;
        }
        std::str::from_utf8(value[1..].trim_ascii()).ok()?.parse().ok()?
    } else {
        u32::try_from(TagList::parse(body)?.number("i")?.ok()?).ok()?
    };
    (1..=INSTANCES_MAX).contains(&instance).then_some(instance)
}

/// Makes the next set of a chain (RFC 8617 5.1): names and values of the three fields, in the order in which they are
/// put on top of the header. `results` is the content of the Authentication-Results, with the name of this host first.
///
/// # Errors
/// Reading the message failed, the key is not for the algorithm, or the chain cannot go on: it is too long, was marked
/// as failed before, or could not be checked.
pub fn seal(
    content: &dyn Content,
    key: &SigningKey,
    options: &SignOptions,
    results: &str,
    status: &ChainStatus,
) -> Result<[(&'static str, String); 3], MailError> {
    let refuse = |text: String| Err(MailError::Crypto(text));
    let header = HeaderIndex::read(content)?;
    let chain = Chain::read(&header);
    let failed = match status {
        ChainStatus::TempError(text) => return refuse(format!("the chain could not be checked: {text}")),
        ChainStatus::Fail(_) => true,
        ChainStatus::None | ChainStatus::Pass => false,
    };
    let marked = chain.sets.last().is_some_and(|set| set.seal_tags.word("cv").as_deref() == Some("fail"));
    if marked || (failed && chain.broken.is_some()) {
        return refuse("a chain that failed before is not continued".to_owned());
    }
    let instance = chain.instance() + 1;
    if instance > INSTANCES_MAX {
        return refuse(format!("the chain has {INSTANCES_MAX} sets already"));
    }
    let results: String = results.chars().filter(|c| !c.is_control() || matches!(c, '\t')).collect();
    let results = format!("i={instance}; {}", results.trim());
    let results_field =
        String::from_utf8_lossy(&crate::words::folded_field(RESULTS, results.as_bytes())).into_owned();
    let options = SignOptions { arc: Some(instance), identity: None, ..options.clone() };
    let signature = sign(content, key, &options)?;
    let algorithm = options.algorithm.unwrap_or_else(|| key.algorithm());
    let mut seal = format!(
        "i={instance}; a={}; cv={};\r\n\td={}; s={};",
        algorithm.name(),
        status.name(),
        options.domain,
        options.selector
    );
    if let Some(time) = options.timestamp_s {
        seal.push_str(&format!(" t={time};"));
    }
    seal.push_str("\r\n\tb=");
    // A failed chain is not covered: nobody could check it (RFC 8617 5.1.2).
    let mut sets = if failed { Vec::new() } else { chain.sets };
    let field = format!("{SEAL}: {seal}\r\n").into_bytes();
    let seal_tags =
        Signature::tags_of(&field).ok_or_else(|| MailError::Crypto("seal is no tag list".to_owned()))?;
    let message_signature = format!("{MESSAGE_SIGNATURE}: {signature}\r\n").into_bytes();
    sets.push(Set { results: results_field.clone().into_bytes(), message_signature, seal: field, seal_tags });
    let data = seal_data(&sets, sets.len() - 1);
    seal.push_str(&fold_base64(&key.sign(algorithm, &data)?));
    let results_value = results_field[RESULTS.len() + 1..].trim_end().trim_start_matches(' ').to_owned();
    Ok([(SEAL, seal), (MESSAGE_SIGNATURE, signature), (RESULTS, results_value)])
}

#[cfg(test)]
mod tests;
