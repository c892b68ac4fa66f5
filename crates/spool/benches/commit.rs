//! How many messages a second become durable, alone and in company, and how long a start takes.
//!
//! Each message has 2 KiB and two entries, and ends (unsynced) right after its commit, as a relay does it. The disk is
//! that of `TMPDIR`; both modes of `spool.fsync` are measured.

use std::{
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spool::{
    Done, Durability, Entry, MessageRecord, Spool, SpoolOptions, Uuid, disk::RealDisk, record::Mailbox,
};

static NEXT: AtomicU64 = AtomicU64::new(1);

fn open(path: &Path, fsync: bool, hold: Duration) -> (Spool, Arc<AtomicU64>) {
    let options = SpoolOptions { fsync, journal_hold: hold, ..SpoolOptions::new(path) };
    let found = Arc::new(AtomicU64::new(0));
    let sink = Arc::clone(&found);
    let count = move |recovered| {
        black_box(recovered);
        sink.fetch_add(1, Ordering::Relaxed);
    };
    let spool = Spool::open(options, Arc::new(RealDisk), count).expect("the spool of a bench opens");
    (spool, found)
}

fn record() -> MessageRecord {
    let entry = |queue_id| Entry {
        queue_id,
        sender: Some(Mailbox { localpart: "sender".into(), domain: "example.com".into() }),
        recipient: Some(Mailbox { localpart: format!("user{queue_id}"), domain: "example.org".into() }),
        transport_id: "outbound".into(),
        ..Entry::default()
    };
    MessageRecord { entries: vec![entry(1), entry(2)], ..MessageRecord::default() }
}

fn commit_one(spool: &Spool, record: &MessageRecord, body: &[u8]) -> Uuid {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = Uuid::from_u64_pair(n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n);
    let mut staging = spool.stage(id);
    staging.write(body).expect("staging in memory does not fail");
    spool.commit(staging, record.clone()).wait().expect("the disk of a bench has room");
    id
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).throughput(Throughput::Elements(1));
    for fsync in [true, false] {
        for sessions in [1_u64, 20, 200] {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let (spool, _) = open(directory.path(), fsync, Duration::from_secs(2));
            let (record, body) = (record(), vec![b'x'; 2048]);
            let name = format!("{sessions} sessions, fsync {fsync}");
            group.bench_function(&name, |b| {
                b.iter_custom(|iterations| {
                    let left = AtomicU64::new(iterations);
                    let start = Instant::now();
                    std::thread::scope(|scope| {
                        for _ in 0..sessions {
                            scope.spawn(|| {
                                while left
                                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                                    .is_ok()
                                {
                                    let id = commit_one(&spool, &record, &body);
                                    let end = spool.finish(id, Done::default(), true, Durability::Written);
                                    end.wait().expect("answered at once");
                                }
                            });
                        }
                    });
                    start.elapsed()
                });
            });
            let stats = spool.stats();
            println!("{name}: {:.1} messages per sync", stats.commits as f64 / stats.syncs.max(1) as f64);
        }
    }
}

fn starts(c: &mut Criterion) {
    const MESSAGES: u64 = 10_000;
    let hold = Duration::from_secs(3600);
    let fill = |path: &Path, spilled: bool| {
        let (spool, _) = open(path, false, hold);
        let (record, body) = (record(), vec![b'x'; 2048]);
        for _ in 0..MESSAGES {
            commit_one(&spool, &record, &body);
        }
        if spilled {
            spool.shutdown().expect("the disk of a bench has room");
        }
    };
    let start = |path: &Path| {
        let start = Instant::now();
        let (spool, found) = open(path, false, hold);
        spool.wait_loaded();
        let took = start.elapsed();
        assert_eq!(found.load(Ordering::Relaxed), MESSAGES);
        took
    };
    let mut group = c.benchmark_group("start");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements(MESSAGES));
    let directory = tempfile::tempdir().expect("a temporary directory");
    fill(directory.path(), true);
    group.bench_function("10,000 messages in files", |b| {
        b.iter_custom(|iterations| (0..iterations).map(|_| start(directory.path())).sum());
    });
    group.bench_function("10,000 messages in the journal", |b| {
        b.iter_custom(|iterations| {
            // What is recovered is written out soon after: each start needs a journal of its own.
            let one = || {
                let directory = tempfile::tempdir().expect("a temporary directory");
                fill(directory.path(), false);
                start(directory.path())
            };
            (0..iterations).map(|_| one()).sum()
        });
    });
}

/// What waits: every message becomes a synced file.
fn spills(c: &mut Criterion) {
    const MESSAGES: u64 = 1_000;
    let mut group = c.benchmark_group("spill");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements(MESSAGES));
    group.bench_function("1,000 messages, fsync true", |b| {
        b.iter_custom(|iterations| {
            let one = || {
                let directory = tempfile::tempdir().expect("a temporary directory");
                let (spool, _) = open(directory.path(), true, Duration::from_secs(3600));
                let (record, body) = (record(), vec![b'x'; 2048]);
                let ids: Vec<Uuid> = (0..MESSAGES).map(|_| commit_one(&spool, &record, &body)).collect();
                let start = Instant::now();
                let spills: Vec<_> = ids.into_iter().map(|id| spool.spill(id)).collect();
                for spill in spills {
                    spill.wait().expect("the disk of a bench has room");
                }
                start.elapsed()
            };
            (0..iterations).map(|_| one()).sum()
        });
    });
}

criterion_group!(benches, commits, spills, starts);
criterion_main!(benches);
