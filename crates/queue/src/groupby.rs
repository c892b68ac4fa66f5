//! Distribution of entries over values: group columns, total and counted buckets, in slices.

use std::cmp::Ordering;

use hashbrown::{HashMap, HashSet};

use crate::condition::{Compare, CompareTime, Condition, time_matches, times};
use crate::fields::{Field, FieldSet};
use crate::intern::{Interner, Sym};
use crate::pattern::{Matcher, Pattern};
use crate::queue::Queue;
use crate::scan::Scan;
use crate::state::State;
use crate::time::Time;
use crate::view::EntryView;

/// A column of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupField {
    /// Transport.
    TransportId,
    /// Recipient domain.
    RecipientDomain,
    /// Sender domain.
    SenderDomain,
    /// Job.
    JobId,
    /// Tenant.
    TenantId,
    /// Virtual server.
    ServerId,
    /// Value of a metadata key, empty without.
    Metadata(String),
    /// Client address.
    SenderIp,
    /// Next hop.
    RemoteIp,
    /// Its MX name.
    RemoteMx,
    /// Source addresses: an entry counts once for each.
    LocalIp,
    /// Grouping value.
    Grouping,
}

impl GroupField {
    fn field(&self) -> Option<Field> {
        match self {
            GroupField::TransportId => Some(Field::TransportId),
            GroupField::RecipientDomain => Some(Field::RecipientDomain),
            GroupField::JobId => Some(Field::JobId),
            GroupField::TenantId => Some(Field::TenantId),
            GroupField::RemoteIp => Some(Field::RemoteIp),
            GroupField::RemoteMx => Some(Field::RemoteMx),
            GroupField::LocalIp => Some(Field::LocalIp),
            GroupField::Grouping => Some(Field::Grouping),
            GroupField::SenderDomain
            | GroupField::ServerId
            | GroupField::Metadata(_)
            | GroupField::SenderIp => None,
        }
    }
}

/// Which entries a count is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CountTest {
    /// All.
    All,
    /// Those in a state.
    State(State),
    /// By reception time.
    Received(CompareTime),
    /// By next attempt.
    RetryAt(CompareTime),
    /// By retry count.
    RetryCount(Compare<u64>),
    /// By priority.
    Priority(Compare<u64>),
}

/// What a count adds up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CountReturn {
    /// Entries.
    Count,
    /// Their bytes.
    Bytes,
    /// Different values of a column; `whole`: over the whole result instead of the row.
    Unique {
        /// The column.
        field: GroupField,
        /// Not per row.
        whole: bool,
    },
}

/// A count column.
#[derive(Debug, Clone, PartialEq)]
pub struct Count {
    /// Of which entries.
    pub test: CountTest,
    /// What; `None`: what the total adds up.
    pub returns: Option<CountReturn>,
}

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupSortField {
    /// Group column by number.
    Group(usize),
    /// Total.
    Total,
    /// Count column by number.
    Count(usize),
}

/// One sorting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSorting {
    /// By what.
    pub field: GroupSortField,
    /// Largest first.
    pub descending: bool,
}

/// Values of a queue field shown together as `#name`.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRollup {
    /// Name without `#`.
    pub name: String,
    /// Field.
    pub field: Field,
    /// Members.
    pub patterns: Vec<Pattern>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupRequest {
    /// Which entries.
    pub condition: Condition,
    /// Columns.
    pub groups: Vec<GroupField>,
    /// Counts.
    pub counts: Vec<Count>,
    /// Totals are bytes instead of entries.
    pub bytes: bool,
    /// Sortings; rows that compare equal are ordered by their columns.
    pub sortings: Vec<GroupSorting>,
    /// Rows to leave out.
    pub offset: u64,
    /// Rows to give, 0 all.
    pub limit: u64,
    /// Values shown together; of overlapping ones the first.
    pub rollups: Vec<GroupRollup>,
    /// Show values as the policy with exactly these fields rolls them up.
    pub policy_grouping: Option<FieldSet>,
}

/// A row of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// Values of the columns.
    pub groups: Vec<String>,
    /// Counts.
    pub counts: Vec<u64>,
    /// Total.
    pub total: u64,
}

/// A column at work: values as numbers of the query's own table.
struct Column {
    field: GroupField,
    /// By symbol: number + 1, 0 unknown. Dropped with each slice, like `Memo`.
    known: Vec<u32>,
}

enum Test {
    All,
    State(State),
    Received(Compare<Time>),
    RetryAt(Compare<Time>),
    RetryCount(Compare<u64>),
    Priority(Compare<u64>),
}

#[derive(Clone, Copy)]
enum Adds {
    Count,
    Bytes,
    Unique { column: usize, whole: bool },
}

struct Totals {
    total: u64,
    counts: Vec<u64>,
    /// By count column; only those that ask for different values have one.
    unique: Vec<Option<HashSet<Sym>>>,
}

/// A distribution being made, used like [`crate::ListQuery`].
pub struct GroupQuery {
    scan: Scan,
    columns: Vec<Column>,
    groups: usize,
    counts: Vec<(Test, Adds)>,
    values: Interner<str>,
    rows: HashMap<Box<[Sym]>, Totals>,
    whole: Vec<HashSet<Sym>>,
    rollups: Vec<(Field, String, Matcher)>,
    bytes: bool,
    request: GroupRequest,
}

impl GroupQuery {
    /// Prepares the query.
    pub fn new(queue: &Queue, now: Time, request: GroupRequest) -> GroupQuery {
        let column = |field: &GroupField| Column { field: field.clone(), known: Vec::new() };
        let mut columns: Vec<Column> = request.groups.iter().map(column).collect();
        let mut counts = Vec::with_capacity(request.counts.len());
        for count in &request.counts {
            let test = match count.test {
                CountTest::All => Test::All,
                CountTest::State(state) => Test::State(state),
                CountTest::Received(compare) => Test::Received(times(&compare, now)),
                CountTest::RetryAt(compare) => Test::RetryAt(times(&compare, now)),
                CountTest::RetryCount(compare) => Test::RetryCount(compare),
                CountTest::Priority(compare) => Test::Priority(compare),
            };
            let adds = match &count.returns {
                Some(CountReturn::Count) => Adds::Count,
                Some(CountReturn::Bytes) => Adds::Bytes,
                None if request.bytes => Adds::Bytes,
                None => Adds::Count,
                Some(CountReturn::Unique { field, whole }) => {
                    columns.push(column(field));
                    Adds::Unique { column: columns.len() - 1, whole: *whole }
                }
            };
            counts.push((test, adds));
        }
        let rollups = request
            .rollups
            .iter()
            .map(|rollup| (rollup.field, format!("#{}", rollup.name), Matcher::new(&rollup.patterns)))
            .collect();
        GroupQuery {
            scan: Scan::new(queue, now, request.condition.clone(), now.0 as u64),
            columns,
            groups: request.groups.len(),
            whole: vec![HashSet::new(); counts.len()],
            counts,
            values: Interner::new(),
            rows: HashMap::new(),
            rollups,
            bytes: request.bytes,
            request,
        }
    }

    /// Reads up to `budget` entries; true when all have been read.
    pub fn step(&mut self, queue: &Queue, budget: usize) -> bool {
        self.columns.iter_mut().for_each(|column| column.known.clear());
        let GroupQuery { scan, columns, groups, counts, values, rows, whole, rollups, bytes, request } = self;
        let policy_grouping = request.policy_grouping;
        let mut keys: Vec<Vec<Sym>> = Vec::new();
        let mut column_values: Vec<Vec<Sym>> = vec![Vec::new(); columns.len()];
        scan.step(queue, budget, |view| {
            for (column, found) in columns.iter_mut().zip(&mut column_values) {
                found.clear();
                column.collect(view, values, rollups, policy_grouping, found);
            }
            // One key per combination: only columns of source addresses have several values.
            keys.clear();
            keys.push(Vec::with_capacity(*groups));
            for found in &column_values[..*groups] {
                if let [value] = found[..] {
                    keys.iter_mut().for_each(|key| key.push(value));
                    continue;
                }
                let longer = |key: &Vec<Sym>| {
                    found.iter().map(|&v| key.iter().copied().chain([v]).collect()).collect::<Vec<_>>()
                };
                keys = keys.iter().flat_map(longer).collect();
            }
            let size = view.size();
            for key in &keys {
                let totals = match rows.get_mut(key.as_slice()) {
                    Some(totals) => totals,
                    None => rows.entry(key.clone().into_boxed_slice()).or_insert_with(|| Totals {
                        total: 0,
                        counts: vec![0; counts.len()],
                        unique: counts
                            .iter()
                            .map(|(_, adds)| {
                                matches!(adds, Adds::Unique { whole: false, .. }).then(HashSet::new)
                            })
                            .collect(),
                    }),
                };
                totals.total += if *bytes { size } else { 1 };
                for (i, (test, adds)) in counts.iter().enumerate() {
                    if !test.matches(view) {
                        continue;
                    }
                    match *adds {
                        Adds::Count => totals.counts[i] += 1,
                        Adds::Bytes => totals.counts[i] += size,
                        Adds::Unique { column, whole: true } => whole[i].extend(&column_values[column]),
                        Adds::Unique { column, whole: false } => {
                            if let Some(set) = &mut totals.unique[i] {
                                set.extend(&column_values[column]);
                            }
                        }
                    }
                }
            }
        })
    }

    /// Number of rows before paging, and the page.
    pub fn finish(self) -> (u64, Vec<GroupRow>) {
        let GroupQuery { counts, values, rows, whole, request, .. } = self;
        let mut rows: Vec<GroupRow> = rows
            .into_iter()
            .map(|(key, totals)| {
                let mut numbers = totals.counts;
                for (i, (_, adds)) in counts.iter().enumerate() {
                    if let Adds::Unique { whole: over_all, .. } = adds {
                        let own = totals.unique[i].as_ref().map_or(0, HashSet::len);
                        numbers[i] = if *over_all { whole[i].len() } else { own } as u64;
                    }
                }
                let groups = key.iter().map(|&value| values.get(value).to_owned()).collect();
                GroupRow { groups, counts: numbers, total: totals.total }
            })
            .collect();
        rows.sort_by(|a, b| compare_rows(a, b, &request.sortings));
        let total = rows.len() as u64;
        let limit = if request.limit == 0 { u64::MAX } else { request.limit };
        let skip = usize::try_from(request.offset).unwrap_or(usize::MAX);
        let take = usize::try_from(limit).unwrap_or(usize::MAX);
        (total, rows.into_iter().skip(skip).take(take).collect())
    }
}

fn compare_rows(a: &GroupRow, b: &GroupRow, sortings: &[GroupSorting]) -> Ordering {
    for sorting in sortings {
        let order = match sorting.field {
            GroupSortField::Group(column) => a.groups.get(column).cmp(&b.groups.get(column)),
            GroupSortField::Total => a.total.cmp(&b.total),
            GroupSortField::Count(column) => a.counts.get(column).cmp(&b.counts.get(column)),
        };
        if order != Ordering::Equal {
            return if sorting.descending { order.reverse() } else { order };
        }
    }
    a.groups.cmp(&b.groups)
}

impl Test {
    fn matches(&self, view: EntryView<'_>) -> bool {
        match self {
            Test::All => true,
            Test::State(state) => view.state() == *state,
            Test::Received(compare) => time_matches(compare, view.received()),
            Test::RetryAt(compare) => time_matches(compare, view.retry_at()),
            Test::RetryCount(compare) => compare.matches(u64::from(view.retry_count())),
            Test::Priority(compare) => compare.matches(u64::from(view.priority())),
        }
    }
}

impl Column {
    fn collect(
        &mut self,
        view: EntryView<'_>,
        values: &mut Interner<str>,
        rollups: &[(Field, String, Matcher)],
        policy_grouping: Option<FieldSet>,
        found: &mut Vec<Sym>,
    ) {
        let (entry, message) = (view.entry, view.message);
        let symbol = match &self.field {
            GroupField::TransportId => entry.transport_id,
            GroupField::RecipientDomain => entry.recipient_domain,
            GroupField::SenderDomain => entry.sender_domain,
            GroupField::JobId => entry.job_id,
            GroupField::TenantId => entry.tenant_id,
            GroupField::ServerId => message.server_id,
            GroupField::SenderIp => message.sender_ip,
            GroupField::RemoteIp => view.queue.store.hop_of(entry).remote_ip,
            GroupField::RemoteMx => view.queue.store.hop_of(entry).remote_mx,
            GroupField::Grouping => view.queue.store.hop_of(entry).grouping,
            GroupField::Metadata(key) => {
                found.push(values.intern(view.metadata_value(key).unwrap_or("")));
                return;
            }
            GroupField::LocalIp => {
                for ip in view.local_ips() {
                    let text = ip.to_string();
                    let rolled =
                        rolled_up(view.queue, rollups, policy_grouping, Field::LocalIp, &text, Some(*ip));
                    found.push(values.intern(rolled.as_deref().unwrap_or(&text)));
                }
                if found.is_empty() {
                    found.push(Sym::EMPTY);
                }
                found.sort_unstable();
                found.dedup();
                return;
            }
        };
        let index = symbol.0 as usize;
        if index >= self.known.len() {
            self.known.resize(index + 1, 0);
        }
        if self.known[index] == 0 {
            let address = matches!(self.field, GroupField::SenderIp | GroupField::RemoteIp);
            let ip = address.then(|| view.queue.store.ip_of(symbol)).flatten();
            let shown;
            let text = if address {
                shown = ip.map(|ip| ip.to_string()).unwrap_or_default();
                shown.as_str()
            } else {
                view.queue.store.texts.get(symbol)
            };
            let field = self.field.field();
            let rolled =
                field.and_then(|field| rolled_up(view.queue, rollups, policy_grouping, field, text, ip));
            self.known[index] = values.intern(rolled.as_deref().unwrap_or(text)).0 + 1;
        }
        found.push(Sym(self.known[index] - 1));
    }
}

fn rolled_up(
    queue: &Queue,
    rollups: &[(Field, String, Matcher)],
    policy_grouping: Option<FieldSet>,
    field: Field,
    text: &str,
    ip: Option<std::net::IpAddr>,
) -> Option<String> {
    let own = rollups.iter().find(|(of, _, matcher)| {
        *of == field
            && match ip {
                Some(ip) => matcher.matches_ip(ip),
                None => matcher.matches_text(text),
            }
    });
    if let Some((_, name, _)) = own {
        return Some(name.clone());
    }
    queue.rolled_up(policy_grouping?, field, text, ip)
}

impl Queue {
    /// A distribution in one go.
    pub fn group_by(&self, now: Time, request: GroupRequest) -> (u64, Vec<GroupRow>) {
        let mut query = GroupQuery::new(self, now, request);
        while !query.step(self, usize::MAX) {}
        query.finish()
    }
}
