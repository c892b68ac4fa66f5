//! Q1–Q3, Q5, S3: whatever the moment of a power cut, and whatever of the unsynced writes it leaves, nothing that was
//! promised is lost and nothing that was completely removed comes back.
//!
//! Random sessions run on a simulated disk that logs every operation. They mark in the log when they begin something
//! and when the spool has promised it. Then the log is cut at many points; from each cut a disk is made with any subset
//! of the unsynced changes, writes torn at sectors; the spool is opened on it and held to the marks before the cut.
//! Recovery writes too, so some of the recovered disks are cut once more.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use spool::{
    Done, Durability, Entry, EntryUpdate, Event, Frame, MessageRecord, Outcome, Recovered, Spool,
    SpoolOptions, Uuid,
    disk::{
        Disk, SimDisk,
        sim::{Random, Remains},
    },
    record::{Delivered, Pair},
};

/// What sessions note in the log of the disk; the number of a mark is its index.
#[derive(Clone, Copy, Debug)]
enum Note {
    CommitBegun(Uuid),
    Committed(Uuid),
    /// Attempts of entry 1 are about to be set to this.
    RetryBegun(Uuid, u32),
    RetrySynced(Uuid, u32),
    DeliveredSynced(Uuid),
    /// Entry 2.
    DoneBegun(Uuid),
    DoneSynced(Uuid),
    FinishBegun(Uuid),
    FinishSynced(Uuid),
}

/// What may and must be found of a message.
#[derive(Clone, Debug, Default)]
struct Promise {
    committed: bool,
    retry_least: u32,
    retry_most: u32,
    delivered: bool,
    done_begun: bool,
    done_synced: bool,
    finish_begun: bool,
    finish_synced: bool,
}

struct World {
    disk: SimDisk,
    notes: Mutex<Vec<Note>>,
    number: AtomicU64,
}

impl World {
    fn note(&self, note: Note) {
        let mut notes = self.notes.lock().unwrap();
        self.disk.mark(notes.len() as u64);
        notes.push(note);
    }
}

fn options() -> SpoolOptions {
    SpoolOptions {
        journal_segment_bytes: 32 << 10,
        journal_segments: 2,
        journal_maxmessage_bytes: 8 << 10,
        journal_memory_bytes: 20 << 10,
        journal_hold: Duration::from_millis(15),
        threads_load: 2,
        threads_sync: 2,
        ..SpoolOptions::new("/spool")
    }
}

/// The content of a message follows from its id, so that it can be checked from the id alone.
fn content_of(id: Uuid) -> Vec<u8> {
    let mut random = Random(id.as_u128() as u64);
    let len = match random.below(8) {
        0 => 9_000 + random.below(20_000),
        1 => random.below(8),
        _ => random.below(4_000),
    };
    (0..len).map(|_| random.next_u64() as u8).collect()
}

fn entries() -> Vec<Entry> {
    (1..=2).map(|queue_id| Entry { queue_id, transport_id: "t".into(), ..Entry::default() }).collect()
}

fn change(retry: Option<u32>, delivered: bool, ballast: usize) -> Frame {
    let delivered = delivered.then(|| Delivered { code: 250, ..Delivered::default() });
    let metadata = if ballast > 0 { vec![Pair::new("ballast", vec![b'x'; ballast])] } else { Vec::new() };
    Frame::Update(Box::new(EntryUpdate { queue_id: 1, retry, delivered, metadata, ..EntryUpdate::default() }))
}

fn session(world: &World, spool: &Spool, random: &mut Random, steps: usize, mine: &mut BTreeMap<Uuid, u32>) {
    for _ in 0..steps {
        let known: Vec<Uuid> = mine.keys().copied().collect();
        let any = known.get(random.below(known.len() as u64) as usize).copied();
        match (random.below(16), any) {
            (0..=4, _) | (_, None) => {
                let id = Uuid::from_u64_pair(random.next_u64(), world.number.fetch_add(1, Ordering::Relaxed));
                world.note(Note::CommitBegun(id));
                let mut staging = spool.stage(id);
                for chunk in content_of(id).chunks(3_000) {
                    staging.write(chunk).unwrap();
                }
                spool
                    .commit(staging, MessageRecord { entries: entries(), ..MessageRecord::default() })
                    .wait()
                    .unwrap();
                world.note(Note::Committed(id));
                mine.insert(id, 0);
            }
            (5..=7, Some(id)) => {
                let retry = mine[&id] + 1;
                mine.insert(id, retry);
                world.note(Note::RetryBegun(id, retry));
                let ballast = if random.below(4) == 0 { 3_000 } else { 0 };
                let synced = random.below(2) == 0;
                let durability = if synced { Durability::Synced } else { Durability::Written };
                match change(Some(retry), false, ballast) {
                    Frame::Update(update) if synced && random.below(2) == 0 => {
                        for answer in spool.update_many([(id, *update)]) {
                            answer.wait().unwrap();
                        }
                    }
                    frame => spool.append(id, &frame, durability).wait().unwrap(),
                }
                if synced {
                    world.note(Note::RetrySynced(id, retry));
                }
            }
            (8, Some(id)) => {
                // Enough to make a file worth compacting.
                for _ in 0..25 {
                    spool.append(id, &change(None, false, 3_000), Durability::Written).wait().unwrap();
                }
            }
            (9, Some(id)) => {
                spool.append(id, &change(None, true, 0), Durability::Synced).wait().unwrap();
                world.note(Note::DeliveredSynced(id));
            }
            (10, Some(id)) => {
                world.note(Note::DoneBegun(id));
                let done = Done { queue_id: 2, outcome: Outcome::Bounced as i32, ..Done::default() };
                spool.finish(id, done, false, Durability::Synced).wait().unwrap();
                world.note(Note::DoneSynced(id));
            }
            (11, Some(id)) => spool.spill(id).wait().unwrap(),
            (12, Some(id)) => drop(spool.compact(id).wait().unwrap()),
            (13, Some(_)) => std::thread::sleep(Duration::from_millis(random.below(20))),
            (_, Some(id)) => {
                world.note(Note::FinishBegun(id));
                mine.remove(&id);
                let done = Done { queue_id: 1, outcome: Outcome::Delivered as i32, ..Done::default() };
                let synced = random.below(2) == 0;
                let durability = if synced { Durability::Synced } else { Durability::Written };
                spool.finish(id, done, true, durability).wait().unwrap();
                if synced {
                    world.note(Note::FinishSynced(id));
                }
            }
        }
    }
}

/// Runs sessions over several lives of a spool on one disk.
fn run(seed: u64, options: &SpoolOptions, session_count: usize, steps: usize) -> World {
    let world = World { disk: SimDisk::new(), notes: Mutex::default(), number: AtomicU64::new(1) };
    let mut sessions: Vec<(Random, BTreeMap<Uuid, u32>)> =
        (0..session_count).map(|n| (Random(seed * 100 + n as u64), BTreeMap::new())).collect();
    for life in 0..3 {
        let disk: Arc<dyn Disk> = Arc::new(world.disk.clone());
        let spool = Spool::open(options.clone(), disk, |_| {}).unwrap();
        // Nothing may be asked of a message before it was handed over: the scan brings its file up to date.
        spool.wait_loaded();
        std::thread::scope(|scope| {
            for (random, mine) in &mut sessions {
                let (world, spool) = (&world, &spool);
                scope.spawn(move || session(world, spool, random, steps, mine));
            }
        });
        if life == 1 {
            spool.shutdown().unwrap();
        }
    }
    world
}

fn promises(notes: &[Note], marks: &[u64]) -> BTreeMap<Uuid, Promise> {
    let mut out: BTreeMap<Uuid, Promise> = BTreeMap::new();
    for mark in marks {
        match notes[*mark as usize] {
            Note::CommitBegun(id) => drop(out.insert(id, Promise::default())),
            Note::Committed(id) => out.get_mut(&id).unwrap().committed = true,
            Note::RetryBegun(id, n) => out.get_mut(&id).unwrap().retry_most = n,
            Note::RetrySynced(id, n) => out.get_mut(&id).unwrap().retry_least = n,
            Note::DeliveredSynced(id) => out.get_mut(&id).unwrap().delivered = true,
            Note::DoneBegun(id) => out.get_mut(&id).unwrap().done_begun = true,
            Note::DoneSynced(id) => out.get_mut(&id).unwrap().done_synced = true,
            Note::FinishBegun(id) => out.get_mut(&id).unwrap().finish_begun = true,
            Note::FinishSynced(id) => out.get_mut(&id).unwrap().finish_synced = true,
        }
    }
    out
}

/// Opens the spool on what a crash left and holds it to what was promised.
fn check(disk: &SimDisk, promises: &BTreeMap<Uuid, Promise>, context: &str) {
    let found: Arc<Mutex<Vec<Recovered>>> = Arc::default();
    let corrupt: Arc<Mutex<Vec<String>>> = Arc::default();
    let (sink, corrupt_sink) = (Arc::clone(&found), Arc::clone(&corrupt));
    let options = SpoolOptions {
        events: Arc::new(move |event| {
            if let Event::Corrupt { error, .. } = event {
                corrupt_sink.lock().unwrap().push(error.to_string());
            }
        }),
        ..options()
    };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let spool = Spool::open(options, shared, move |recovered| sink.lock().unwrap().push(recovered))
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    spool.wait_loaded();
    assert!(corrupt.lock().unwrap().is_empty(), "{context}: {:?}", corrupt.lock().unwrap());
    let found = std::mem::take(&mut *found.lock().unwrap());
    let ids: HashSet<Uuid> = found.iter().map(|message| message.id).collect();
    assert_eq!(ids.len(), found.len(), "{context}: a message was handed over twice");
    for message in &found {
        let id = message.id;
        let promise = promises.get(&id).unwrap_or_else(|| panic!("{context}: {id} was never begun"));
        assert!(!promise.finish_synced, "{context}: {id} came back ({:?})", message.location);
        let content = spool.content(id).unwrap_or_else(|error| panic!("{context}: {error}"));
        let mut bytes = vec![0; content.len() as usize];
        content.read_at(0, &mut bytes).unwrap();
        assert!(bytes == content_of(id), "{context}: {id} has other bytes");
        let entry = |queue_id| message.entries.iter().find(|entry| entry.queue_id == queue_id);
        let first = entry(1).unwrap_or_else(|| panic!("{context}: {id} lost entry 1"));
        assert!(
            (promise.retry_least..=promise.retry_most).contains(&first.retry),
            "{context}: {id} has {} attempts, {promise:?}",
            first.retry
        );
        assert!(first.delivered.is_some() || !promise.delivered, "{context}: {id} forgot its delivery");
        assert!(entry(2).is_none() || !promise.done_synced, "{context}: {id}:2 came back");
        assert!(entry(2).is_some() || promise.done_begun, "{context}: {id} lost entry 2");
    }
    for (id, promise) in promises {
        if promise.committed && !promise.finish_begun {
            assert!(ids.contains(id), "{context}: {id} is lost");
        }
    }
}

/// Cuts the log of one world at `cut_count` places; says how many states were recovered, and how many of them twice.
fn cut(seed: u64, world: &World, cut_count: u64) -> (usize, usize) {
    let (mut states, mut again) = (0, 0);
    let notes = world.notes.lock().unwrap().clone();
    let mut cuts = world.disk.cuts();
    let mut random = Random(seed);
    let mut positions: Vec<usize> =
        (0..cut_count).map(|_| random.below(cuts.len() as u64 + 1) as usize).collect();
    positions.sort_unstable();
    for (n, position) in positions.into_iter().enumerate() {
        cuts.advance(position);
        let promises = promises(&notes, cuts.marks());
        let remains = [Remains::Torn, Remains::Some, Remains::Nothing, Remains::Everything][n % 4];
        let context = format!("seed {seed}, cut at {position}, {remains:?} remains");
        let disk = cuts.crash(remains, &mut random);
        check(&disk, &promises, &context);
        states += 1;
        if n % 4 == 0 {
            // The recovery itself is cut, or what followed it.
            let mut second = disk.cuts();
            second.advance(random.below(second.len() as u64 + 1) as usize);
            let disk = second.crash(Remains::Torn, &mut random);
            check(&disk, &promises, &format!("{context}, then cut again"));
            again += 1;
        }
    }
    (states, again)
}

#[test]
fn nothing_promised_is_lost() {
    let (mut states, mut again, mut operations) = (0, 0, 0);
    for seed in 1..=8 {
        let world = run(seed, &options(), 3, 30);
        operations += world.disk.operations();
        let (more, more_again) = cut(seed, &world, 350);
        states += more;
        again += more_again;
    }
    println!(
        "{operations} operations, {states} crash states recovered, {again} of them cut again while recovering"
    );
    assert!(states >= 2_000);
}

/// Without a journal; with a single file worker and many sessions, so that files are synced together.
#[test]
fn nothing_promised_is_lost_in_files() {
    let options = SpoolOptions { journal_enabled: false, threads_sync: 1, ..options() };
    let (mut states, mut operations) = (0, 0);
    for seed in 21..=22 {
        let world = run(seed, &options, 16, 12);
        operations += world.disk.operations();
        states += cut(seed, &world, 250).0;
    }
    println!("{operations} operations, {states} crash states recovered");
}
