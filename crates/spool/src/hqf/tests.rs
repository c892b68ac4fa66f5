use proptest::prelude::*;

use super::*;
use crate::record::{EntryUpdate, Outcome};

fn record() -> MessageRecord {
    let entry = |queue_id| Entry { queue_id, transport_id: "t".into(), ..Entry::default() };
    let mut edits = EditList::default();
    edits.replace(0, 2, "xy", mail::Place::Before);
    MessageRecord { edits: vec![(1, edits)], entries: vec![entry(1), entry(2)], ..MessageRecord::default() }
}

fn image(content: &[u8], appended: &[Frame]) -> Vec<u8> {
    let header = Header {
        flags: 0,
        id: Uuid::from_u128(5),
        content_bytes: content.len() as u64,
        content_crc: crc32c::crc32c(content),
    };
    let mut out = header.encode().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len() + header.padding(), 0);
    out.extend(encode_record(&record()).unwrap());
    for frame in appended {
        out.extend(encode_frame(frame).unwrap());
    }
    out
}

fn changes() -> Vec<Frame> {
    let update = |queue_id, retry| {
        Frame::Update(Box::new(EntryUpdate { queue_id, retry: Some(retry), ..EntryUpdate::default() }))
    };
    let done = Done { queue_id: 2, outcome: Outcome::Bounced as i32, time_s: 1.0, dsn_id: vec![1; 16] };
    vec![update(1, 1), update(2, 1), Frame::Done(done), update(1, 2)]
}

#[test]
fn reads_what_it_writes() {
    let image = image(b"Subject: x\r\n\r\nbody\r\n", &changes());
    let (header, frames) = read_image(&image).unwrap();
    assert_eq!(header.id, Uuid::from_u128(5));
    assert_eq!(header.frames_offset() + frames.good_bytes, image.len() as u64);
    let state = frames.state().unwrap();
    assert_eq!(state.entries.len(), 1);
    assert_eq!((state.entries[0].queue_id, state.entries[0].retry), (1, 2));
    assert_eq!(state.done.len(), 1);
    assert_eq!(state.edits, record().edits);
    let compacted = Bytes::from(frames.compacted().unwrap());
    let again = Frames::parse(&compacted).unwrap();
    assert!(again.appended.is_empty());
    assert_eq!(again.state().unwrap().entries, state.entries);
}

#[test]
fn header_rejects_what_it_must() {
    let good = image(b"x", &[]);
    assert_eq!(Header::decode(&good[..63]), Err(Corruption::Short));
    let mut newer = good.clone();
    newer[8] = 2;
    assert_eq!(Header::decode(&newer), Err(Corruption::Header));
    let crc = crc32c::crc32c(&newer[..60]);
    newer[60..64].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Header::decode(&newer), Err(Corruption::Version));
}

/// Q7: truncation behind COMMIT gives the state of an earlier moment, before it none at all.
#[test]
fn truncated_at_every_byte() {
    let content = b"hello";
    let whole = image(content, &changes());
    let mut moments = Vec::new();
    for n in 0..=changes().len() {
        moments.push(image(content, &changes()[..n]).len());
    }
    for len in 0..whole.len() {
        let result = read_image(&whole[..len]);
        let moment = moments.iter().rposition(|end| *end <= len);
        match moment {
            None => assert!(result.is_err(), "{len}"),
            Some(n) => {
                let (header, frames) = result.unwrap();
                assert_eq!((header.frames_offset() + frames.good_bytes) as usize, moments[n], "{len}");
                assert_eq!(frames.appended.len(), n, "{len}");
                frames.state().unwrap();
            }
        }
    }
}

/// Q6: a flipped bit is noticed wherever it is.
#[test]
fn flipped_at_every_byte() {
    let content = b"hello";
    let whole = image(content, &changes());
    let commit_end = image(content, &[]).len();
    for at in 0..whole.len() {
        for bit in [0, 3, 7] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let content_range = 64..64 + content.len();
            match read_image(&bytes) {
                Err(_) => assert!(at < commit_end && !content_range.contains(&at), "{at}"),
                Ok((header, _)) if content_range.contains(&at) => {
                    assert_ne!(header.content_crc, crc32c::crc32c(&bytes[content_range]));
                }
                Ok((_, frames)) => {
                    assert!(at >= commit_end, "{at}");
                    assert!(frames.appended.len() < changes().len());
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), offset in 0_usize..200) {
        let _ = read_image(&bytes);
        let mut mixed = image(b"hello", &changes());
        let end = mixed.len();
        let offset = offset.min(end);
        mixed.splice(offset.., bytes.iter().copied());
        if let Ok((_, frames)) = read_image(&mixed) {
            let _ = frames.state();
            let _ = frames.compacted();
        }
    }
}
