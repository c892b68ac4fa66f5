//! DANE: whether a certificate is what TLSA records say (RFC 6698, RFC 7671).

use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509Ref, X509StoreContext};

/// A TLSA record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// 2: a trust anchor, 3: the certificate of the host itself; 0 and 1 are not for mail (RFC 7672 3.1.3).
    pub usage: u8,
    /// 0: the whole certificate, 1: its public key.
    pub selector: u8,
    /// 0: as it is, 1: SHA-256, 2: SHA-512.
    pub matching: u8,
    /// What is compared.
    pub data: Vec<u8>,
}

impl Tlsa {
    /// False for records with parameters that are unknown or not for mail, or with data of a wrong length.
    pub fn is_usable(&self) -> bool {
        let length_fits = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && self.selector <= 1 && length_fits
    }

    fn matches(&self, certificate: &X509Ref) -> Result<bool, ErrorStack> {
        let selected = match self.selector {
            0 => certificate.to_der()?,
            _ => certificate.public_key()?.public_key_to_der()?,
        };
        Ok(match self.matching {
            0 => selected == self.data,
            1 => *hash(MessageDigest::sha256(), &selected)? == self.data[..],
            _ => *hash(MessageDigest::sha512(), &selected)? == self.data[..],
        })
    }
}

/// Whether one of the usable records vouches for the certificate. `names` are those that a certificate below a trust
/// anchor may carry.
pub(super) fn proves(
    records: &[Tlsa],
    names: &[String],
    certificate: &X509,
    chain: &[X509],
) -> Result<bool, ErrorStack> {
    let usable = || records.iter().filter(|record| record.is_usable());
    for record in usable().filter(|record| record.usage == 3) {
        if record.matches(certificate)? {
            return Ok(true);
        }
    }
    let mut anchors = Vec::new();
    for record in usable().filter(|record| record.usage == 2) {
        for candidate in chain.iter().chain([certificate]) {
            if record.matches(candidate)? {
                anchors.push(candidate.clone());
            }
        }
        // A whole certificate in the record need not be sent by the host.
        if (record.selector, record.matching) == (0, 0)
            && let Ok(anchor) = X509::from_der(&record.data)
        {
            anchors.push(anchor);
        }
    }
    if anchors.is_empty() || !names.iter().any(|name| super::matches_name(certificate, name)) {
        return Ok(false);
    }
    leads_to(&anchors, certificate, chain)
}

/// Whether the chain leads from the certificate to one of the anchors, with good signatures and dates.
fn leads_to(anchors: &[X509], certificate: &X509, chain: &[X509]) -> Result<bool, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for anchor in anchors {
        store.add_cert(anchor.clone())?;
    }
    // The anchor need not be a root (RFC 7671 5.2).
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    let mut between = Stack::new()?;
    for one in chain {
        between.push(one.clone())?;
    }
    X509StoreContext::new()?.init(&store.build(), certificate, &between, |context| context.verify_cert())
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::nid::Nid;
    use openssl::pkey::{PKey, Private};
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
    use openssl::x509::{X509Builder, X509NameBuilder};

    fn key() -> PKey<Private> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    fn certificate(
        name: &str,
        key: &PKey<Private>,
        issuer: Option<(&X509, &PKey<Private>)>,
        days: (i64, i64),
    ) -> X509 {
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
        let subject = subject.build();
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        builder
            .set_serial_number(
                &BigNum::from_u32(rand::random::<u32>() >> 1).unwrap().to_asn1_integer().unwrap(),
            )
            .unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(issuer.map_or(&*subject, |(issuer, _)| issuer.subject_name())).unwrap();
        builder.set_pubkey(key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(now + days.0 * 86_400).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(now + days.1 * 86_400).unwrap()).unwrap();
        let is_authority = !name.contains('.');
        if is_authority {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        } else {
            let names =
                SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(names).unwrap();
        }
        builder.sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha256()).unwrap();
        builder.build()
    }

    fn record(usage: u8, selector: u8, matching: u8, of: &X509) -> Tlsa {
        let selected = match selector {
            0 => of.to_der().unwrap(),
            _ => of.public_key().unwrap().public_key_to_der().unwrap(),
        };
        let data = match matching {
            0 => selected,
            1 => hash(MessageDigest::sha256(), &selected).unwrap().to_vec(),
            _ => hash(MessageDigest::sha512(), &selected).unwrap().to_vec(),
        };
        Tlsa { usage, selector, matching, data }
    }

    #[test]
    fn every_usable_form_proves_and_no_other_does() {
        let (root_key, between_key, host_key, other_key) = (key(), key(), key(), key());
        let root = certificate("root", &root_key, None, (-1, 10));
        let between = certificate("between", &between_key, Some((&root, &root_key)), (-1, 10));
        let host = certificate("mx.example.com", &host_key, Some((&between, &between_key)), (-1, 10));
        let old = certificate("mx.example.com", &host_key, Some((&between, &between_key)), (-9, -1));
        let other = certificate("mx.example.com", &other_key, None, (-1, 10));
        let names = ["mx.example.com".to_owned()];
        let chain = [between.clone()];
        let proven = |record: &Tlsa, certificate: &X509, names: &[String], chain: &[X509]| {
            proves(std::slice::from_ref(record), names, certificate, chain).unwrap()
        };
        for selector in 0..=1 {
            for matching in 0..=2 {
                let own = record(3, selector, matching, &host);
                assert!(proven(&own, &host, &names, &chain), "{selector} {matching}");
                assert!(proven(&own, &host, &[], &[]), "usage 3 looks at no name and no chain");
                assert!(!proven(&own, &other, &names, &chain));
                let anchor = record(2, selector, matching, &between);
                assert!(proven(&anchor, &host, &names, &chain), "{selector} {matching}");
                assert!(!proven(&anchor, &host, &["other.example.com".to_owned()], &chain));
                assert!(!proven(&anchor, &old, &names, &chain), "dates count below an anchor");
                assert!(
                    !proven(&anchor, &other, &names, &chain),
                    "an anchor beside the chain proves nothing"
                );
                for usage in 0..=1 {
                    let unusable = Tlsa { usage, ..record(3, selector, matching, &host) };
                    assert!(!unusable.is_usable() && !proven(&unusable, &host, &names, &chain));
                }
            }
        }
        assert!(proven(&record(3, 0, 1, &old), &old, &[], &[]), "nor at dates");
        // The root itself is not sent; a record with all of it is enough, a digest of it is not.
        assert!(proven(&record(2, 0, 0, &root), &host, &names, &chain));
        assert!(!proven(&record(2, 0, 1, &root), &host, &names, &chain));
        assert!(proven(&record(2, 0, 1, &root), &host, &names, &[between.clone(), root.clone()]));
        for broken in [
            Tlsa { data: vec![0; 31], ..record(3, 0, 1, &host) },
            Tlsa { matching: 3, ..record(3, 0, 1, &host) },
            Tlsa { selector: 2, ..record(3, 0, 1, &host) },
            Tlsa { data: Vec::new(), ..record(3, 0, 0, &host) },
        ] {
            assert!(!broken.is_usable());
        }
    }
}
