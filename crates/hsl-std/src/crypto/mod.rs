//! Cryptographic functions (library section 2), on OpenSSL.

mod cms;
pub(crate) mod der;
pub(crate) mod keys;
pub(crate) mod openssl_extra;
pub(crate) mod x509;
mod x509crl;

use crate::environment;
use crate::support::{check_string, flag, options};
use hsl::{Args, Array, Error, FunctionDef, NativeClass, NativeCx, OptionDef, Outcome, Value, option};
use keys::{KeyKind, PrivateKey};
use openssl::bn::{BigNum, BigNumContext};
use openssl::hash::{MessageDigest, hash};
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{Signer, Verifier};
use openssl::symm::{Cipher, Crypter, Mode};
use rand::Rng as _;
use std::sync::Arc;

/// Longest result of `random_bytes`.
const RANDOM_MAX: i64 = 1 << 20;
/// Smallest RSA key that signs or verifies, bits.
const RSA_BITS_MIN: u32 = 1024;

const DIGEST_OPTIONS: &[OptionDef] =
    &[option("binary", "boolean", "false", "Gives the raw bytes instead of hexadecimal text.")];

const AES_OPTIONS: &[OptionDef] = &[
    option("iv", "string", "", "16 bytes; required for `cbc`."),
    option("padding", "boolean", "true", "PKCS#7 padding; without it the length must be a multiple of 16."),
];

const SIGN_OPTIONS: &[OptionDef] = &[
    option("hash", "string", "sha256", "`md5`, `sha1`, `sha256` or `sha512`."),
    option("format", "string", "RSAPrivateKey", "`RSAPrivateKey` (PKCS#1) or `PrivateKeyInfo` (PKCS#8)."),
    option("pem", "boolean", "false", "The key is PEM text instead of DER bytes."),
    option("id", "boolean", "false", "The key is the id of a configured private key."),
];

const VERIFY_OPTIONS: &[OptionDef] = &[
    option("hash", "string", "sha256", "`md5`, `sha1`, `sha256` or `sha512`."),
    option("format", "string", "RSAPublicKey", "`RSAPublicKey` (PKCS#1) or `SubjectPublicKeyInfo`."),
    option("pem", "boolean", "false", "The key is PEM text instead of DER bytes."),
    option("id", "boolean", "false", "The key is the id of a configured private key."),
];

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    let mut list = vec![
        FunctionDef::pure(
            "md5(message: string, options?: array) -> string",
            "MD5 digest (RFC 1321).",
            |_, a| digest(&a, 0, MessageDigest::md5(), 1),
        )
        .with_options(DIGEST_OPTIONS),
        FunctionDef::pure(
            "sha1(message: string, options?: array) -> string",
            "SHA-1 digest (FIPS 180-4).",
            |_, a| digest(&a, 0, MessageDigest::sha1(), 1),
        )
        .with_options(DIGEST_OPTIONS),
        FunctionDef::pure(
            "sha2(message: string, hashsize: number, options?: array) -> string",
            "SHA-2 digest (FIPS 180-4); the size is 224, 256, 384 or 512.",
            |_, a| digest(&a, 0, sha2("sha2", a.number(1))?, 2),
        )
        .with_options(DIGEST_OPTIONS),
        FunctionDef::pure(
            "hmac_md5(key: string, message: string, options?: array) -> string",
            "HMAC with MD5 (RFC 2104).",
            |_, a| hmac(&a, MessageDigest::md5(), 2),
        )
        .with_options(DIGEST_OPTIONS),
        FunctionDef::pure(
            "hmac_sha1(key: string, message: string, options?: array) -> string",
            "HMAC with SHA-1 (RFC 2104).",
            |_, a| hmac(&a, MessageDigest::sha1(), 2),
        )
        .with_options(DIGEST_OPTIONS),
        FunctionDef::pure(
            "hmac_sha2(key: string, message: string, hashsize: number, options?: array) -> string",
            "HMAC with SHA-2 (RFC 4231); the size is 224, 256, 384 or 512.",
            |_, a| hmac(&a, sha2("hmac_sha2", a.number(2))?, 3),
        )
        .with_options(DIGEST_OPTIONS),
        FunctionDef::pure(
            "hash(message: string) -> number",
            "A number for the text, not for security: equal texts give equal numbers, on every node and after restarts.",
            |_, a| Ok((fnv1a(a.bytes(0)) & ((1 << 53) - 1)).into()),
        ),
        FunctionDef::pure(
            "aes_encrypt(message: string, key: string, mode: string, options?: array) -> string or none",
            "AES encryption (FIPS 197) in mode `ecb` or `cbc` with a key of 16, 24 or 32 bytes.",
            |_, a| Ok(aes(&a, Mode::Encrypt).into()),
        )
        .with_options(AES_OPTIONS),
        FunctionDef::pure(
            "aes_decrypt(message: string, key: string, mode: string, options?: array) -> string or none",
            "AES decryption; none for every failure alike.",
            |_, a| Ok(aes(&a, Mode::Decrypt).into()),
        )
        .with_options(AES_OPTIONS),
        FunctionDef::pure(
            "random_bytes(bytes: number) -> string",
            "Bytes of the random generator, at most 1048576.",
            |_, a| {
                let n = a.integer(0)?;
                if !(0..=RANDOM_MAX).contains(&n) {
                    return Err(Error::exception(format!(
                        "random_bytes(): expected 0 to {RANDOM_MAX} bytes"
                    )));
                }
                let mut out = vec![0; n as usize];
                rand::rng().fill_bytes(&mut out);
                Ok(out.into())
            },
        ),
        FunctionDef::pure(
            "random_number(first?: number, last?: number) -> number",
            "A number between 0 and 1, or an integer from the first to the last number.",
            |_, a| {
                if a.given(0).is_none() {
                    return Ok(rand::random::<f64>().into());
                }
                let (first, last) =
                    if a.given(1).is_some() { (a.integer(0)?, a.integer(1)?) } else { (0, a.integer(0)?) };
                Ok(rand::random_range(first.min(last)..=first.max(last)).into())
            },
        ),
        FunctionDef::full(
            "crypt(key: string, salt: string) -> string",
            "Password hash of the system, chosen by the salt: `$1$` MD5, `$5$` SHA-256, `$6$` SHA-512, `$2b$` bcrypt.",
            crypt,
        ),
    ];
    list.extend(key_functions());
    list.extend(cms::functions());
    list
}

/// The classes of the group.
pub(crate) fn classes() -> Vec<Arc<NativeClass>> {
    vec![x509::class(), x509crl::class()]
}

fn key_functions() -> Vec<FunctionDef> {
    fn read(a: &Args<'_>, kind: KeyKind) -> Value {
        PrivateKey::from_pem(a.bytes(0))
            .filter(|k| k.kind == kind)
            .map_or(Value::None, PrivateKey::into_value)
    }
    fn is(a: &Args<'_>, kind: KeyKind) -> Value {
        PrivateKey::of(a.get(0)).is_some_and(|k| k.kind == kind).into()
    }
    vec![
        FunctionDef::pure(
            "rsa_privatekey(privatekey: string) -> RSAPrivateKey or none",
            "An RSA key of PEM text.",
            |_, a| Ok(read(&a, KeyKind::Rsa)),
        ),
        FunctionDef::pure(
            "ec_privatekey(privatekey: string) -> ECPrivateKey or none",
            "A key on P-256, P-384 or P-521 of PEM text.",
            |_, a| Ok(read(&a, KeyKind::Ec)),
        ),
        FunctionDef::pure(
            "ed25519_privatekey(privatekey: string) -> ED25519PrivateKey or none",
            "An Ed25519 key of PEM text.",
            |_, a| Ok(read(&a, KeyKind::Ed25519)),
        ),
        FunctionDef::pure("is_rsa_privatekey(privatekey: any) -> boolean", "Whether it is an RSA key.", |_, a| {
            Ok(is(&a, KeyKind::Rsa))
        }),
        FunctionDef::pure(
            "is_ec_privatekey(privatekey: any) -> boolean",
            "Whether it is a key on an elliptic curve.",
            |_, a| Ok(is(&a, KeyKind::Ec)),
        ),
        FunctionDef::pure(
            "is_ed25519_privatekey(privatekey: any) -> boolean",
            "Whether it is an Ed25519 key.",
            |_, a| Ok(is(&a, KeyKind::Ed25519)),
        ),
        FunctionDef::pure(
            "rsa_sign(message: string, privatekey: RSAPrivateKey or string, options?: array) -> string or none",
            "RSA signature with PKCS#1 v1.5 padding (RFC 8017 section 8.2).",
            |cx, a| Ok(rsa_sign(cx, &a).into()),
        )
        .with_options(SIGN_OPTIONS),
        FunctionDef::pure(
            "rsa_verify(message: string, signature: string, publickey: string, options?: array) -> boolean or none",
            "Checks a signature of `rsa_sign`; none for an unusable key.",
            |cx, a| Ok(rsa_verify(cx, &a).into()),
        )
        .with_options(VERIFY_OPTIONS),
        FunctionDef::pure(
            "ed25519_sign(message: string, privatekey: ED25519PrivateKey or string) -> string or none",
            "Ed25519 signature (RFC 8032); a key as text is the raw 32 bytes.",
            |_, a| {
                let key = match a.get(1) {
                    Value::Str(bytes) => PrivateKey::from_ed25519_bytes(bytes.as_bytes()),
                    other => PrivateKey::of(other).filter(|k| k.kind == KeyKind::Ed25519).cloned(),
                };
                Ok(key.and_then(|k| ed25519_sign(&k, a.bytes(0))).into())
            },
        ),
        FunctionDef::pure(
            "ed25519_verify(message: string, signature: string, publickey: string) -> boolean or none",
            "Checks an Ed25519 signature; the key is the raw 32 bytes.",
            |_, a| Ok(ed25519_verify(a.bytes(0), a.bytes(1), a.bytes(2)).into()),
        ),
    ]
}

fn failed(error: &openssl::error::ErrorStack) -> Error {
    Error::exception(format!("OpenSSL: {error}"))
}

fn sha2(function: &str, size: f64) -> Result<MessageDigest, Error> {
    match size as u32 {
        224 => Ok(MessageDigest::sha224()),
        256 => Ok(MessageDigest::sha256()),
        384 => Ok(MessageDigest::sha384()),
        512 => Ok(MessageDigest::sha512()),
        _ => Err(Error::exception(format!(
            "{function}(): expected hash size 224, 256, 384 or 512, {size} given"
        ))),
    }
}

fn shown(bytes: &[u8], args: &Args<'_>, options_at: usize) -> Value {
    if flag(&options(args, options_at), "binary", false) { Value::bytes(bytes) } else { hex(bytes).into() }
}

/// Lower-case hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).collect()
}

fn digest(args: &Args<'_>, message: usize, kind: MessageDigest, options_at: usize) -> Result<Value, Error> {
    let bytes = hash(kind, args.bytes(message)).map_err(|e| failed(&e))?;
    Ok(shown(&bytes, args, options_at))
}

fn hmac(args: &Args<'_>, kind: MessageDigest, options_at: usize) -> Result<Value, Error> {
    // Keys are filled up with zeros, so an empty one, which OpenSSL refuses, is the same as one zero.
    let key = if args.bytes(0).is_empty() { b"\0" } else { args.bytes(0) };
    let sum = PKey::hmac(key).and_then(|key| Signer::new(kind, &key)?.sign_oneshot_to_vec(args.bytes(1)));
    Ok(shown(&sum.map_err(|e| failed(&e))?, args, options_at))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn aes(args: &Args<'_>, direction: Mode) -> Option<Vec<u8>> {
    let (message, key) = (args.bytes(0), args.bytes(1));
    let o = options(args, 3);
    let padding = flag(&o, "padding", true);
    let ecb = match args.bytes(2) {
        b"ecb" => true,
        b"cbc" => false,
        _ => return None,
    };
    let cipher = match (key.len(), ecb) {
        (16, true) => Cipher::aes_128_ecb(),
        (24, true) => Cipher::aes_192_ecb(),
        (32, true) => Cipher::aes_256_ecb(),
        (16, false) => Cipher::aes_128_cbc(),
        (24, false) => Cipher::aes_192_cbc(),
        (32, false) => Cipher::aes_256_cbc(),
        _ => return None,
    };
    let iv = o.get_str("iv").map(Value::to_str);
    let iv = match (&iv, ecb) {
        (_, true) => None,
        (Some(iv), false) if iv.len() == cipher.block_size() => Some(iv.as_bytes()),
        _ => return None,
    };
    let mut crypter = Crypter::new(cipher, direction, key, iv).ok()?;
    crypter.pad(padding);
    let mut out = vec![0; message.len() + cipher.block_size()];
    let mut len = crypter.update(message, &mut out).ok()?;
    len += crypter.finalize(&mut out[len..]).ok()?;
    out.truncate(len);
    Some(out)
}

fn crypt(_: &mut NativeCx<'_>, args: Args<'_>) -> Result<Outcome, Error> {
    let (key, salt) = (args.bytes(0).to_vec(), args.bytes(1).to_vec());
    // Slow by design, so it does not hold up the thread of the scripts.
    Ok(Outcome::Pending(Box::pin(async move {
        let hashed = tokio::task::spawn_blocking(move || crate::sys::crypt(&key, &salt)).await;
        let hashed = hashed.map_err(|e| Error::fatal(format!("crypt(): {e}")))?;
        Ok(hashed.unwrap_or_else(|| b"*0".to_vec()).into())
    })))
}

// ---- RSA ----

/// A digest and the DER prefix of its DigestInfo (RFC 8017 section 9.2 note 1).
fn signature_hash(options: &Array) -> Option<(MessageDigest, &'static [u8])> {
    let name = options.get_str("hash").map(Value::to_str);
    Some(match name.as_ref().map_or(&b"sha256"[..], |n| n.as_bytes()) {
        b"md5" => (
            MessageDigest::md5(),
            &[0x30, 0x20, 0x30, 0x0c, 6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 5, 5, 0, 4, 0x10],
        ),
        b"sha1" => {
            (MessageDigest::sha1(), &[0x30, 0x21, 0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 0x14])
        }
        b"sha256" => (
            MessageDigest::sha256(),
            &[0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20],
        ),
        b"sha512" => (
            MessageDigest::sha512(),
            &[0x30, 0x51, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 0x40],
        ),
        _ => return None,
    })
}

/// The DigestInfo of a message. Built here and not by OpenSSL's signature interface, whose policy may refuse MD5 and
/// SHA-1 on some systems.
fn digest_info(message: &[u8], options: &Array) -> Option<Vec<u8>> {
    let (kind, prefix) = signature_hash(options)?;
    let mut info = prefix.to_vec();
    info.extend_from_slice(&hash(kind, message).ok()?);
    Some(info)
}

fn rsa_sign(cx: &NativeCx<'_>, args: &Args<'_>) -> Option<Vec<u8>> {
    let o = options(args, 2);
    let key = match args.get(1) {
        Value::Str(text) if flag(&o, "id", false) => {
            environment::of(cx).keys.get(&*text.to_text())?.key.rsa()?
        }
        Value::Str(text) if flag(&o, "pem", false) => PrivateKey::from_pem(text.as_bytes())?.rsa()?,
        Value::Str(text) => match o.get_str("format").map(Value::to_str).as_ref().map(|f| f.as_bytes()) {
            None | Some(b"RSAPrivateKey") => Rsa::private_key_from_der(text.as_bytes()).ok()?,
            Some(b"PrivateKeyInfo") => PKey::private_key_from_pkcs8(text.as_bytes()).ok()?.rsa().ok()?,
            Some(_) => return None,
        },
        other => PrivateKey::of(other)?.rsa()?,
    };
    if key.size() < RSA_BITS_MIN / 8 {
        return None;
    }
    let info = digest_info(args.bytes(0), &o)?;
    let mut out = vec![0; key.size() as usize];
    let len = key.private_encrypt(&info, &mut out, Padding::PKCS1).ok()?;
    out.truncate(len);
    Some(out)
}

fn rsa_public_key(text: &[u8], options: &Array) -> Option<Rsa<Public>> {
    let format = options.get_str("format").map(Value::to_str);
    let pkcs1 = match format.as_ref().map_or(&b"RSAPublicKey"[..], |f| f.as_bytes()) {
        b"RSAPublicKey" => true,
        b"SubjectPublicKeyInfo" => false,
        _ => return None,
    };
    match (flag(options, "pem", false), pkcs1) {
        (false, true) => Rsa::public_key_from_der_pkcs1(text).ok(),
        (false, false) => PKey::public_key_from_der(text).ok()?.rsa().ok(),
        // The label of PEM says which it is.
        (true, _) => Rsa::public_key_from_pem_pkcs1(text)
            .ok()
            .or_else(|| PKey::public_key_from_pem(text).ok()?.rsa().ok()),
    }
}

fn rsa_verify(cx: &NativeCx<'_>, args: &Args<'_>) -> Option<bool> {
    let o = options(args, 3);
    let key = if flag(&o, "id", false) {
        let environment = environment::of(cx);
        let private = &environment.keys.get(&*args.string(2).to_text())?.key;
        PKey::public_key_from_der(&private.key.public_key_to_der().ok()?).ok()?.rsa().ok()?
    } else {
        rsa_public_key(args.bytes(2), &o)?
    };
    let info = digest_info(args.bytes(0), &o)?;
    let signature = args.bytes(1);
    if key.size() < RSA_BITS_MIN / 8 {
        return None;
    }
    if signature.len() != key.size() as usize {
        return Some(false);
    }
    let mut plain = vec![0; key.size() as usize];
    Some(match key.public_decrypt(signature, &mut plain, Padding::PKCS1) {
        Ok(len) => len == info.len() && openssl::memcmp::eq(&plain[..len], &info),
        Err(_) => false,
    })
}

// ---- Ed25519 ----

fn ed25519_sign(key: &PrivateKey, message: &[u8]) -> Option<Vec<u8>> {
    Signer::new_without_digest(&key.key).ok()?.sign_oneshot_to_vec(message).ok()
}

fn ed25519_verify(message: &[u8], signature: &[u8], key: &[u8]) -> Option<bool> {
    if key.len() != 32 || !on_curve(key).unwrap_or(false) {
        return None;
    }
    let key = PKey::public_key_from_raw_bytes(key, Id::ED25519).ok()?;
    if signature.len() != 64 {
        return Some(false);
    }
    let mut verifier = Verifier::new_without_digest(&key).ok()?;
    Some(verifier.verify_oneshot(signature, message).unwrap_or(false))
}

/// Whether 32 bytes name a point of the curve (RFC 8032 section 5.1.3): (y² − 1) / (d·y² + 1) must be a square, which
/// it is when the product of both has the Euler criterion of one.
fn on_curve(key: &[u8]) -> Result<bool, openssl::error::ErrorStack> {
    let mut bytes = key.to_vec();
    bytes[31] &= 0x7f;
    bytes.reverse();
    let mut context = BigNumContext::new()?;
    let p = BigNum::from_hex_str("7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFED")?;
    let d = BigNum::from_hex_str("52036CEE2B6FFE738CC740797779E89800700A4D4141D8AB75EB4DCA135978A3")?;
    let y = BigNum::from_slice(&bytes)?;
    if y >= p {
        return Ok(false);
    }
    let one = BigNum::from_u32(1)?;
    let (mut y2, mut u, mut v, mut t) = (BigNum::new()?, BigNum::new()?, BigNum::new()?, BigNum::new()?);
    y2.mod_sqr(&y, &p, &mut context)?;
    u.mod_sub(&y2, &one, &p, &mut context)?;
    t.mod_mul(&d, &y2, &p, &mut context)?;
    v.mod_add(&t, &one, &p, &mut context)?;
    t.mod_mul(&u, &v, &p, &mut context)?;
    // (p − 1) / 2
    let half = BigNum::from_hex_str("3FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF6")?;
    let mut euler = BigNum::new()?;
    euler.mod_exp(&t, &half, &p, &mut context)?;
    Ok(euler == one || euler.num_bits() == 0)
}

/// Checks a result that may be long.
fn checked(function: &str, bytes: Vec<u8>) -> Result<Value, Error> {
    check_string(function, bytes.len())?;
    Ok(bytes.into())
}
