//! Lists of entries: conditions, sorting, paging, in slices.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::condition::Condition;
use crate::entry::EntryKey;
use crate::queue::Queue;
use crate::scan::Scan;
use crate::time::Time;
use crate::view::EntryView;

/// A good budget for one slice of a list, distribution or update: a few milliseconds, so that whoever waits for
/// the queue in between does not notice.
pub const SLICE_ENTRIES: usize = 25_000;

/// What a list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortField {
    /// Reception time.
    Received,
    /// Local part of the sender.
    SenderLocalpart,
    /// Domain of the sender.
    SenderDomain,
    /// Local part of the recipient.
    RecipientLocalpart,
    /// Domain of the recipient.
    RecipientDomain,
    /// Time in the current working phase; entries not working count as 0.
    WorkingDuration,
    /// Next attempt.
    RetryAt,
    /// Size.
    Size,
    /// Retry count.
    RetryCount,
}

/// One sorting, the first one given deciding first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sorting {
    /// By what.
    pub field: SortField,
    /// Largest first.
    pub descending: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Number(i64),
    Text(Box<str>),
}

struct Row {
    keys: Vec<SortKey>,
    received: Time,
    id: u128,
    queue_id: u64,
    key: EntryKey,
}

/// A row that compares by the sortings of its list.
struct Ranked {
    row: Row,
    /// One bit per sorting.
    descending: u32,
}

impl Ranked {
    fn compare(&self, other: &Ranked) -> Ordering {
        for (i, (a, b)) in self.row.keys.iter().zip(&other.row.keys).enumerate() {
            let order = a.cmp(b);
            if order != Ordering::Equal {
                return if self.descending & (1 << i) != 0 { order.reverse() } else { order };
            }
        }
        let (a, b) = (&self.row, &other.row);
        (a.received, a.id, a.queue_id).cmp(&(b.received, b.id, b.queue_id))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.compare(other) == Ordering::Equal
    }
}
impl Eq for Ranked {}
impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare(other)
    }
}

/// Sortings beyond this many are ignored: there are only nine fields.
const SORTINGS_MAX: usize = 16;

/// A list being made. Call [`ListQuery::step`] until it says true, releasing the queue in between; entries are
/// seen once each, in the state they have when their slice is read.
pub struct ListQuery {
    scan: Scan,
    sortings: Vec<Sorting>,
    offset: usize,
    /// Rows to keep: offset and limit together.
    keep: usize,
    rows: BinaryHeap<Ranked>,
    total: u64,
    now: Time,
}

impl ListQuery {
    /// A list of the entries that match; `limit` 0 is none. Without sortings: by reception time, then id.
    pub fn new(
        queue: &Queue,
        now: Time,
        condition: Condition,
        mut sortings: Vec<Sorting>,
        offset: u64,
        limit: u64,
    ) -> ListQuery {
        sortings.truncate(SORTINGS_MAX);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
        ListQuery {
            scan: Scan::new(queue, now, condition, now.0 as u64),
            sortings,
            offset,
            keep: offset.saturating_add(limit),
            rows: BinaryHeap::new(),
            total: 0,
            now,
        }
    }

    /// Reads up to `budget` entries; true when all have been read.
    pub fn step(&mut self, queue: &Queue, budget: usize) -> bool {
        let bits = self.sortings.iter().enumerate().map(|(i, s)| u32::from(s.descending) << i);
        let descending = bits.fold(0, |all, bit| all | bit);
        let ListQuery { scan, sortings, keep, rows, total, now, .. } = self;
        scan.step(queue, budget, |view| {
            *total += 1;
            let ranked = Ranked { row: row(view, sortings, *now), descending };
            if rows.len() < *keep {
                rows.push(ranked);
            } else if rows.peek().is_some_and(|last| ranked < *last) {
                rows.pop();
                rows.push(ranked);
            }
        })
    }

    /// Number of matches before paging, and the page in order. Entries may have gone since they were read.
    pub fn finish(self) -> (u64, Vec<EntryKey>) {
        let rows = self.rows.into_sorted_vec();
        (self.total, rows.into_iter().skip(self.offset).map(|ranked| ranked.row.key).collect())
    }
}

fn row(view: EntryView<'_>, sortings: &[Sorting], now: Time) -> Row {
    let text = |text: &str| SortKey::Text(text.into());
    let number = |value: u64| SortKey::Number(i64::try_from(value).unwrap_or(i64::MAX));
    let keys = sortings
        .iter()
        .map(|sorting| match sorting.field {
            SortField::Received => SortKey::Number(view.received().0),
            SortField::SenderLocalpart => text(view.sender_localpart()),
            SortField::SenderDomain => text(view.sender_domain()),
            SortField::RecipientLocalpart => text(view.recipient_localpart()),
            SortField::RecipientDomain => text(view.recipient_domain()),
            SortField::WorkingDuration => {
                number(view.work().map_or(0, |work| now.since(work.since).as_micros() as u64))
            }
            SortField::RetryAt => SortKey::Number(view.retry_at().0),
            SortField::Size => number(view.size()),
            SortField::RetryCount => number(u64::from(view.retry_count())),
        })
        .collect();
    Row {
        keys,
        received: view.received(),
        id: view.message_id().as_u128(),
        queue_id: view.queue_id(),
        key: view.key(),
    }
}

impl Queue {
    /// A list in one go.
    pub fn list(
        &self,
        now: Time,
        condition: Condition,
        sortings: Vec<Sorting>,
        offset: u64,
        limit: u64,
    ) -> (u64, Vec<EntryKey>) {
        let mut query = ListQuery::new(self, now, condition, sortings, offset, limit);
        while !query.step(self, usize::MAX) {}
        query.finish()
    }
}
