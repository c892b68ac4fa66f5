use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{MailMessage, MemoryContent, WriteOptions, words::WordEncoding};

const TEXT: &str =
    "From: a@x.example\r\nTo: b@y.example\r\nSubject: s\r\nDate: d\r\nMessage-ID: <m>\r\n\r\nbody\r\n";

fn key_pair() -> (SigningKey, Vec<u8>) {
    use base64::Engine as _;
    let key = openssl::pkey::PKey::generate_ed25519().unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(key.raw_public_key().unwrap());
    (SigningKey::new(key).unwrap(), format!("k=ed25519; p={text}").into_bytes())
}

fn content(text: &[u8]) -> MemoryContent {
    MemoryContent(Bytes::copy_from_slice(text))
}

fn status(text: &[u8], keys: &Keys) -> ChainStatus {
    let content = content(text);
    Chain::read(&HeaderIndex::read(&content).unwrap()).verify(&content, keys, 0).unwrap()
}

fn sealed(text: &[u8], key: &SigningKey, status: &ChainStatus) -> Result<Vec<u8>, MailError> {
    let mut options = SignOptions::new("s", "x.example");
    options.timestamp_s = Some(1000);
    let fields =
        seal(&content(text), key, &options, "mx.example; spf=pass\r\n smtp.mailfrom=a@x.example", status)?;
    let mut m = MailMessage::new(Arc::new(content(text)));
    for (name, value) in fields.iter().rev() {
        let options = WriteOptions { encode: false, encoding: WordEncoding::Shorter };
        m.prepend_header(name, value.as_bytes(), options).unwrap();
    }
    m.to_bytes()
}

#[test]
fn chains_grow_and_hold() {
    let (key, record) = key_pair();
    let mut keys = Keys::new();
    keys.insert("s._domainkey.x.example".into(), Ok(record));
    let mut text = TEXT.as_bytes().to_vec();
    assert_eq!(status(&text, &keys), ChainStatus::None);
    for instance in 1..=3_u32 {
        text = sealed(&text, &key, &status(&text, &keys)).unwrap();
        assert_eq!(status(&text, &keys), ChainStatus::Pass, "{}", String::from_utf8_lossy(&text));
        let chain = Chain::read(&HeaderIndex::read(&content(&text)).unwrap());
        assert_eq!(chain.instance(), instance);
        assert_eq!(chain.key_names(), ["s._domainkey.x.example"]);
    }
    let shown = String::from_utf8(text.clone()).unwrap();
    // A changed body, a changed or missing set.
    for (from, to) in
        [("body", "BODY"), ("spf=pass", "spf=fail"), ("i=2; mx", "i=4; mx"), ("cv=none", "cv=pass")]
    {
        let changed = shown.replacen(from, to, 1);
        assert_ne!(changed, shown);
        assert!(matches!(status(changed.as_bytes(), &keys), ChainStatus::Fail(_)), "{from}");
    }
    keys.insert("s._domainkey.x.example".into(), Err(DnsError::Temporary("timeout".into())));
    let unknown = status(&text, &keys);
    assert!(matches!(unknown, ChainStatus::TempError(_)));
    assert!(sealed(&text, &key, &unknown).is_err());
    keys.insert("s._domainkey.x.example".into(), Err(DnsError::NoDomain));
    let failed = status(&text, &keys);
    assert!(matches!(failed, ChainStatus::Fail(_)));
    // A failed chain is marked once and not continued.
    let marked = sealed(&text, &key, &failed).unwrap();
    assert!(String::from_utf8_lossy(&marked).contains("cv=fail"));
    assert!(sealed(&marked, &key, &failed).is_err());
}

#[test]
fn long_chains_end() {
    let mut text = Vec::new();
    for instance in (1..=INSTANCES_MAX + 1).rev() {
        text.extend_from_slice(
            format!("ARC-Seal: i={instance}; cv=pass; b=\r\nARC-Message-Signature: i={instance}\r\nARC-Authentication-Results: i={instance}; x\r\n").as_bytes(),
        );
    }
    text.extend_from_slice(TEXT.as_bytes());
    assert!(matches!(status(&text, &Keys::new()), ChainStatus::Fail(_)));
}
