//! Certificates for tests, made when they are needed.

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// A certificate with its key.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: X509,
    /// Its key.
    pub key: PKey<Private>,
}

impl Certificate {
    /// PEM text of the certificate.
    ///
    /// # Panics
    /// When OpenSSL fails, as everywhere here.
    pub fn pem(&self) -> String {
        String::from_utf8(self.certificate.to_pem().expect("PEM")).expect("PEM is text")
    }

    /// PEM text of the key.
    pub fn key_pem(&self) -> String {
        String::from_utf8(self.key.private_key_to_pem_pkcs8().expect("PEM")).expect("PEM is text")
    }
}

/// A certificate for a name, signed by `issuer` or by itself, valid from `days.0` to `days.1` days from now.
pub fn issue(name: &str, issuer: Option<&Certificate>, days: (i64, i64)) -> Certificate {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("the curve is known");
    let key = PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key");
    let mut subject = X509NameBuilder::new().expect("a name");
    subject.append_entry_by_nid(Nid::COMMONNAME, name).expect("a name");
    let subject = subject.build();
    let mut builder = X509Builder::new().expect("a builder");
    builder.set_version(2).expect("version 3");
    let serial = BigNum::from_u32(rand::random::<u32>() >> 1).and_then(|n| n.to_asn1_integer());
    builder.set_serial_number(&serial.expect("a number")).expect("a number");
    builder.set_subject_name(&subject).expect("a name");
    builder
        .set_issuer_name(issuer.map_or(&subject, |issuer| issuer.certificate.subject_name()))
        .expect("a name");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let time = |days: i64| Asn1Time::from_unix(now as i64 + days * 86_400).expect("a time");
    builder.set_not_before(&time(days.0)).expect("a time");
    builder.set_not_after(&time(days.1)).expect("a time");
    builder.set_pubkey(&key).expect("a key");
    let mut names = SubjectAlternativeName::new();
    names.dns(name);
    let names = names.build(&builder.x509v3_context(None, None)).expect("an extension");
    builder.append_extension(names).expect("an extension");
    if issuer.is_none() {
        builder
            .append_extension(BasicConstraints::new().critical().ca().build().expect("an extension"))
            .expect("an extension");
    }
    builder.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256()).expect("a signature");
    Certificate { certificate: builder.build(), key }
}

/// A certificate for a name, signed by itself.
pub fn self_signed(name: &str) -> Certificate {
    issue(name, None, (-1, 30))
}

/// Text as a value of YAML.
pub fn yaml(text: &str) -> String {
    serde_json::to_string(text).expect("text has a JSON form")
}
