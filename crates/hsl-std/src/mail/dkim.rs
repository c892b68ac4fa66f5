//! Signing and checking methods: DKIM, ARC and, over both and SPF, DMARC.

use super::builder;
use super::dns::MailDns;
use super::object::{MailObject, data, failed, heavy, hostname, off_thread, options};
use super::parts::this;
use crate::crypto::keys::PrivateKey;
use crate::environment::{self, Credential, Environment};
use crate::support::flag;
use hsl::{
    Args, Array, Continuation, Error, NativeCall, NativeClass, NativeCx, Next, Object, OptionDef, Outcome,
    Value, option,
};
use mail::arc::{Chain, ChainStatus, Keys};
use mail::dkim::{Algorithm, Canonicalization, SignOptions, Signature, SigningKey, TagList, Verdict, sign};
use mail::dmarc::Evidence;
use mail::dns::{Dns, DnsError};
use mail::spf::SpfQuery;
use mail::{Content, FieldOptions, WriteOptions};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const SIGN: &[OptionDef] = &[
    option("canonicalization_header", "string", "relaxed", "`simple` or `relaxed`."),
    option("canonicalization_body", "string", "relaxed", "`simple` or `relaxed`."),
    option("algorithm", "string", "that of the key", "`rsa-sha1`, `rsa-sha256` or `ed25519-sha256`."),
    option("headers", "array", "those of RFC 6376 5.4.1 that are present", "Names to sign."),
    option("additional_headers", "array", "", "Further names."),
    option("oversign_headers", "array", "[\"from\"]", "Names listed once more than present."),
    option("timestamp", "boolean or number", "false", "Adds the time of now, or the given one."),
    option("expiration", "number", "", "Until when the signature holds."),
    option("expiration_relative", "number", "", "For how many seconds it holds."),
    option("identity", "string", "", "Agent or user, `i=`."),
    option("body_length", "number", "", "Octets of the body to sign, `l=`."),
    option("id", "boolean", "", "The key is the id of a configured one; without it, text that is no PEM is."),
    option("return_header", "boolean", "false", "Gives the value instead of adding the field."),
    option("arc", "number or boolean", "false", "An ARC-Message-Signature of that instance."),
];
const VERIFY: &[OptionDef] = &[
    option("timeout", "number", "5", "Seconds for the query."),
    option("servers", "array", "those of the system", "Addresses of name servers."),
    option("port", "number", "53", "Port of the servers."),
    option("dns_function", "function", "", "Is asked for the key instead of the DNS."),
];
const DNS: &[OptionDef] = &[
    option("timeout", "number", "5", "Seconds for each query."),
    option("servers", "array", "those of the system", "Addresses of name servers."),
    option("port", "number", "53", "Port of the servers."),
];

const SIGN_ARC: &[OptionDef] =
    &[SIGN[0], SIGN[1], SIGN[2], SIGN[3], SIGN[4], SIGN[5], SIGN[6], SIGN[11], DNS[0], DNS[1], DNS[2]];

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Adds the methods of messages.
pub(super) fn methods(class: NativeClass) -> NativeClass {
    class
        .method(
            "signDKIM(selector: string, domain: string, key: string or resource, options?: array) -> this or string or none",
            "Signs the message with its changes; none when the key or an option cannot be used.",
            sign_message,
        )
        .with_options(SIGN)
        .method(
            "verifyDKIM(headerfield: string, options?: array) -> array",
            "Checks a whole DKIM-Signature field of the message: result, error and tags.",
            verify_message,
        )
        .with_options(VERIFY)
        .method(
            "signARC(selector: string, domain: string, key: string or resource, authresults: string, options?: array) -> this or none",
            "Checks the ARC chain and adds the next set; none when the chain or the key cannot be used.",
            sign_arc,
        )
        .with_options(SIGN_ARC)
        .method(
            "verifyARC(options?: array) -> array",
            "Checks the ARC chain of the message: result (none, pass, fail, temperror), instance and error.",
            verify_arc,
        )
        .with_options(DNS)
        .method(
            "verifyDMARC(ip: string, helo: string, sender: string, options?: array) -> array",
            "Checks SPF, all DKIM signatures and the policy of the domain of From.",
            verify_dmarc,
        )
        .with_options(DNS)
}

/// Adds the methods of `MIME`.
pub(super) fn builder_methods(class: NativeClass) -> NativeClass {
    class
        .method(
            "signDKIM(selector: string, domain: string, key: string or resource, options?: array) -> this or none",
            "Signs what comes out; none when the key or an option cannot be used.",
            |cx, object, args| {
                let environment = environment::of(cx);
                let Some((key, sign)) = request(&args, &options(&args, 3), &environment)? else {
                    return Ok(Value::None.into());
                };
                builder::of(object)?.lock().sign(key, sign);
                Ok(this(object).into())
            },
        )
        .with_options(SIGN)
}

/// The key of an argument: a resource, PEM, or the id of a configured one.
fn signing_key(value: &Value, options: &Array, environment: &Environment) -> Option<SigningKey> {
    if let Some(key) = PrivateKey::of(value) {
        return SigningKey::new(key.key.clone());
    }
    let text = value.as_str_bytes()?;
    let pem = memchr::memmem::find(text, b"-----BEGIN").is_some();
    if flag(options, "id", !pem) {
        let credential = environment.keys.get(&*String::from_utf8_lossy(text))?;
        return SigningKey::new(credential.key.key.clone());
    }
    SigningKey::from_pem(text)
}

fn names(options: &Array, key: &str) -> Option<Vec<String>> {
    match options.get_str(key)? {
        Value::Array(list) => Some(list.values().map(Value::to_string_lossy).collect()),
        _ => None,
    }
}

/// Key and options of a signature; `None` if one of them cannot be used.
fn request(
    args: &Args<'_>,
    options: &Array,
    environment: &Environment,
) -> Result<Option<(SigningKey, SignOptions)>, Error> {
    let Some(key) = signing_key(args.get(2), options, environment) else { return Ok(None) };
    let sign = sign_options(&args.string(0).to_text(), &args.string(1).to_text(), options)?;
    Ok(sign.filter(|sign| fits(sign, &key)).map(|sign| (key, sign)))
}

/// Named for the wrong kind of key an algorithm cannot work.
fn fits(sign: &SignOptions, key: &SigningKey) -> bool {
    sign.algorithm.is_none_or(|known| {
        (known == Algorithm::Ed25519Sha256) == (key.algorithm() == Algorithm::Ed25519Sha256)
    })
}

/// The signature of a report, as the `dkim` option of `Bounce` and `Queue` says it.
#[derive(Clone)]
pub struct ReportSigner {
    key: ReportKey,
    options: SignOptions,
}

#[derive(Clone)]
enum ReportKey {
    Ready(SigningKey),
    Id(String),
}

impl std::fmt::Debug for ReportSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReportSigner").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ReportSigner {
    /// With the key of that id and everything else at its default.
    pub fn new(selector: &str, domain: &str, key: &str) -> ReportSigner {
        let options = SignOptions::new(selector, domain);
        ReportSigner { key: ReportKey::Id(key.to_owned()), options }
    }

    /// Reads an array with `selector`, `domain`, `key` and the options of `signDKIM`.
    ///
    /// # Errors
    /// Which of them cannot be used.
    pub fn read(array: &Array) -> Result<ReportSigner, Error> {
        let text = |name: &str| match array.get_str(name) {
            Some(value @ Value::Str(_)) => Ok(value.to_string_lossy()),
            _ => Err(Error::exception(format!("Option 'dkim' needs a string '{name}'"))),
        };
        let unusable = || Error::exception("Option 'dkim' has an option that cannot be used");
        let options = sign_options(&text("selector")?, &text("domain")?, array)?.ok_or_else(unusable)?;
        let key = array.get_str("key").unwrap_or(&Value::None);
        let key = match (PrivateKey::of(key), key.as_str_bytes()) {
            (Some(key), _) => SigningKey::new(key.key.clone()).map(ReportKey::Ready),
            (None, Some(pem)) if memchr::memmem::find(pem, b"-----BEGIN").is_some() => {
                SigningKey::from_pem(pem).map(ReportKey::Ready)
            }
            (None, Some(id)) => Some(ReportKey::Id(String::from_utf8_lossy(id).into_owned())),
            (None, None) => None,
        };
        let key =
            key.ok_or_else(|| Error::exception("Option 'dkim' needs a key: PEM, a resource or an id"))?;
        Ok(ReportSigner { key, options })
    }

    /// The field to be put on top of a message.
    ///
    /// # Errors
    /// The key is not known or does not fit.
    pub fn field(&self, message: &[u8], keys: &HashMap<String, Credential>) -> Result<String, String> {
        let key = match &self.key {
            ReportKey::Ready(key) => key.clone(),
            ReportKey::Id(id) => {
                let credential = keys.get(id).ok_or_else(|| format!("no key \"{id}\" in pki.private"))?;
                SigningKey::new(credential.key.key.clone())
                    .ok_or_else(|| format!("key \"{id}\" cannot sign, expected RSA or Ed25519"))?
            }
        };
        if !fits(&self.options, &key) {
            return Err("the algorithm does not fit the key".to_owned());
        }
        let content = mail::MemoryContent(bytes::Bytes::copy_from_slice(message));
        let value = sign(&content, &key, &self.options).map_err(|error| error.to_string())?;
        Ok(format!("{}: {value}\r\n", self.options.field_name()))
    }
}

/// The options of a signature; `None` if one of them cannot be used.
fn sign_options(selector: &str, domain: &str, options: &Array) -> Result<Option<SignOptions>, Error> {
    let mut sign = SignOptions::new(selector, domain);
    let word =
        |name: &str| options.get_str(name).filter(|value| !value.is_none()).map(Value::to_string_lossy);
    let number = |name: &str| match options.get_str(name).filter(|value| !value.is_none()) {
        None => Ok(None),
        Some(value) => super::object::whole(value.to_number(), name).map(Some),
    };
    for (name, mode) in
        [("canonicalization_header", &mut sign.header), ("canonicalization_body", &mut sign.body)]
    {
        if let Some(text) = word(name) {
            let Some(known) = Canonicalization::from_name(&text) else { return Ok(None) };
            *mode = known;
        }
    }
    if let Some(text) = word("algorithm") {
        let Some(known) = Algorithm::from_name(&text) else { return Ok(None) };
        sign.algorithm = Some(known);
    }
    sign.headers = names(options, "headers");
    sign.additional_headers = names(options, "additional_headers").unwrap_or_default();
    if let Some(list) = names(options, "oversign_headers") {
        sign.oversign_headers = list;
    }
    let now = now_s();
    sign.timestamp_s = match options.get_str("timestamp") {
        None | Some(Value::None | Value::Bool(false)) => None,
        Some(Value::Bool(true)) => Some(now),
        Some(_) => number("timestamp")?,
    };
    sign.expiration_s = number("expiration")?;
    if let Some(seconds) = number("expiration_relative")? {
        sign.expiration_s = Some(sign.timestamp_s.unwrap_or(now).saturating_add(seconds));
    }
    sign.identity = word("identity");
    sign.body_length = number("body_length")?;
    sign.arc = match options.get_str("arc") {
        None | Some(Value::None | Value::Bool(false)) => None,
        Some(Value::Bool(true)) => Some(1),
        Some(value) => match value.to_number() {
            n if (1.0..=50.0).contains(&n) => Some(n as u32),
            _ => return Ok(None),
        },
    };
    Ok(Some(sign))
}

const AS_IS: WriteOptions = WriteOptions { encode: false, encoding: mail::words::WordEncoding::Shorter };

fn sign_message(cx: &mut NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let options = options(&args, 3);
    let Some((key, request)) = request(&args, &options, &environment::of(cx))? else {
        return Ok(Value::None.into());
    };
    let return_header = flag(&options, "return_header", false);
    let this = this(object);
    heavy(object, move |data| {
        let mut message = data.message.0.lock();
        let content = message.patched().map_err(failed)?;
        let value = match sign(&*content, &key, &request) {
            Ok(value) => value,
            Err(mail::MailError::Crypto(_)) => return Ok(Value::None),
            Err(error) => return Err(failed(error)),
        };
        if return_header {
            return Ok(value.into());
        }
        message.prepend_header(request.field_name(), value.as_bytes(), AS_IS).map_err(failed)?;
        Ok(this)
    })
}

fn tag_array(tags: &TagList) -> Array {
    let mut array = Array::new();
    for tag in tags.tags() {
        array.insert_str(&tag.name, tag.value.as_slice());
    }
    array
}

fn verdict_array(verdict: &Verdict, tags: Option<&TagList>) -> Value {
    let mut array = Array::new();
    match verdict {
        Verdict::Pass => array.insert_str("result", "pass"),
        Verdict::PermError(text) => {
            array.insert_str("result", "permerror");
            array.insert_str("error", text.as_str());
        }
        Verdict::TempError(text) => {
            array.insert_str("result", "temperror");
            array.insert_str("error", text.as_str());
        }
    }
    if let Some(tags) = tags {
        array.insert_str("tags", tag_array(tags));
    }
    array.into()
}

/// The answer for a key, or what it means that there is none.
fn key_record(answer: Result<Vec<Vec<u8>>, DnsError>) -> Result<Vec<u8>, Verdict> {
    match answer {
        // Several records are undefined (RFC 6376 3.6.2.2): the first that looks like a key is taken.
        Ok(records) => {
            let looks = |record: &Vec<u8>| TagList::parse(record).is_some_and(|tags| tags.get("p").is_some());
            let found = records.iter().position(looks).unwrap_or(0);
            records.into_iter().nth(found).ok_or_else(|| Verdict::PermError("no key".to_owned()))
        }
        Err(DnsError::Temporary(text)) => Err(Verdict::TempError(format!("no key: {text}"))),
        Err(error) => Err(Verdict::PermError(format!("no key: {error}"))),
    }
}

fn verify_message(cx: &mut NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let options = options(&args, 1);
    let signature = match Signature::parse(args.bytes(0)) {
        Ok(signature) => signature,
        Err(failure) => {
            let tags = Signature::tags_of(args.bytes(0));
            return Ok(verdict_array(&Verdict::PermError(failure.0), tags.as_ref()).into());
        }
    };
    let data = data(object)?.clone();
    let content = data.message.0.lock().patched().map_err(failed)?;
    let check = SignatureCheck { signature, content, small: data.is_small() };
    if let Some(function @ Value::Function(_)) = options.get_str("dns_function") {
        let name = check.signature.key_name();
        return Ok(Outcome::Call(Box::new(NativeCall {
            function: function.clone(),
            args: [Value::from(name)].into(),
            then: Box::new(AfterDnsFunction(Some(check))),
        })));
    }
    let dns = MailDns::read(&options, &environment::of(cx))?;
    Ok(Outcome::Pending(Box::pin(async move {
        match key_record(dns.txt(&check.signature.key_name()).await) {
            Ok(record) => off_thread(move || check.run(&record)).await,
            Err(verdict) => Ok(verdict_array(&verdict, Some(check.signature.tags()))),
        }
    })))
}

struct SignatureCheck {
    signature: Signature,
    content: Arc<dyn Content>,
    small: bool,
}

impl SignatureCheck {
    fn run(&self, record: &[u8]) -> Result<Value, Error> {
        let verdict = self.signature.verify(&*self.content, record, now_s()).map_err(failed)?;
        Ok(verdict_array(&verdict, Some(self.signature.tags())))
    }
}

/// Goes on with what `dns_function` gave; where the check ran elsewhere, with its result.
struct AfterDnsFunction(Option<SignatureCheck>);

impl Continuation for AfterDnsFunction {
    fn resume(&mut self, _: &mut NativeCx<'_>, result: Value) -> Result<Next, Error> {
        let Some(check) = self.0.take() else { return Ok(Next::Value(result)) };
        let answer = result.as_array().cloned().unwrap_or_default();
        let record = match answer.get_str("result") {
            Some(Value::Array(list)) => list.values().next().map(|item| item.to_str().into_vec()),
            Some(value @ Value::Str(_)) => Some(value.to_str().into_vec()),
            _ => None,
        };
        let Some(record) = record else {
            let error = answer.get_str("error").map(Value::to_string_lossy).unwrap_or_default();
            let text = "no key: dns_function gave an error".to_owned();
            let verdict =
                if error == "temperror" { Verdict::TempError(text) } else { Verdict::PermError(text) };
            return Ok(Next::Value(verdict_array(&verdict, Some(check.signature.tags()))));
        };
        if check.small {
            return check.run(&record).map(Next::Value);
        }
        Ok(Next::Pending(off_thread(move || check.run(&record))))
    }
}

/// Looks up the keys of a chain and checks it.
async fn chain_status(content: Arc<dyn Content>, dns: &MailDns) -> Result<(ChainStatus, u32), Error> {
    let header = mail::HeaderIndex::read(&*content).map_err(failed)?;
    let chain = Chain::read(&header);
    let mut keys = Keys::new();
    for name in chain.key_names() {
        let record = dns.txt(&name).await.map(|mut records| records.swap_remove(0));
        keys.insert(name, record);
    }
    let instance = chain.instance();
    let checked = tokio::task::spawn_blocking(move || chain.verify(&*content, &keys, now_s())).await;
    let status = checked.map_err(|error| Error::fatal(format!("mail: {error}")))?.map_err(failed)?;
    Ok((status, instance))
}

fn verify_arc(cx: &mut NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let dns = MailDns::read(&options(&args, 0), &environment::of(cx))?;
    let content = data(object)?.message.0.lock().patched().map_err(failed)?;
    Ok(Outcome::Pending(Box::pin(async move {
        let (status, instance) = chain_status(content, &dns).await?;
        let mut array = Array::new();
        array.insert_str("result", status.name());
        array.insert_str("instance", instance);
        if let ChainStatus::Fail(text) | ChainStatus::TempError(text) = status {
            array.insert_str("error", text);
        }
        Ok(array.into())
    })))
}

fn sign_arc(cx: &mut NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let options = options(&args, 4);
    let environment = environment::of(cx);
    let dns = MailDns::read(&options, &environment)?;
    let Some((key, request)) = request(&args, &options, &environment)? else { return Ok(Value::None.into()) };
    let results = args.string(3).to_text().into_owned();
    let data = data(object)?.clone();
    let content = data.message.0.lock().patched().map_err(failed)?;
    let this = this(object);
    Ok(Outcome::Pending(Box::pin(async move {
        let (status, _) = chain_status(Arc::clone(&content), &dns).await?;
        off_thread(move || {
            let fields = match mail::arc::seal(&*content, &key, &request, &results, &status) {
                Ok(fields) => fields,
                Err(mail::MailError::Crypto(_)) => return Ok(Value::None),
                Err(error) => return Err(failed(error)),
            };
            let mut message = data.message.0.lock();
            for (name, value) in fields.iter().rev() {
                message.prepend_header(name, value.as_bytes(), AS_IS).map_err(failed)?;
            }
            Ok(this)
        })
        .await
    })))
}

/// Signatures looked at for one message; a message with more is no better authenticated.
const SIGNATURES_MAX: usize = 20;

fn verify_dmarc(cx: &mut NativeCx<'_>, object: &Arc<Object>, args: Args<'_>) -> Result<Outcome, Error> {
    let environment = environment::of(cx);
    let dns = MailDns::read(&options(&args, 3), &environment)?;
    let text = |i: usize| args.string(i).to_text().into_owned();
    let ip = text(0).parse().ok();
    let query = ip.map(|ip| SpfQuery {
        ip,
        helo: text(1),
        sender: text(2),
        hostname: hostname(&environment),
        now_s: now_s(),
    });
    let data: MailObject = data(object)?.clone();
    Ok(Outcome::Pending(Box::pin(async move {
        let (content, from, fields) = {
            let message = data.message.0.lock();
            let content = message.patched().map_err(failed)?;
            let header = mail::HeaderIndex::read(&*content).map_err(failed)?;
            let from: Vec<Vec<u8>> = header.named("From").map(|field| header.body(field).to_vec()).collect();
            let fields = message
                .get_headers("DKIM-Signature", FieldOptions { field: true, decode: false })
                .map_err(failed)?;
            (content, from, fields)
        };
        let mut evidence = Evidence { from_domain: from_domain(&from), ..Evidence::default() };
        let mut array = Array::new();
        let mut spf = Array::new();
        match query {
            Some(query) => {
                let outcome = mail::spf::check(&dns, &query).await;
                evidence.spf(outcome.result, &outcome.domain);
                spf.insert_str("result", outcome.result.name());
                spf.insert_str("domain", outcome.domain);
                if let Some(reason) = outcome.reason {
                    spf.insert_str("reason", reason);
                }
            }
            None => spf.insert_str("result", "invalid"),
        }
        let mut dkim = Array::new();
        for field in fields.iter().take(SIGNATURES_MAX) {
            let Ok(signature) = Signature::parse(field) else { continue };
            let verdict = match key_record(dns.txt(&signature.key_name()).await) {
                Ok(record) => {
                    let (signature, content) = (signature.clone(), Arc::clone(&content));
                    let run = move || signature.verify(&*content, &record, now_s());
                    let checked = tokio::task::spawn_blocking(run).await;
                    checked.map_err(|error| Error::fatal(format!("mail: {error}")))?.map_err(failed)?
                }
                Err(verdict) => verdict,
            };
            match verdict {
                Verdict::Pass => evidence.dkim_domains.push(signature.domain().to_owned()),
                Verdict::TempError(_) => evidence.dkim_temporary = true,
                Verdict::PermError(_) => {}
            }
            let mut one = verdict_array(&verdict, None).as_array().cloned().unwrap_or_default();
            one.insert_str("domain", signature.domain());
            one.insert_str("selector", signature.selector());
            dkim.push(Value::from(one));
        }
        let organizational = |domain: &str| crate::domain::organizational_domain(domain, &environment);
        let outcome = mail::dmarc::evaluate(&dns, &evidence, &organizational).await;
        array.insert_str("result", outcome.result.name());
        array.insert_str("disposition", outcome.disposition().name());
        array.insert_str("domain", evidence.from_domain);
        if let Some(policy) = outcome.policy {
            array.insert_str("policy", policy.name());
        }
        if let Some(domain) = outcome.policy_domain {
            array.insert_str("policy_domain", domain);
        }
        if let Some(error) = outcome.error {
            array.insert_str("error", error);
        }
        spf.insert_str("aligned", outcome.spf_aligned);
        array.insert_str("spf", spf);
        array.insert_str("dkim", dkim);
        array.insert_str("dkim_aligned", outcome.dkim_aligned);
        let mut tags = Array::new();
        for (name, value) in outcome.tags {
            tags.insert_str(&name, value);
        }
        array.insert_str("tags", tags);
        Ok(array.into())
    })))
}

/// The domain of the one author; empty where there is none or several domains.
fn from_domain(fields: &[Vec<u8>]) -> String {
    let [field] = fields else { return String::new() };
    let Some(list) = mail::address_list::parse(field) else { return String::new() };
    let mut domains = list.iter().map(|one| one.address.rsplit_once('@').map_or("", |(_, domain)| domain));
    let Some(first) = domains.next() else { return String::new() };
    if domains.all(|domain| domain.eq_ignore_ascii_case(first)) {
        first.to_lowercase()
    } else {
        String::new()
    }
}
