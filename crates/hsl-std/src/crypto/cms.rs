//! Cryptographic messages (library section 2): PKCS#7 and CMS (RFC 5652) for S/MIME.

use super::der::{self, OID};
use super::keys::{KeyKind, PrivateKey, Text, certificate_value, certificates_of, credential};
use super::x509::verdict;
use super::{checked, openssl_extra};
use crate::environment::{self, Credential};
use crate::support::{flag, options};
use hsl::{Args, Array, Error, FunctionDef, NativeCx, OptionDef, Value, option};
use openssl::cms::{CMSOptions, CmsContentInfo};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::stack::Stack;
use openssl::symm::Cipher;
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;

const ID: OptionDef = option("id", "boolean", "false", "The text is the id of a configured key.");
const DETACHED: OptionDef =
    option("detached", "boolean", "true", "The content is not part of the signature.");

const PKCS7_OPTIONS: &[OptionDef] = &[ID, DETACHED];
const SIGN_OPTIONS: &[OptionDef] =
    &[ID, DETACHED, option("digest", "string", "sha256", "`sha1`, `sha256`, `sha384` or `sha512`.")];
const VERIFY_OPTIONS: &[OptionDef] = &[DETACHED, option("data", "boolean", "false", "Gives the content.")];
const ENCRYPT_OPTIONS: &[OptionDef] =
    &[option("cipher", "string", "aes-256-cbc", "`aes-128-cbc`, `aes-192-cbc` or `aes-256-cbc`.")];
const DECRYPT_OPTIONS: &[OptionDef] = &[ID];

/// The functions.
pub(super) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure(
            "pkcs7_sign(message: string, certificate: array or string, options?: array) -> string or none",
            "Signature of a message as DER. The certificate is an array of x509, privatekey and chain, a PEM bundle, or \
             an id.",
            |cx, a| match pkcs7_sign(cx, &a) {
                Some(der) => checked("pkcs7_sign", der),
                None => Ok(Value::None),
            },
        )
        .with_options(PKCS7_OPTIONS),
        FunctionDef::pure(
            "cms_sign(message: string, certificate: array or string, options?: array) -> array",
            "Signature of a message: `result` and `data` (DER). The certificate is as in `pkcs7_sign`.",
            |cx, a| Ok(sign(cx, &a).into()),
        )
        .with_options(SIGN_OPTIONS),
        FunctionDef::pure(
            "cms_verify(signature: string, message: string or none, certificates: array, options?: array) -> array",
            "Checks a signature against `certs` (certificates of signers) or `store` (trusted certificates): `result`, \
             `signers`, `data`.",
            |_, a| Ok(verify(&a)?.into()),
        )
        .with_options(VERIFY_OPTIONS),
        FunctionDef::pure(
            "cms_encrypt(message: string, certificates: array, options?: array) -> array",
            "Encrypts to each certificate of `certs`: `result` and `data` (DER).",
            |_, a| Ok(encrypt(&a)?.into()),
        )
        .with_options(ENCRYPT_OPTIONS),
        FunctionDef::pure(
            "cms_decrypt(message: string, certificate: array or string, options?: array) -> array",
            "Decrypts: `result`, `data` and `cms`, what the content is: signed, enveloped or data.",
            |cx, a| Ok(decrypt(cx, &a).into()),
        )
        .with_options(DECRYPT_OPTIONS),
    ]
}

fn signer(cx: &NativeCx<'_>, args: &Args<'_>, options: &Array) -> Result<(Credential, X509), String> {
    let text = if flag(options, "id", false) { Text::Id } else { Text::Pem };
    let found = credential(args.get(1), text, &environment::of(cx))
        .ok_or("the certificate or its key is not usable")?;
    if found.key.kind == KeyKind::Ed25519 {
        return Err("Ed25519 keys cannot be used here".into());
    }
    let certificate = found.certificate.clone().ok_or("the key has no certificate")?;
    Ok((found, certificate))
}

fn stack(certificates: Vec<X509>) -> Result<Stack<X509>, ErrorStack> {
    let mut stack = Stack::new()?;
    certificates.into_iter().try_for_each(|c| stack.push(c))?;
    Ok(stack)
}

fn pkcs7_sign(cx: &NativeCx<'_>, args: &Args<'_>) -> Option<Vec<u8>> {
    let o = options(args, 2);
    let (found, certificate) = signer(cx, args, &o).ok()?;
    let mut flags = Pkcs7Flags::BINARY;
    flags.set(Pkcs7Flags::DETACHED, flag(&o, "detached", true));
    let chain = stack(found.chain).ok()?;
    Pkcs7::sign(&certificate, &found.key.key, &chain, args.bytes(0), flags).ok()?.to_der().ok()
}

fn with_data(data: Vec<u8>) -> Array {
    let mut out = verdict(None);
    out.insert_str("data", data);
    out
}

/// What went wrong, from the last entry that OpenSSL left.
fn text(error: &ErrorStack) -> String {
    let last = error.errors().last().and_then(|e| e.reason());
    last.map_or_else(|| "OpenSSL failed".to_owned(), str::to_owned)
}

fn sign(cx: &NativeCx<'_>, args: &Args<'_>) -> Array {
    let o = options(args, 2);
    let run = || -> Result<Vec<u8>, String> {
        let (found, certificate) = signer(cx, args, &o)?;
        let name = o.get_str("digest").map_or("sha256".to_owned(), Value::to_string_lossy);
        let digest = match &*name {
            "sha1" => MessageDigest::sha1(),
            "sha256" => MessageDigest::sha256(),
            "sha384" => MessageDigest::sha384(),
            "sha512" => MessageDigest::sha512(),
            _ => return Err(format!("unknown digest '{name}', expected sha1, sha256, sha384 or sha512")),
        };
        let mut flags = CMSOptions::BINARY;
        flags.set(CMSOptions::DETACHED, flag(&o, "detached", true));
        let chain = stack(found.chain).map_err(|e| text(&e))?;
        let signed =
            openssl_extra::cms_sign(&certificate, &found.key.key, &chain, args.bytes(0), digest, flags);
        signed.and_then(|cms| cms.to_der()).map_err(|e| text(&e))
    };
    match run() {
        Ok(der) => with_data(der),
        Err(error) => verdict(Some(error)),
    }
}

/// DER, PEM or plain base64.
fn read(bytes: &[u8]) -> Option<CmsContentInfo> {
    if let Ok(cms) = CmsContentInfo::from_der(bytes) {
        return Some(cms);
    }
    if memchr::memmem::find(bytes, b"-----BEGIN ").is_some() {
        return CmsContentInfo::from_pem(bytes).ok();
    }
    CmsContentInfo::from_der(&crate::base64_decode(bytes)).ok()
}

fn verify(args: &Args<'_>) -> Result<Array, Error> {
    let o = options(args, 3);
    let given = args.array(2);
    let list = |key: &str| {
        certificates_of(given.get_str(key))
            .ok_or_else(|| Error::exception(format!("cms_verify(): '{key}' expects a list of certificates")))
    };
    let (certs, trusted) = (list("certs")?, list("store")?);
    if certs.is_empty() && trusted.is_empty() {
        return Ok(verdict(Some("neither 'certs' nor 'store' has a certificate".into())));
    }
    let Some(mut cms) = read(args.bytes(0)) else { return Ok(verdict(Some("not a CMS message".into()))) };
    let detached = flag(&o, "detached", true);
    let run = || -> Result<Vec<u8>, ErrorStack> {
        let mut flags = CMSOptions::BINARY;
        let mut store = X509StoreBuilder::new()?;
        if trusted.is_empty() {
            // Only certificates that the caller gave count as signers, and their chains are not looked at.
            flags |= CMSOptions::NO_SIGNER_CERT_VERIFY | CMSOptions::NOINTERN;
        }
        for certificate in trusted {
            store.add_cert(certificate)?;
        }
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        let mut content = Vec::new();
        let data = detached.then(|| args.bytes(1));
        cms.verify(Some(&*stack(certs)?), Some(&store.build()), data, Some(&mut content), flags)?;
        Ok(content)
    };
    let content = match run() {
        Ok(content) => content,
        Err(error) => return Ok(verdict(Some(text(&error)))),
    };
    let mut out = verdict(None);
    let signers = openssl_extra::cms_signers(&cms);
    out.insert_str("signers", signers.into_iter().map(certificate_value).collect::<Array>());
    if flag(&o, "data", false) {
        out.insert_str("data", if detached { args.bytes(1).to_vec() } else { content });
    }
    Ok(out)
}

fn encrypt(args: &Args<'_>) -> Result<Array, Error> {
    let certs = certificates_of(args.array(1).get_str("certs"))
        .ok_or_else(|| Error::exception("cms_encrypt(): 'certs' expects a list of certificates"))?;
    if certs.is_empty() {
        return Ok(verdict(Some("'certs' has no certificate".into())));
    }
    let name = options(args, 2).get_str("cipher").map_or("aes-256-cbc".to_owned(), Value::to_string_lossy);
    let cipher = match &*name {
        "aes-128-cbc" => Cipher::aes_128_cbc(),
        "aes-192-cbc" => Cipher::aes_192_cbc(),
        "aes-256-cbc" => Cipher::aes_256_cbc(),
        _ => return Ok(verdict(Some(format!("unknown cipher '{name}'")))),
    };
    let sealed = stack(certs).and_then(|certs| {
        CmsContentInfo::encrypt(&certs, args.bytes(0), cipher, CMSOptions::BINARY)?.to_der()
    });
    Ok(match sealed {
        Ok(der) => with_data(der),
        Err(error) => verdict(Some(text(&error))),
    })
}

fn decrypt(cx: &NativeCx<'_>, args: &Args<'_>) -> Array {
    let o = options(args, 2);
    let text = if flag(&o, "id", false) { Text::Id } else { Text::Pem };
    let run = || -> Option<Vec<u8>> {
        let Credential { key: PrivateKey { key, .. }, certificate, .. } =
            credential(args.get(1), text, &environment::of(cx))?;
        read(args.bytes(0))?.decrypt(&key, &certificate?).ok()
    };
    match run() {
        None => {
            let mut out = Array::new();
            out.insert_str("result", false);
            out
        }
        Some(content) => {
            let kind = kind(&content);
            let mut out = with_data(content);
            out.insert_str("cms", kind);
            out
        }
    }
}

/// What a content is, by its content type (RFC 5652 sections 4 to 6).
fn kind(content: &[u8]) -> &'static str {
    let first = der::sequence(content).and_then(|mut parts| parts.next());
    let oid = first.filter(|(tag, _)| *tag == OID).and_then(|(_, oid)| der::oid_text(oid));
    match oid.as_deref() {
        Some("1.2.840.113549.1.7.2") => "signed",
        Some("1.2.840.113549.1.7.3") => "enveloped",
        _ => "data",
    }
}
