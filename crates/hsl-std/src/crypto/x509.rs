//! The class `X509` (library section C10): certificates.

use super::der::{self, Extension};
use super::keys::{certificate_of, certificate_value, certificates_of};
use super::openssl_extra::add_crl;
use super::{failed, x509crl};
use crate::support::{flag, options};
use hsl::{Args, Array, Error, FunctionDef, NativeClass, NativeObject, Object, OptionDef, Value, option};
use openssl::asn1::{Asn1Object, Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509NameRef, X509StoreContext};
use std::sync::{Arc, LazyLock};

const PEM: OptionDef = option("pem", "boolean", "false", "PEM text instead of DER bytes.");
const EXPORT_OPTIONS: &[OptionDef] = &[PEM];
const READ_OPTIONS: &[OptionDef] =
    &[PEM, option("multiple", "boolean", "false", "Gives a list of all certificates of a PEM text.")];

struct Certificate(X509);

impl NativeObject for Certificate {
    fn shareable(&self) -> bool {
        true
    }
}

/// The certificate of an object of the class.
pub(crate) fn certificate(object: &Arc<Object>) -> Option<&X509> {
    object.data::<Certificate>().map(|c| &c.0)
}

/// An object of the class.
pub(crate) fn object(certificate: X509) -> Value {
    Object::native(&CLASS, Certificate(certificate))
}

fn this(object: &Arc<Object>) -> Result<&X509, Error> {
    certificate(object).ok_or_else(|| Error::exception("Not an X509"))
}

/// The class.
pub(crate) fn class() -> Arc<NativeClass> {
    Arc::clone(&CLASS)
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("X509")
        .doc("A certificate.")
        .constructor(FunctionDef::pure(
            "X509(x509resource: X509Resource) -> X509",
            "The certificate of a resource.",
            |_, a| match certificate_of(a.get(0)) {
                Some(certificate) => Ok(object(certificate)),
                None => Err(Error::exception("X509 expects a certificate resource")),
            },
        ))
        .method("subject() -> array", "List of name and value in the order of the certificate.", |_, o, _| {
            Ok(name(this(o)?.subject_name()).into())
        })
        .method("issuer() -> array", "List of name and value in the order of the certificate.", |_, o, _| {
            Ok(name(this(o)?.issuer_name()).into())
        })
        .method("subject_alt_name() -> array", "Lists by kind: DNS, IP, email, URI.", |_, o, _| {
            Ok(alternative_names(this(o)?).into())
        })
        .method("version() -> number", "3 for version 3.", |_, o, _| {
            Ok(Value::from(this(o)?.version() + 1).into())
        })
        .method("serial_number() -> string", "Upper-case hexadecimal text.", |_, o, _| {
            Ok(Value::from(serial(this(o)?.serial_number())?).into())
        })
        .method("not_valid_before() -> number", "Unix time.", |_, o, _| {
            Ok(Value::from(unix_time(this(o)?.not_before())?).into())
        })
        .method("not_valid_after() -> number", "Unix time.", |_, o, _| {
            Ok(Value::from(unix_time(this(o)?.not_after())?).into())
        })
        .method("public_key(options?: array) -> string", "The SubjectPublicKeyInfo.", |_, o, a| {
            let key = this(o)?.public_key().map_err(|e| failed(&e))?;
            let bytes = if pem(&a) { key.public_key_to_pem() } else { key.public_key_to_der() };
            Ok(Value::from(bytes.map_err(|e| failed(&e))?).into())
        })
        .with_options(EXPORT_OPTIONS)
        .method("export(options?: array) -> string", "The certificate.", |_, o, a| {
            let bytes = if pem(&a) { this(o)?.to_pem() } else { this(o)?.to_der() };
            Ok(Value::from(bytes.map_err(|e| failed(&e))?).into())
        })
        .with_options(EXPORT_OPTIONS)
        .method(
            "verify(calist: array, intermediates?: array, revokelist?: array) -> array",
            "Checks the chain to one of the authorities; `result`, and `error` when it is false.",
            |_, o, a| Ok(Value::from(verify(this(o)?, &a)?).into()),
        )
        .method(
            "extensions(options?: array) -> array",
            "List of name, oid, critical and value (DER).",
            |_, o, _| {
                let der = this(o)?.to_der().map_err(|e| failed(&e))?;
                Ok(extension_list(der::certificate_extensions(&der)).into())
            },
        )
        .method("toResource() -> X509Resource", "The certificate as a resource.", |_, o, _| {
            Ok(certificate_value(this(o)?.clone()).into())
        })
        .method(
            "toFFIValue() -> FFIValue or none",
            "The address of OpenSSL's X509, valid while the object lives.",
            |cx, o, _| Ok(crate::ffi::certificate_pointer(cx, o, this(o)?).into()),
        )
        .function(
            FunctionDef::pure(
                "String(data: string, options?: array) -> X509 or array or none",
                "A certificate of DER bytes or PEM text.",
                |_, a| {
                    let o = options(&a, 1);
                    Ok(match (flag(&o, "multiple", false), flag(&o, "pem", false)) {
                        (true, true) => X509::stack_from_pem(a.bytes(0))
                            .ok()
                            .filter(|list| !list.is_empty())
                            .map(|list| list.into_iter().map(object).collect::<Array>())
                            .into(),
                        (true, false) => {
                            X509::from_der(a.bytes(0)).ok().map(|c| Array::from_list(vec![object(c)])).into()
                        }
                        (false, true) => X509::from_pem(a.bytes(0)).ok().map(object).unwrap_or_default(),
                        (false, false) => X509::from_der(a.bytes(0)).ok().map(object).unwrap_or_default(),
                    })
                },
            )
            .with_options(READ_OPTIONS),
        );
    Arc::new(class)
});

fn pem(args: &Args<'_>) -> bool {
    flag(&options(args, 0), "pem", false)
}

/// `[name, value]` pairs; names without a short form are dotted identifiers.
pub(super) fn name(name: &X509NameRef) -> Value {
    let pairs = name.entries().map(|entry| {
        let nid = entry.object().nid();
        let key = match nid.short_name() {
            Ok(short) if nid.as_raw() != 0 => short.to_owned(),
            _ => entry.object().to_string(),
        };
        let value = match entry.data().to_string() {
            Ok(text) => Value::from(text),
            Err(_) => Value::bytes(entry.data().as_slice()),
        };
        Value::from(vec![Value::from(key), value])
    });
    Value::from(pairs.collect::<Array>())
}

fn alternative_names(certificate: &X509) -> Value {
    let mut lists: [(&str, Vec<Value>); 4] =
        [("DNS", Vec::new()), ("IP", Vec::new()), ("email", Vec::new()), ("URI", Vec::new())];
    for name in certificate.subject_alt_names().iter().flatten() {
        let address = name.ipaddress().and_then(|bytes| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            _ => None,
        });
        if let Some(text) = name.dnsname() {
            lists[0].1.push(text.into());
        } else if let Some(text) = address {
            lists[1].1.push(text.into());
        } else if let Some(text) = name.email() {
            lists[2].1.push(text.into());
        } else if let Some(text) = name.uri() {
            lists[3].1.push(text.into());
        }
    }
    let mut out = Array::new();
    for (kind, list) in lists {
        if kind == "DNS" || !list.is_empty() {
            out.insert_str(kind, list);
        }
    }
    out.into()
}

pub(super) fn serial(number: &openssl::asn1::Asn1IntegerRef) -> Result<String, Error> {
    let text = number.to_bn().and_then(|n| n.to_hex_str().map(|s| s.to_string())).map_err(|e| failed(&e))?;
    Ok(if text == "0" { "00".to_owned() } else { text })
}

pub(super) fn unix_time(time: &Asn1TimeRef) -> Result<f64, Error> {
    let since = Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(time)).map_err(|e| failed(&e))?;
    Ok(f64::from(since.days) * 86_400.0 + f64::from(since.secs))
}

pub(super) fn extension_list(list: Vec<Extension<'_>>) -> Value {
    let items = list.into_iter().map(|extension| {
        let mut item = Array::new();
        let nid = Asn1Object::from_str(&extension.oid).ok().map(|object| object.nid());
        let short = nid.filter(|nid| nid.as_raw() != 0).and_then(|nid| nid.short_name().ok());
        item.insert_str("name", short.unwrap_or(&extension.oid));
        item.insert_str("oid", &*extension.oid);
        item.insert_str("critical", extension.critical);
        item.insert_str("value", extension.value);
        Value::from(item)
    });
    Value::from(items.collect::<Array>())
}

/// `["result" => true]`, or false with an error text.
pub(super) fn verdict(error: Option<String>) -> Array {
    let mut out = Array::new();
    out.insert_str("result", error.is_none());
    if let Some(error) = error {
        out.insert_str("error", error);
    }
    out
}

fn verify(certificate: &X509, args: &Args<'_>) -> Result<Array, Error> {
    let list = |i: usize| {
        certificates_of(args.given(i))
            .ok_or_else(|| Error::exception(format!("verify() expects certificates in argument {}", i + 1)))
    };
    let (roots, intermediates) = (list(0)?, list(1)?);
    let crls = x509crl::list(args.given(2))
        .ok_or_else(|| Error::exception("verify() expects revocation lists in argument 3"))?;
    let run = || -> Result<Option<String>, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for root in roots {
            store.add_cert(root)?;
        }
        for crl in &crls {
            add_crl(&mut store, crl)?;
        }
        if !crls.is_empty() {
            store.set_flags(X509VerifyFlags::CRL_CHECK)?;
        }
        // A root that is not self-signed is trusted as it is, as the caller says.
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        let mut chain = Stack::new()?;
        for intermediate in intermediates {
            chain.push(intermediate)?;
        }
        let mut context = X509StoreContext::new()?;
        context.init(&store.build(), certificate, &chain, |context| {
            let good = context.verify_cert()?;
            Ok((!good).then(|| context.error().error_string().to_owned()))
        })
    };
    run().map(verdict).map_err(|e| failed(&e))
}
