use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Content, MemoryContent};

fn content(text: &str) -> MemoryContent {
    MemoryContent(Bytes::copy_from_slice(text.as_bytes()))
}

/// RFC 8463 appendix A.
const RFC8463: &str = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\nDKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n date : message-id : from : subject : date;\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\nFrom: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\nSubject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\nMessage-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\nHi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
const RFC8463_ED: &[u8] = b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
const RFC8463_RSA: &[u8] = b"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";

#[test]
fn rfc_8463_vectors() {
    let message = content(RFC8463);
    let header = crate::HeaderIndex::read(&message).unwrap();
    let fields: Vec<_> = header.named("DKIM-Signature").map(|field| header.raw(field).to_vec()).collect();
    for (field, key) in fields.iter().zip([RFC8463_ED, RFC8463_RSA]) {
        let signature = Signature::parse(field).unwrap();
        assert_eq!(signature.verify(&message, key, 0).unwrap(), Verdict::Pass);
        let changed = content(&RFC8463.replace("hungry", "Hungry"));
        assert!(matches!(signature.verify(&changed, key, 0).unwrap(), Verdict::PermError(_)));
        let changed = content(&RFC8463.replace("dinner", "lunch"));
        assert!(matches!(signature.verify(&changed, key, 0).unwrap(), Verdict::PermError(_)));
    }
    assert_eq!(Signature::parse(&fields[0]).unwrap().key_name(), "brisbane._domainkey.football.example.com");
}

fn text(der: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(der)
}

fn ed25519() -> (SigningKey, Vec<u8>) {
    let key = openssl::pkey::PKey::generate_ed25519().unwrap();
    let record = format!("k=ed25519; p={}", text(&key.raw_public_key().unwrap()));
    (SigningKey::new(key).unwrap(), record.into())
}

fn keys() -> Vec<(SigningKey, Vec<u8>)> {
    let rsa = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    vec![
        (
            SigningKey::new(rsa.clone()).unwrap(),
            format!("k=rsa; p={}", text(&rsa.public_key_to_der().unwrap())).into(),
        ),
        ed25519(),
    ]
}

fn check(text: &str, value: &str, key: &[u8], now: u64) -> Verdict {
    let field = format!("DKIM-Signature: {value}\r\n");
    let signature = Signature::parse(field.as_bytes()).unwrap();
    signature.verify(&content(&format!("{field}{text}")), key, now).unwrap()
}

#[test]
fn options_show_in_the_signature() {
    let text = "From: a@x\r\nReceived: r\r\nTo: b@y\r\nTo: c@y\r\nSubject: s\r\n\r\nbody\r\nmore\r\n";
    for (key, record) in keys() {
        let mut options = SignOptions::new("sel", "x");
        options.timestamp_s = Some(1000);
        options.expiration_s = Some(2000);
        options.identity = Some("user@sub.x".into());
        options.additional_headers = vec!["Nope".into(), "received".into()];
        options.oversign_headers = vec!["From".into(), "Subject".into(), "Cc".into()];
        options.body_length = Some(6);
        options.header = Canonicalization::Simple;
        let value = sign(&content(text), &key, &options).unwrap();
        let tags = TagList::parse(value.as_bytes()).unwrap();
        let h = tags.word("h").unwrap();
        assert_eq!(h, "from:from:subject:subject:to:to:received:cc");
        assert_eq!(tags.word("c").unwrap(), "simple/relaxed");
        assert_eq!(tags.word("l").unwrap(), "6");
        assert_eq!(check(text, &value, &record, 1500), Verdict::Pass);
        assert!(
            matches!(check(text, &value, &record, 2000), Verdict::PermError(text) if text.contains("expired"))
        );
        // What comes behind the signed octets does not count; what is oversigned cannot be added.
        assert_eq!(check(&text.replace("more", "less"), &value, &record, 0), Verdict::Pass);
        assert_ne!(check(&format!("Cc: z\r\n{text}"), &value, &record, 0), Verdict::Pass);
        assert_ne!(check(&format!("Subject: z\r\n{text}"), &value, &record, 0), Verdict::Pass);
        let strict = [&record[..], b"; t=s"].concat();
        assert_ne!(check(text, &value, &strict, 0), Verdict::Pass);
        for bad in ["; h=sha1", "; s=other"] {
            assert_ne!(
                check(text, &value, &[&record[..], bad.as_bytes()].concat(), 0),
                Verdict::Pass,
                "{bad}"
            );
        }
        options.body_length = Some(1000);
        assert!(sign(&content(text), &key, &options).is_err());
        options.domain = "x; d=evil".into();
        assert!(sign(&content(text), &key, &options).is_err());
    }
}

#[test]
fn unusable_keys() {
    let cases: &[(&[u8], KeyError)] = &[
        (b"p=", KeyError::Revoked),
        (b"nonsense", KeyError::NotARecord),
        (b"v=DKIM2; p=x", KeyError::Version("DKIM2".into())),
        (b"k=dsa; p=AAAA", KeyError::Type("dsa".into())),
        (b"k=ed25519; p=AAAA", KeyError::Data),
        (b"p=AAAA", KeyError::Data),
    ];
    for (record, error) in cases {
        assert_eq!(PublicKey::parse(record).err().as_ref(), Some(error), "{}", record.escape_ascii());
    }
    let short = openssl::pkey::PKey::from_rsa(openssl::rsa::Rsa::generate(512).unwrap()).unwrap();
    let der = text(&short.public_key_to_der().unwrap());
    assert_eq!(PublicKey::parse(format!("p={der}").as_bytes()).err(), Some(KeyError::Short(512)));
}

#[test]
fn unusable_signatures() {
    let good = "v=1; a=rsa-sha256; d=x.y; s=s; h=from; bh=AAAA; b=AAAA";
    assert!(Signature::parse(format!("DKIM-Signature: {good}").as_bytes()).is_ok());
    for (from, to) in [
        ("v=1; ", ""),
        ("v=1", "v=2"),
        ("rsa-sha256", "rsa-md5"),
        ("d=x.y", "d="),
        ("s=s; ", ""),
        ("h=from", "h=to"),
        ("bh=AAAA", "bh=*"),
        ("b=AAAA", "b=*"),
        ("h=from", "h=from; i=a@z"),
        ("h=from", "h=from; i=@zx.y"),
        ("h=from", "h=from; c=nope"),
        ("h=from", "h=from; l=-1"),
        ("h=from", "h=from; t=5; x=5"),
        ("h=from", "h=from; q=http"),
    ] {
        let text = format!("DKIM-Signature: {}", good.replace(from, to));
        assert!(Signature::parse(text.as_bytes()).is_err(), "{text}");
    }
}

fn body_bytes(mode: Canonicalization, pieces: &[&[u8]]) -> (Vec<u8>, u64) {
    let mut hasher = BodyHasher::new(openssl::hash::MessageDigest::sha256(), mode, None).unwrap();
    pieces.iter().for_each(|piece| hasher.update(piece).unwrap());
    hasher.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    openssl::sha::sha256(bytes).to_vec()
}

#[test]
fn canonical_bodies() {
    use Canonicalization::{Relaxed, Simple};
    let cases: &[(Canonicalization, &[u8], &[u8])] = &[
        // RFC 6376 3.4.5.
        (Relaxed, b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
        (Simple, b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n"),
        (Relaxed, b"", b""),
        (Simple, b"", b"\r\n"),
        (Relaxed, b"\r\n \t\r\n", b""),
        (Simple, b"\r\n\r\n", b"\r\n"),
        (Relaxed, b"a\n\nb", b"a\r\n\r\nb\r\n"),
        (Relaxed, b"a\rb \r", b"a\rb \r\r\n"),
    ];
    for (mode, body, expected) in cases {
        let found = body_bytes(*mode, &[body]);
        assert_eq!(found, (sha256(expected), expected.len() as u64), "{}", body.escape_ascii());
    }
}

proptest! {
    #[test]
    fn bodies_in_pieces(body in "[ab \t\r\n]{0,60}", cut in 0_usize..60, simple: bool) {
        let mode = if simple { Canonicalization::Simple } else { Canonicalization::Relaxed };
        let cut = cut.min(body.len());
        let (head, tail) = body.as_bytes().split_at(cut);
        prop_assert_eq!(body_bytes(mode, &[head, tail]), body_bytes(mode, &[body.as_bytes()]));
    }

    #[test]
    fn tag_lists_never_panic(text in prop::collection::vec(any::<u8>(), 0..200), tail in "(;?[a-z]=[^;]{0,5}){0,5}") {
        let all = [tail.as_bytes(), &text].concat();
        if let Some(list) = TagList::parse(&all) {
            for tag in list.tags() {
                prop_assert_eq!(all[tag.place.clone()].trim_ascii(), &tag.value[..]);
            }
        }
        let _ = Signature::parse(&[b"DKIM-Signature:", &all[..]].concat());
    }

    #[test]
    fn signed_messages_verify(name in "[A-Z][a-z]{0,5}", value in "[ -~]{0,20}", body in "[a-c \r\n]{0,40}", simple: bool) {
        let (key, record) = ed25519();
        let text = format!("From: a\r\n{name}: {value}\r\n\r\n{body}");
        let mut options = SignOptions::new("s", "d");
        options.additional_headers = vec![name];
        if simple {
            options.header = Canonicalization::Simple;
            options.body = Canonicalization::Simple;
        }
        let value = sign(&content(&text), &key, &options).unwrap();
        prop_assert_eq!(check(&text, &value, &record, 0), Verdict::Pass);
        let disk: Arc<dyn Content> = Arc::new(content(&text));
        prop_assert_eq!(sign(&*disk, &key, &options).unwrap().len(), value.len());
    }
}
