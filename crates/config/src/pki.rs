//! Keys and certificates of both files together: the private key may be in the startup file, which is read before rights
//! are dropped, and its certificate in the running file, which is read again on each reload.

use crate::app;
use std::collections::HashMap;

/// The texts of a key: the key, its certificate, the certificates above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PemTexts {
    /// The private key.
    pub key: Vec<u8>,
    /// Its certificate.
    pub certificate: Option<Vec<u8>>,
    /// Certificates between it and a root.
    pub chain: Vec<Vec<u8>>,
}

/// The keys by id: those of the startup file as they were read, with what the running file adds or replaces.
///
/// # Errors
/// A file cannot be read, or a key is in neither file, as a message with the place.
pub fn merge(
    startup: &HashMap<String, PemTexts>,
    running: &[app::PrivateKey],
) -> Result<HashMap<String, PemTexts>, String> {
    let mut keys = startup.clone();
    for entry in running {
        let wrong = |text: String| format!("/pki/private/{}: {text}", entry.id);
        let mut texts = keys.remove(&entry.id).unwrap_or_default();
        if let Some(key) = &entry.privatekey {
            texts.key = key.read().map_err(wrong)?;
        }
        if texts.key.is_empty() {
            return Err(wrong("no private key, neither here nor in the startup file".to_owned()));
        }
        if let Some(certificate) = &entry.certificate {
            texts.certificate = Some(certificate.read().map_err(wrong)?);
        }
        if !entry.chain.is_empty() {
            let chain: Result<_, _> = entry.chain.iter().map(|pem| pem.read()).collect();
            texts.chain = chain.map_err(wrong)?;
        }
        keys.insert(entry.id.clone(), texts);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::startup::Pem;

    #[test]
    fn files_complete_each_other() {
        let texts = PemTexts { key: b"K".to_vec(), certificate: Some(b"old".to_vec()), chain: vec![] };
        let startup = HashMap::from([("a".to_owned(), texts)]);
        let entry = |id: &str, key: Option<&str>| app::PrivateKey {
            id: id.to_owned(),
            privatekey: key.map(|text| Pem::Data(text.to_owned())),
            certificate: Some(Pem::Data("new".to_owned())),
            chain: vec![Pem::Data("up".to_owned())],
        };
        let keys = merge(&startup, &[entry("a", None), entry("b", Some("L"))]).unwrap();
        let texts = |key: &[u8]| PemTexts {
            key: key.to_vec(),
            certificate: Some(b"new".to_vec()),
            chain: vec![b"up".to_vec()],
        };
        assert_eq!(keys, HashMap::from([("a".to_owned(), texts(b"K")), ("b".to_owned(), texts(b"L"))]));
        let error = merge(&startup, &[entry("c", None)]).unwrap_err();
        assert!(error.starts_with("/pki/private/c: no private key"), "{error}");
        let nowhere =
            app::PrivateKey { privatekey: Some(Pem::Path("/nonexistent".into())), ..entry("d", None) };
        assert!(merge(&startup, &[nowhere]).unwrap_err().contains("/nonexistent"));
    }
}
