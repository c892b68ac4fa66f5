//! The class `X509CRL` (library section C11): certificate revocation lists.

use super::x509::{extension_list, name, serial, unix_time};
use super::{der, failed};
use crate::support::{flag, options};
use hsl::{
    Args, Array, Error, FunctionDef, NativeClass, NativeObject, Object, OptionDef, Resource, Value, option,
};
use openssl::x509::{CrlReason, ReasonCode, X509Crl};
use std::sync::{Arc, LazyLock};

const OPTIONS: &[OptionDef] = &[option("pem", "boolean", "false", "PEM text instead of DER bytes.")];

struct List(Arc<X509Crl>);

impl NativeObject for List {
    fn shareable(&self) -> bool {
        true
    }
}

fn this(object: &Arc<Object>) -> Result<&X509Crl, Error> {
    object.data::<List>().map(|l| &*l.0).ok_or_else(|| Error::exception("Not an X509CRL"))
}

fn of(value: &Value) -> Option<Arc<X509Crl>> {
    match value {
        Value::Resource(resource) => resource.data::<Arc<X509Crl>>().cloned(),
        Value::Object(object) => object.data::<List>().map(|l| Arc::clone(&l.0)),
        _ => None,
    }
}

/// The revocation lists of a list.
pub(super) fn list(value: Option<&Value>) -> Option<Vec<Arc<X509Crl>>> {
    match value {
        None => Some(Vec::new()),
        Some(Value::Array(list)) => list.values().map(of).collect(),
        Some(_) => None,
    }
}

/// The class.
pub(crate) fn class() -> Arc<NativeClass> {
    Arc::clone(&CLASS)
}

static CLASS: LazyLock<Arc<NativeClass>> = LazyLock::new(|| {
    let class = NativeClass::new("X509CRL")
        .doc("A certificate revocation list.")
        .constructor(FunctionDef::pure(
            "X509CRL(x509CRLresource: X509CRLResource) -> X509CRL",
            "The list of a resource.",
            |_, a| match of(a.get(0)) {
                Some(crl) => Ok(Object::native(&CLASS, List(crl))),
                None => Err(Error::exception("X509CRL expects a revocation list resource")),
            },
        ))
        .method("issuer() -> array", "List of name and value.", |_, o, _| {
            Ok(name(this(o)?.issuer_name()).into())
        })
        .method("version() -> number", "2 for version 2.", |_, o, _| {
            let der = this(o)?.to_der().map_err(|e| failed(&e))?;
            Ok(Value::from(der::crl_version(&der)).into())
        })
        .method("last_update() -> number", "Unix time.", |_, o, _| {
            Ok(Value::from(unix_time(this(o)?.last_update())?).into())
        })
        .method("next_update() -> number or none", "Unix time.", |_, o, _| {
            Ok(Value::from(this(o)?.next_update().map(unix_time).transpose()?).into())
        })
        .method("export(options?: array) -> string", "The list.", |_, o, a| {
            let pem = pem(&a, 0);
            let bytes = if pem { this(o)?.to_pem() } else { this(o)?.to_der() };
            Ok(Value::from(bytes.map_err(|e| failed(&e))?).into())
        })
        .with_options(OPTIONS)
        .method("extensions() -> array", "List of name, oid, critical and value (DER).", |_, o, _| {
            let der = this(o)?.to_der().map_err(|e| failed(&e))?;
            Ok(extension_list(der::crl_extensions(&der)).into())
        })
        .method("revoked() -> array", "List of serial_number and reason.", |_, o, _| {
            Ok(Value::from(revoked(this(o)?)?).into())
        })
        .method("toResource() -> X509CRLResource", "The list as a resource.", |_, o, _| {
            let crl = object_list(o)?;
            Ok(Value::Resource(Resource::new(crl, true)).into())
        })
        .function(
            FunctionDef::pure(
                "String(data: string, options?: array) -> X509CRL or none",
                "A list of DER bytes or PEM text.",
                |_, a| {
                    let crl = if pem(&a, 1) {
                        X509Crl::from_pem(a.bytes(0))
                    } else {
                        X509Crl::from_der(a.bytes(0))
                    };
                    Ok(crl.map_or(Value::None, |crl| Object::native(&CLASS, List(Arc::new(crl)))))
                },
            )
            .with_options(OPTIONS),
        );
    Arc::new(class)
});

fn object_list(object: &Arc<Object>) -> Result<Arc<X509Crl>, Error> {
    object.data::<List>().map(|l| Arc::clone(&l.0)).ok_or_else(|| Error::exception("Not an X509CRL"))
}

/// The option `pem`, or `true` in its place.
fn pem(args: &Args<'_>, at: usize) -> bool {
    flag(&options(args, at), "pem", false)
}

fn revoked(crl: &X509Crl) -> Result<Array, Error> {
    let mut list = Array::new();
    for entry in crl.get_revoked().into_iter().flatten() {
        let mut item = Array::new();
        item.insert_str("serial_number", serial(entry.serial_number())?);
        let reason = entry.extension::<ReasonCode>().map_err(|e| failed(&e))?;
        let reason = reason.and_then(|(_, code)| code.get_i64().ok()).and_then(reason_name);
        item.insert_str("reason", Value::from(reason));
        list.push(item);
    }
    Ok(list)
}

/// Names of RFC 5280 section 5.3.1.
fn reason_name(code: i64) -> Option<&'static str> {
    const NAMES: [(CrlReason, &str); 10] = [
        (CrlReason::UNSPECIFIED, "unspecified"),
        (CrlReason::KEY_COMPROMISE, "keyCompromise"),
        (CrlReason::CA_COMPROMISE, "cACompromise"),
        (CrlReason::AFFILIATION_CHANGED, "affiliationChanged"),
        (CrlReason::SUPERSEDED, "superseded"),
        (CrlReason::CESSATION_OF_OPERATION, "cessationOfOperation"),
        (CrlReason::CERTIFICATE_HOLD, "certificateHold"),
        (CrlReason::REMOVE_FROM_CRL, "removeFromCRL"),
        (CrlReason::PRIVILEGE_WITHDRAWN, "privilegeWithdrawn"),
        (CrlReason::AA_COMPROMISE, "aACompromise"),
    ];
    NAMES.iter().find(|(reason, _)| i64::from(reason.as_raw()) == code).map(|(_, name)| *name)
}
