//! What a spool promises while nothing goes wrong, and when the disk is full or files are damaged.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use mail::{EditList, Place};
use spool::{
    CorruptPolicy, Done,
    Durability::{Synced, Written},
    Entry, EntryUpdate, Event, Frame, LoadOptions, MessageRecord, Meta, Outcome, Recovered, Spool,
    SpoolError, SpoolOptions, Uuid,
    disk::{Disk, RealDisk, SimDisk},
    record::{Delivered, Mailbox, Pair},
};

type Seen = Arc<Mutex<Vec<Recovered>>>;

fn options(path: impl Into<PathBuf>) -> SpoolOptions {
    SpoolOptions {
        journal_segment_bytes: 64 << 10,
        journal_hold: Duration::from_secs(3600),
        threads_sync: 2,
        threads_load: 2,
        ..SpoolOptions::new(path)
    }
}

fn open(options: SpoolOptions, disk: &Arc<dyn Disk>) -> (Spool, Vec<Recovered>) {
    let seen = Seen::default();
    let sink = Arc::clone(&seen);
    let spool = Spool::open(options, Arc::clone(disk), move |recovered| sink.lock().unwrap().push(recovered))
        .unwrap();
    spool.wait_loaded();
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_by_key(|recovered| recovered.id);
    (spool, seen)
}

fn entry(queue_id: u64) -> Entry {
    Entry {
        queue_id,
        recipient: Some(Mailbox { localpart: format!("r{queue_id}"), domain: "x".into() }),
        metadata: vec![Pair::new("k", "v")],
        ..Entry::default()
    }
}

fn record(entries: u64) -> MessageRecord {
    MessageRecord {
        meta: Meta { received_s: 7.5, ..Meta::default() },
        entries: (1..=entries).map(entry).collect(),
        ..MessageRecord::default()
    }
}

fn commit(spool: &Spool, id: u128, content: &[u8]) -> Result<spool::Committed, SpoolError> {
    let mut staging = spool.stage(Uuid::from_u128(id));
    staging.write(content)?;
    spool.commit(staging, record(2)).wait()
}

fn content(spool: &Spool, id: u128) -> Vec<u8> {
    let content = spool.content(Uuid::from_u128(id)).unwrap();
    let mut bytes = vec![0; content.len() as usize];
    content.read_at(0, &mut bytes).unwrap();
    bytes
}

fn done(queue_id: u64) -> Done {
    Done { queue_id, outcome: Outcome::Delivered as i32, ..Done::default() }
}

fn update(queue_id: u64, retry: u32) -> Frame {
    Frame::Update(Box::new(EntryUpdate { queue_id, retry: Some(retry), ..EntryUpdate::default() }))
}

fn big() -> Vec<u8> {
    (0..2_000_000_u32).map(|n| (n % 251) as u8).collect()
}

fn both(test: impl Fn(&Arc<dyn Disk>, &Path)) {
    let sim: Arc<dyn Disk> = Arc::new(SimDisk::new());
    test(&sim, Path::new("/spool"));
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    let directory = tempfile::tempdir().unwrap();
    test(&real, directory.path());
}

#[test]
fn a_message_lives_in_journal_and_file() {
    both(|disk, path| {
        let id = Uuid::from_u128(1);
        let (spool, seen) = open(options(path), disk);
        assert!(seen.is_empty());
        let committed = commit(&spool, 1, b"hello\r\n").unwrap();
        assert!(committed.in_journal);
        assert_eq!(committed.path, path.join("00").join(format!("{id}.hqf")));
        assert!(!disk.exists(&committed.path).unwrap());
        assert_eq!(content(&spool, 1), b"hello\r\n");
        assert!(matches!(commit(&spool, 1, b"again"), Err(SpoolError::Duplicate(_))));
        spool.append(id, &update(1, 3), Synced).wait().unwrap();
        assert_eq!(spool.read(id).unwrap().entries[0].retry, 3);
        drop(spool);

        let (spool, seen) = open(options(path), disk);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].location, spool::Location::Journal);
        assert_eq!((seen[0].entries.len(), seen[0].entries[0].retry), (2, 3));
        assert_eq!(seen[0].meta.received_s, 7.5);
        assert_eq!(content(&spool, 1), b"hello\r\n");
        spool.spill(id).wait().unwrap();
        assert!(disk.exists(&committed.path).unwrap());
        assert_eq!(spool.stats().residents, 0);
        spool.append(id, &update(1, 4), Synced).wait().unwrap();
        spool.finish(id, done(2), false, Synced).wait().unwrap();
        drop(spool);

        let (spool, seen) = open(options(path), disk);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].location, spool::Location::File);
        assert_eq!((seen[0].entries.len(), seen[0].entries[0].retry), (1, 4));
        assert_eq!(content(&spool, 1), b"hello\r\n");
        spool.finish(id, done(1), true, Synced).wait().unwrap();
        assert!(matches!(spool.content(id), Err(SpoolError::NotFound(_))));
        drop(spool);
        assert!(open(options(path), disk).1.is_empty());
    });
}

#[test]
fn finished_in_time_it_never_becomes_a_file() {
    both(|disk, path| {
        let (spool, _) = open(options(path), disk);
        for id in 1..=100 {
            commit(&spool, id, b"x").unwrap();
            spool
                .finish(Uuid::from_u128(id), done(1), true, if id % 2 == 0 { Synced } else { Written })
                .wait()
                .unwrap();
        }
        spool.shutdown().unwrap();
        assert_eq!((spool.stats().spills, spool.stats().residents), (0, 0));
        drop(spool);
        assert!(open(options(path), disk).1.is_empty());
    });
}

#[test]
fn large_messages_and_a_disabled_journal_use_files() {
    both(|disk, path| {
        let (spool, _) = open(options(path), disk);
        let mut staging = spool.stage(Uuid::from_u128(9));
        for chunk in big().chunks(70_000) {
            staging.write(chunk).unwrap();
        }
        assert_eq!(staging.content().len(), 2_000_000);
        let committed = spool.commit(staging, record(1)).wait().unwrap();
        assert!(!committed.in_journal);
        assert_eq!(content(&spool, 9), big());
        // Given up while it arrives, nothing stays.
        let mut staging = spool.stage(Uuid::from_u128(10));
        staging.write(&big()).unwrap();
        drop(staging);
        assert!(disk.list(&path.join("incoming")).unwrap().is_empty());
        assert!(matches!(commit(&spool, 9, b"again"), Err(SpoolError::Duplicate(_))));
        drop(spool);
        let (spool, seen) = open(SpoolOptions { journal_enabled: false, ..options(path) }, disk);
        assert_eq!(seen.len(), 1);
        assert!(!commit(&spool, 11, b"small").unwrap().in_journal);
        assert_eq!(content(&spool, 11), b"small");
        spool.shutdown().unwrap();
        drop(spool);
        assert_eq!(open(options(path), disk).1.len(), 2);
    });
}

#[test]
fn held_too_long_it_is_spilled() {
    both(|disk, path| {
        let (spool, _) =
            open(SpoolOptions { journal_hold: Duration::from_millis(30), ..options(path) }, disk);
        let committed = commit(&spool, 1, b"x").unwrap();
        for _ in 0..500 {
            if spool.stats().spills > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(disk.exists(&committed.path).unwrap());
        assert_eq!(content(&spool, 1), b"x");
    });
}

#[test]
fn segments_are_pressed_and_reused() {
    both(|disk, path| {
        let options = SpoolOptions { journal_segments: 2, journal_memory_bytes: 0, ..options(path) };
        let (spool, _) = open(options.clone(), disk);
        for id in 1..=60 {
            commit(&spool, id, &vec![id as u8; 9_000]).unwrap();
            if id % 3 == 0 {
                spool.finish(Uuid::from_u128(id), done(1), true, Synced).wait().unwrap();
            }
        }
        for id in (1..=60).filter(|id| id % 3 != 0) {
            assert_eq!(content(&spool, id), vec![id as u8; 9_000]);
        }
        spool.shutdown().unwrap();
        assert!(spool.stats().spills > 0);
        assert!(disk.list(&path.join("journal")).unwrap().len() <= 5);
        drop(spool);
        let (_spool, seen) = open(options, disk);
        assert_eq!(seen.len(), 40);
    });
}

#[test]
fn edits_metadata_and_delivery_survive() {
    both(|disk, path| {
        let id = Uuid::from_u128(3);
        let (spool, _) = open(options(path), disk);
        let mut edits = EditList::default();
        edits.replace(0, 0, "X: 1\r\n", Place::Before);
        let mut record = record(2);
        record.edits = vec![(1, edits.clone())];
        record.entries[1].edit_id = 1;
        record.smtputf8 = true;
        let mut staging = spool.stage(id);
        staging.write("Subject: ü\0\r\n".as_bytes()).unwrap();
        spool.commit(staging, record).wait().unwrap();
        let delivered = Delivered { code: 250, reason: vec![b"ok".to_vec()], ..Delivered::default() };
        let change = EntryUpdate {
            queue_id: 2,
            delivered: Some(delivered.clone()),
            cleared: vec![EntryUpdate::METADATA],
            ..EntryUpdate::default()
        };
        spool.append(id, &Frame::Update(Box::new(change)), Synced).wait().unwrap();
        for turn in 0..3 {
            let read = spool.read(id).unwrap();
            assert_eq!(read.entries[1].delivered, Some(delivered.clone()), "{turn}");
            assert!(read.entries[1].metadata.is_empty() && !read.entries[0].metadata.is_empty());
            assert_eq!(read.edits, [(1, edits.clone())]);
            assert!(read.smtputf8 && read.has_8bit && read.has_nul);
            let modified = spool.export(id, Some(2)).unwrap().to_bytes().unwrap();
            assert_eq!(modified, "X: 1\r\nSubject: ü\0\r\n".as_bytes());
            assert_eq!(spool.export(id, None).unwrap().to_bytes().unwrap(), "Subject: ü\0\r\n".as_bytes());
            assert!(spool.export(id, Some(7)).is_err());
            if turn == 0 {
                spool.spill(id).wait().unwrap();
            } else {
                spool.compact(id).wait().unwrap();
            }
        }
    });
}

#[test]
fn many_updates_are_compacted() {
    both(|disk, path| {
        let id = Uuid::from_u128(4);
        let (spool, _) = open(options(path), disk);
        let committed = commit(&spool, 4, b"body").unwrap();
        spool.spill(id).wait().unwrap();
        for retry in 0..6_000 {
            spool.append(id, &update(1, retry), Written).wait().unwrap();
        }
        spool.append(id, &update(2, 77), Synced).wait().unwrap();
        assert!(spool.stats().compactions > 0);
        let read = spool.read(id).unwrap();
        assert_eq!((read.entries[0].retry, read.entries[1].retry), (5_999, 77));
        let size = disk.open(&committed.path, spool::disk::Open::Read).unwrap().size().unwrap();
        assert!(size < 200 << 10, "{size}");
        assert_eq!(content(&spool, 4), b"body");
    });
}

#[test]
fn unload_move_and_load() {
    both(|disk, path| {
        let id = Uuid::from_u128(5);
        let (spool, _) = open(options(path), disk);
        commit(&spool, 5, b"body").unwrap();
        spool.append(id, &update(1, 4), Synced).wait().unwrap();
        let file = spool.unload(id).wait().unwrap();
        assert_eq!(spool.stats().residents, 0);
        let (read, content_read) = spool::read_hqf(&**disk, &file).unwrap();
        assert_eq!((read.id, read.entries[0].retry, content_read.len()), (id, 4, 4));
        let (other, _) = open(options(path.join("other")), disk);
        let loaded = other.load(&file, LoadOptions::default()).unwrap();
        assert_eq!((loaded.id, loaded.entries[0].retry), (id, 4));
        assert_eq!(content(&other, 5), b"body");
        assert!(matches!(other.load(&file, LoadOptions::default()), Err(SpoolError::Duplicate(_))));
        let new = LoadOptions { id: Some(Uuid::from_u128(6)), received_s: Some(9.0), reset_retry: true };
        let loaded = other.load(&file, new).unwrap();
        assert_eq!((loaded.id.as_u128(), loaded.entries[0].retry, loaded.meta.received_s), (6, 0, 9.0));
        drop(other);
        let (_other, seen) = open(options(path.join("other")), disk);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].meta.received_s, 9.0);
        assert!(spool.load_bytes(vec![0; 500].into(), LoadOptions::default()).is_err());
    });
}

#[test]
fn one_process_at_a_time() {
    both(|disk, path| {
        let (spool, _) = open(options(path), disk);
        assert!(matches!(Spool::open(options(path), Arc::clone(disk), |_| {}), Err(SpoolError::Locked(_))));
        drop(spool);
        assert!(Spool::open(options(path), Arc::clone(disk), |_| {}).is_ok());
    });
}

/// Q24: on a full disk nothing accepted is lost, reception is refused, and all goes on when there is room again.
#[test]
fn a_full_disk() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let options = SpoolOptions { minfree_bytes: 1, ..options("/spool") };
    let (spool, _) = open(options.clone(), &disk);
    let mut accepted = Vec::new();
    for id in 1..=4 {
        commit(&spool, id, &[b'x'; 6_000]).unwrap();
        accepted.push(id);
    }
    // The free segment made in advance is used up first.
    std::thread::sleep(Duration::from_millis(100));
    sim.set_full(true);
    let mut refused = None;
    for id in 5..=60 {
        match commit(&spool, id, &[b'x'; 6_000]) {
            Ok(_) => accepted.push(id),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(SpoolError::Full)), "{refused:?}");
    assert!(matches!(commit(&spool, 70, &big()), Err(SpoolError::Full)));
    // Deliveries go on in the reserve.
    let first = accepted.remove(0);
    spool.append(Uuid::from_u128(accepted[0]), &update(1, 9), Synced).wait().unwrap();
    spool.finish(Uuid::from_u128(first), done(1), true, Synced).wait().unwrap();
    assert!(spool.spill(Uuid::from_u128(accepted[1])).wait().is_err());
    std::thread::sleep(Duration::from_millis(1200));
    assert!(spool.low_space());
    sim.set_full(false);
    commit(&spool, 80, b"again").unwrap();
    accepted.push(80);
    spool.spill(Uuid::from_u128(accepted[1])).wait().unwrap();
    drop(spool);
    let (_spool, seen) = open(options, &disk);
    assert_eq!(seen.iter().map(|recovered| recovered.id.as_u128()).collect::<Vec<_>>(), accepted);
    assert_eq!(seen[0].entries[0].retry, 9);
}

/// Q6, Q7 on disk: damaged files are treated as configured and never hurt others.
#[test]
fn damaged_files() {
    for policy in [CorruptPolicy::Ignore, CorruptPolicy::Rename, CorruptPolicy::Fail] {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let (spool, _) = open(options("/spool"), &disk);
        for id in 1..=3 {
            commit(&spool, id, b"body").unwrap();
        }
        spool.shutdown().unwrap();
        drop(spool);
        let path = Path::new("/spool/00").join(format!("{}.hqf", Uuid::from_u128(2)));
        let mut bytes = sim.bytes(&path).unwrap();
        bytes[100] ^= 1;
        sim.put(&path, bytes);
        // A good file under a wrong name.
        let good = sim.bytes(&Path::new("/spool/00").join(format!("{}.hqf", Uuid::from_u128(1)))).unwrap();
        sim.put(Path::new("/spool/01/01000000-0000-0000-0000-000000000009.hqf"), good);
        let events = Arc::new(Mutex::new(0));
        let sink = Arc::clone(&events);
        let options = SpoolOptions {
            corrupt: policy,
            events: Arc::new(move |event| {
                if matches!(event, Event::Corrupt { .. }) {
                    *sink.lock().unwrap() += 1;
                }
            }),
            ..options("/spool")
        };
        if policy == CorruptPolicy::Fail {
            let result = Spool::open(options, Arc::clone(&disk), |_| {});
            assert!(matches!(result, Err(SpoolError::Corrupt { .. })));
            continue;
        }
        let (_spool, seen) = open(options, &disk);
        assert_eq!(seen.len(), 2);
        assert_eq!(*events.lock().unwrap(), 2);
        let mut renamed = path.clone().into_os_string();
        renamed.push(".corrupt");
        assert_eq!(sim.bytes(Path::new(&renamed)).is_some(), policy == CorruptPolicy::Rename);
        assert_eq!(sim.bytes(&path).is_some(), policy == CorruptPolicy::Ignore);
    }
}

#[test]
fn damaged_content_is_never_given_out() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (spool, _) = open(options("/spool"), &disk);
    let path = commit(&spool, 1, b"body").unwrap().path;
    spool.spill(Uuid::from_u128(1)).wait().unwrap();
    let mut bytes = sim.bytes(&path).unwrap();
    bytes[65] ^= 1;
    sim.put(&path, bytes);
    assert!(matches!(spool.content(Uuid::from_u128(1)), Err(SpoolError::Corrupt { .. })));
    // The envelope is still readable, so that the entry can be held.
    assert_eq!(spool.read(Uuid::from_u128(1)).unwrap().entries.len(), 2);
}

#[test]
fn a_torn_tail_is_cut() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (spool, _) = open(options("/spool"), &disk);
    let path = commit(&spool, 1, b"body").unwrap().path;
    spool.spill(Uuid::from_u128(1)).wait().unwrap();
    spool.append(Uuid::from_u128(1), &update(1, 1), Synced).wait().unwrap();
    let before = sim.bytes(&path).unwrap().len();
    spool.append(Uuid::from_u128(1), &update(1, 2), Synced).wait().unwrap();
    drop(spool);
    let mut bytes = sim.bytes(&path).unwrap();
    bytes.truncate(bytes.len() - 5);
    sim.put(&path, bytes);
    let (spool, seen) = open(options("/spool"), &disk);
    assert_eq!(seen[0].entries[0].retry, 1);
    assert_eq!(sim.bytes(&path).unwrap().len(), before);
    spool.append(Uuid::from_u128(1), &update(1, 5), Synced).wait().unwrap();
    assert_eq!(spool.read(Uuid::from_u128(1)).unwrap().entries[0].retry, 5);
}

#[test]
fn sessions_share_syncs() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (spool, _) =
        open(SpoolOptions { journal_segment_bytes: 4 << 20, ..options(directory.path()) }, &disk);
    let spool = Arc::new(spool);
    std::thread::scope(|scope| {
        for session in 0..20_u128 {
            let spool = Arc::clone(&spool);
            scope.spawn(move || {
                for n in 0..20 {
                    commit(&spool, session * 1000 + n + 1, &[b'x'; 500]).unwrap();
                }
            });
        }
    });
    assert_eq!(spool.stats().commits, 400);
    assert!(spool.stats().syncs < 400, "{:?}", spool.stats());
}

/// An operator ends many entries of messages that are files: they share their syncs, and stay gone.
#[test]
fn many_ends_share_syncs() {
    const COUNT: u128 = 300;
    both(|disk, path| {
        let options = SpoolOptions { journal_enabled: false, ..options(path) };
        let (spool, _) = open(options.clone(), disk);
        // Over all directories, as ids of the daemon are.
        let ids: Vec<Uuid> = (1..=COUNT).map(|n| Uuid::from_u128(n << 120 | n)).collect();
        for id in &ids {
            commit(&spool, id.as_u128(), b"content\r\n").unwrap();
        }
        for (ends, last) in [(done(1), false), (done(2), true)] {
            let before = spool.stats().syncs;
            let asked: Vec<_> = ids.iter().map(|id| spool.finish(*id, ends.clone(), last, Synced)).collect();
            asked.into_iter().for_each(|answer| answer.wait().unwrap());
            let syncs = spool.stats().syncs - before;
            assert!(syncs < 100, "{syncs} syncs for {COUNT} ends");
            if !last {
                assert_eq!(spool.read(ids[7]).unwrap().entries.len(), 1);
            }
        }
        drop(spool);
        assert!(open(options, disk).1.is_empty());
    });
}

#[test]
fn without_sync_nothing_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (spool, _) = open(SpoolOptions { fsync: false, ..options(directory.path()) }, &disk);
    commit(&spool, 1, b"x").unwrap();
    commit(&spool, 2, &big()).unwrap();
    spool.shutdown().unwrap();
    assert_eq!(spool.stats().syncs, 0);
    drop(spool);
    assert_eq!(open(options(directory.path()), &disk).1.len(), 2);
}

#[test]
fn options_are_checked() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    for bad in [
        SpoolOptions { journal_segment_bytes: 10, ..options("/s") },
        SpoolOptions { journal_segments: 0, ..options("/s") },
        SpoolOptions { threads_load: 0, ..options("/s") },
        SpoolOptions { threads_sync: 0, ..options("/s") },
    ] {
        assert!(matches!(Spool::open(bad, Arc::clone(&disk), |_| {}), Err(SpoolError::Options { .. })));
    }
}

/// A full disk does not keep a spool from opening and delivering, even if a crash left RELEASEs unwritten.
#[test]
fn a_start_on_a_full_disk() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (spool, _) = open(options("/spool"), &disk);
    for id in 1..=3 {
        commit(&spool, id, b"body").unwrap();
    }
    let journal: Vec<PathBuf> =
        sim.paths().into_iter().filter(|path| path.starts_with("/spool/journal")).collect();
    let before: Vec<_> = journal.iter().map(|path| (path.clone(), sim.bytes(path).unwrap())).collect();
    spool.spill(Uuid::from_u128(1)).wait().unwrap();
    drop(spool);
    // As if the RELEASE of message 1 had never reached the disk; and no segment is free.
    for path in &journal {
        disk.unlink(path).unwrap();
    }
    for path in sim.paths().into_iter().filter(|path| path.starts_with("/spool/journal")) {
        disk.unlink(&path).unwrap();
    }
    for (path, bytes) in before.into_iter().filter(|(_, bytes)| bytes[0] != 0) {
        sim.put(&path, bytes);
    }
    sim.set_full(true);
    let (spool, seen) = open(options("/spool"), &disk);
    assert_eq!(seen.len(), 3);
    assert_eq!(content(&spool, 1), b"body");
    let change = spool.append(Uuid::from_u128(1), &update(1, 8), Synced);
    sim.set_full(false);
    change.wait().unwrap();
    drop(spool);
    let (_spool, seen) = open(options("/spool"), &disk);
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].entries[0].retry, 8);
}

/// A journal segment with something unreadable in it is set aside, never deleted; the rest of it counts.
#[test]
fn a_damaged_journal_record() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (spool, _) = open(options("/spool"), &disk);
    commit(&spool, 1, b"body").unwrap();
    drop(spool);
    let used =
        |path: &PathBuf| path.starts_with("/spool/journal") && sim.bytes(path).is_some_and(|b| b[0] != 0);
    let path = sim.paths().into_iter().find(used).unwrap();
    let mut bytes = sim.bytes(&path).unwrap();
    let first =
        512 + (16 + u32::from_le_bytes(bytes[516..520].try_into().unwrap()) as usize + 4).next_multiple_of(8);
    // A RELEASE without an id, as the second record.
    let mut record = vec![3, 0, 0, 0, 2, 0, 0, 0];
    let sequence = u64::from_le_bytes(bytes[520..528].try_into().unwrap()) + 1;
    record.extend(sequence.to_le_bytes());
    record.extend([9, 9]);
    record.extend(crc32c::crc32c(&record).to_le_bytes());
    bytes[first..first + record.len()].copy_from_slice(&record);
    sim.put(&path, bytes.clone());
    let fail = SpoolOptions { corrupt: CorruptPolicy::Fail, ..options("/spool") };
    assert!(matches!(Spool::open(fail, Arc::clone(&disk), |_| {}), Err(SpoolError::Corrupt { .. })));
    let (spool, seen) = open(options("/spool"), &disk);
    assert_eq!(seen.len(), 1);
    spool.shutdown().unwrap();
    assert_eq!(sim.bytes(Path::new(&format!("{}.corrupt", path.display()))).unwrap(), bytes);
    drop(spool);
    assert_eq!(open(options("/spool"), &disk).1.len(), 1);
}

/// After a failed sync nothing is taken for durable, and the journal goes on elsewhere.
#[test]
fn a_failed_sync() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (spool, _) = open(options("/spool"), &disk);
    commit(&spool, 1, b"before").unwrap();
    sim.set_syncs_fail(true);
    assert!(matches!(commit(&spool, 2, b"refused"), Err(SpoolError::Io { .. })));
    assert!(commit(&spool, 3, &big()).is_err());
    assert!(spool.append(Uuid::from_u128(1), &update(1, 1), Synced).wait().is_err());
    assert!(matches!(spool.content(Uuid::from_u128(2)), Err(SpoolError::NotFound(_))));
    sim.set_syncs_fail(false);
    commit(&spool, 4, b"after").unwrap();
    // What was refused is released in the background, in case it reached the disk all the same.
    std::thread::sleep(Duration::from_millis(2_200));
    commit(&spool, 5, b"later").unwrap();
    drop(spool);
    let (_spool, seen) = open(options("/spool"), &disk);
    assert_eq!(seen.iter().map(|recovered| recovered.id.as_u128()).collect::<Vec<_>>(), [1, 4, 5]);
}

/// Commits that meet a shutdown are stored or refused, and shutdown ends.
#[test]
fn shutdown_under_load() {
    both(|disk, path| {
        let (spool, _) = open(options(path), disk);
        let stored = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for session in 0..4_u128 {
                let (spool, stored) = (&spool, &stored);
                scope.spawn(move || {
                    for n in 1.. {
                        match commit(spool, session * 100_000 + n, b"x") {
                            Ok(_) => stored.lock().unwrap().push(Uuid::from_u128(session * 100_000 + n)),
                            Err(SpoolError::Closed) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(50));
            spool.shutdown().unwrap();
        });
        drop(spool);
        let mut stored = stored.into_inner().unwrap();
        stored.sort_unstable();
        let (_spool, seen) = open(options(path), disk);
        assert_eq!(seen.iter().map(|recovered| recovered.id).collect::<Vec<_>>(), stored);
    });
}

#[test]
fn many_changes_are_durable_at_once_and_keep_their_order() {
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (spool, _) = open(options("/spool"), &shared);
    let ids: Vec<Uuid> = (1..=50).map(Uuid::from_u128).collect();
    for id in &ids {
        commit(&spool, id.as_u128(), b"content").unwrap();
        spool.spill(*id).wait().unwrap();
    }
    let update = |retry| EntryUpdate { queue_id: 1, retry: Some(retry), ..EntryUpdate::default() };
    let syncs = spool.stats().syncs;
    for answer in spool.update_many(ids.iter().map(|id| (*id, update(7)))) {
        answer.wait().unwrap();
    }
    assert!(spool.stats().syncs <= syncs + 2, "one sync for all, not one for each");
    // What comes later stays later, whichever way it takes.
    spool.append(ids[0], &Frame::Update(Box::new(update(8))), Synced).wait().unwrap();
    for answer in spool.update_many([(ids[1], update(9))]) {
        answer.wait().unwrap();
    }
    spool.remove(ids[2], Synced).wait().unwrap();
    let path = spool.unload(ids[3]).wait().unwrap();
    let crashed = |disk: &SimDisk| {
        let mut cuts = disk.cuts();
        cuts.advance(cuts.len());
        cuts.crash(spool::disk::sim::Remains::Nothing, &mut spool::disk::sim::Random(1))
    };
    let retries = |disk: SimDisk| {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let (_, found) = open(options("/spool"), &disk);
        found.iter().map(|message| message.entries[0].retry).collect::<Vec<_>>()
    };
    let expected: Vec<u32> = [8, 9, 7].into_iter().chain(vec![7; 46]).collect();
    assert_eq!(retries(crashed(&disk)), expected, "right after the answer");
    assert_eq!(spool::read_hqf(&disk, &path).unwrap().0.entries[0].retry, 7, "unloaded with its changes");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(retries(crashed(&disk)), expected, "when they are in the files");
    drop(spool);
    assert_eq!(retries(crashed(&disk)), expected, "at the next start");
}

#[test]
fn many_changes_come_behind_what_was_only_queued() {
    let disk = SimDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (spool, _) = open(options("/spool"), &shared);
    let ids: Vec<Uuid> = (1..=50).map(Uuid::from_u128).collect();
    for id in &ids {
        commit(&spool, id.as_u128(), b"content").unwrap();
        spool.spill(*id).wait().unwrap();
    }
    let update = |retry| EntryUpdate { queue_id: 1, retry: Some(retry), ..EntryUpdate::default() };
    // Answered when they are queued, so most of them wait while the others are asked for; the last value counts twice,
    // once for two changes of one entry together.
    for id in &ids {
        drop(spool.append(*id, &Frame::Update(Box::new(update(1))), Written));
    }
    let twice = ids.iter().flat_map(|id| [(*id, update(2)), (*id, update(3))]);
    for answer in spool.update_many(twice) {
        answer.wait().unwrap();
    }
    std::thread::sleep(Duration::from_millis(700));
    drop(spool);
    let (_, found) = open(options("/spool"), &shared);
    let retries: Vec<u32> = found.iter().map(|message| message.entries[0].retry).collect();
    assert_eq!(retries, [3; 50]);
}

#[test]
fn an_entry_that_came_later_is_kept() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (spool, _) = open(options("/spool"), &disk);
    let id = Uuid::from_u128(1);
    commit(&spool, 1, b"content").unwrap();
    spool.append(id, &Frame::Entry(Box::new(entry(5))), Synced).wait().unwrap();
    let update = EntryUpdate { queue_id: 5, retry: Some(3), ..EntryUpdate::default() };
    spool.append(id, &Frame::Update(Box::new(update)), Synced).wait().unwrap();
    spool.spill(id).wait().unwrap();
    spool.compact(id).wait().unwrap();
    let found = spool.read(id).unwrap();
    assert_eq!(
        found.entries.iter().map(|e| (e.queue_id, e.retry)).collect::<Vec<_>>(),
        [(1, 0), (2, 0), (5, 3)]
    );
}
