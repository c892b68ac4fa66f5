//! Protobuf payloads as lists of encoded members, so that members unknown to this version survive a rewrite.

use std::collections::HashSet;

use prost::Message as _;

use crate::record::EntryUpdate;

/// The top-level members of a payload: number and encoded bytes, key included. `None` if it is no protobuf message.
pub(crate) fn members(mut payload: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let mut out = Vec::new();
    while !payload.is_empty() {
        let (key, key_len) = varint(payload)?;
        let number = u32::try_from(key >> 3).ok().filter(|n| *n > 0)?;
        let rest = &payload[key_len..];
        let body_len = match key & 7 {
            0 => varint(rest)?.1,
            1 => 8,
            2 => {
                let (len, len_len) = varint(rest)?;
                usize::try_from(len).ok()?.checked_add(len_len)?
            }
            5 => 4,
            _ => return None,
        };
        let len = key_len.checked_add(body_len)?;
        out.push((number, payload.get(..len)?));
        payload = &payload[len..];
    }
    Some(out)
}

/// The payload of an ENTRY with the members of an UPDATE in place of its own.
pub(crate) fn overlay(entry: &[u8], update: &[u8]) -> Option<Vec<u8>> {
    let changed = members(update)?;
    let cleared = EntryUpdate::decode(update).ok()?.cleared;
    let own = |number: u32| number == EntryUpdate::QUEUE_ID || number == EntryUpdate::CLEARED;
    let gone: HashSet<u32> =
        changed.iter().map(|(number, _)| *number).chain(cleared).filter(|n| !own(*n)).collect();
    let mut out = Vec::with_capacity(entry.len() + update.len());
    for (number, bytes) in members(entry)? {
        if !gone.contains(&number) {
            out.extend_from_slice(bytes);
        }
    }
    for (number, bytes) in changed {
        if !own(number) {
            out.extend_from_slice(bytes);
        }
    }
    Some(out)
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Entry, Pair};

    #[test]
    fn updates_replace_whole_members_and_unknown_ones_stay() {
        let entry = Entry {
            queue_id: 3,
            transport_id: "old".into(),
            priority: 1,
            metadata: vec![Pair::new("a", "1"), Pair::new("b", "2")],
            quotas: vec!["q".into()],
            ..Entry::default()
        };
        let mut bytes = entry.encode_to_vec();
        // Member 77, a varint of a later version.
        let unknown = [0xe8, 0x04, 0x2a];
        bytes.extend_from_slice(&unknown);
        let update = EntryUpdate {
            queue_id: 3,
            transport_id: Some("new".into()),
            priority: Some(0),
            metadata: vec![Pair::new("c", "3")],
            cleared: vec![EntryUpdate::QUOTAS],
            ..EntryUpdate::default()
        };
        let merged = overlay(&bytes, &update.encode_to_vec()).unwrap();
        let read = Entry::decode(&merged[..]).unwrap();
        assert_eq!(read.queue_id, 3);
        assert_eq!(read.transport_id, "new");
        assert_eq!(read.priority, 0);
        assert_eq!(read.metadata, [Pair::new("c", "3")]);
        assert!(read.quotas.is_empty());
        assert!(merged.windows(3).any(|w| w == unknown));
    }

    proptest! {
        #[test]
        fn never_panics(entry in prop::collection::vec(any::<u8>(), 0..64), update in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = overlay(&entry, &update);
            if let Some(list) = members(&entry) {
                prop_assert_eq!(list.iter().map(|(_, b)| b.len()).sum::<usize>(), entry.len());
            }
        }
    }
}
