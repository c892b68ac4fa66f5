//! Just enough DER (X.690) to look into certificates that OpenSSL has accepted: elements one after the other.

/// Tags used here.
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const INTEGER: u8 = 0x02;

/// The elements of a content, in order.
#[derive(Clone, Copy)]
pub(crate) struct Elements<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Elements<'a> {
    /// Tag and content.
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let mut len = usize::from(*first);
        if *first & 0x80 != 0 {
            len = 0;
            for _ in 0..usize::from(first & 0x7f) {
                let (byte, tail) = rest.split_first()?;
                rest = tail;
                len = len.checked_mul(256)? | usize::from(*byte);
            }
        }
        let content = rest.get(..len)?;
        self.0 = &rest[len..];
        Some((*tag, content))
    }
}

/// The content of the outermost sequence.
pub(crate) fn sequence(der: &[u8]) -> Option<Elements<'_>> {
    match Elements(der).next()? {
        (SEQUENCE, content) => Some(Elements(content)),
        _ => None,
    }
}

/// Dotted text of an object identifier.
pub(crate) fn oid_text(content: &[u8]) -> Option<String> {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0u64;
    for byte in content {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arc -= first * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
    }
    let text: Vec<String> = arcs.iter().map(ToString::to_string).collect();
    Some(text.join("."))
}

/// An extension of a certificate or a revocation list.
pub(crate) struct Extension<'a> {
    pub(crate) oid: String,
    pub(crate) critical: bool,
    pub(crate) value: &'a [u8],
}

/// The extensions of a sequence of them.
fn extensions(list: &[u8]) -> Vec<Extension<'_>> {
    let Some(list) = sequence(list) else { return Vec::new() };
    list.filter_map(|(_, content)| {
        let mut parts = Elements(content);
        let (OID, oid) = parts.next()? else { return None };
        let mut next = parts.next()?;
        let critical = next.0 == BOOLEAN && next.1 == [0xff];
        if next.0 == BOOLEAN {
            next = parts.next()?;
        }
        let (OCTET_STRING, value) = next else { return None };
        Some(Extension { oid: oid_text(oid)?, critical, value })
    })
    .collect()
}

/// The extensions of a certificate (RFC 5280 section 4.1): tag 3 of its first part.
pub(crate) fn certificate_extensions(der: &[u8]) -> Vec<Extension<'_>> {
    tagged(der, 0xa3)
}

/// The extensions of a revocation list (RFC 5280 section 5.1): tag 0 of its first part.
pub(crate) fn crl_extensions(der: &[u8]) -> Vec<Extension<'_>> {
    tagged(der, 0xa0)
}

fn tagged(der: &[u8], tag: u8) -> Vec<Extension<'_>> {
    let body = sequence(der).and_then(|mut parts| parts.next());
    let Some((SEQUENCE, body)) = body else { return Vec::new() };
    Elements(body).find(|(t, _)| *t == tag).map(|(_, list)| extensions(list)).unwrap_or_default()
}

/// Version of a revocation list: 2 when the field is there.
pub(crate) fn crl_version(der: &[u8]) -> u32 {
    let body = sequence(der).and_then(|mut parts| parts.next());
    match body.and_then(|(_, body)| Elements(body).next()) {
        Some((INTEGER, [n])) => u32::from(*n) + 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_input_ends() {
        for bad in
            [&b""[..], b"\x30", b"\x30\x82", b"\x30\x84\xff\xff\xff\xff", b"\x30\x05a", b"\x30\xff\x01"]
        {
            assert!(sequence(bad).is_none_or(|e| e.count() == 0), "{bad:?}");
        }
        assert_eq!(oid_text(&[0x55, 0x1d, 0x11]).as_deref(), Some("2.5.29.17"));
    }
}
