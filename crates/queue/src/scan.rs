//! A compiled condition: tests of symbols with remembered answers, and a cursor over all entries.

use crate::condition::{
    AddressTest, Compare, Condition, Item, TextTest, any, select, select_ips, time_matches, times,
};
use crate::entry::{Entry, Message, Store};
use crate::fields::Field;
use crate::intern::Sym;
use crate::queue::Queue;
use crate::rng::Rng;
use crate::time::Time;
use crate::view::EntryView;

/// Answers remembered per symbol. Symbols may be reused between two slices of a scan, so the memory is dropped
/// with each slice.
#[derive(Default)]
pub(crate) struct Memo {
    /// 0 unknown, 1 no, 2 yes.
    answers: Vec<u8>,
}

impl Memo {
    pub(crate) fn get(&mut self, symbol: Sym, work_out: impl FnOnce() -> bool) -> bool {
        let index = symbol.0 as usize;
        if index >= self.answers.len() {
            self.answers.resize(index + 1, 0);
        }
        if self.answers[index] == 0 {
            self.answers[index] = 1 + u8::from(work_out());
        }
        self.answers[index] == 2
    }

    pub(crate) fn clear(&mut self) {
        self.answers.clear();
    }
}

/// The interned texts a condition can ask for.
#[derive(Clone, Copy)]
enum Text {
    Server,
    Transport,
    Job,
    Tenant,
    Stage,
    Reason,
    RemoteMx,
    Grouping,
}

const TEXTS: [Text; 8] = [
    Text::Server,
    Text::Transport,
    Text::Job,
    Text::Tenant,
    Text::Stage,
    Text::Reason,
    Text::RemoteMx,
    Text::Grouping,
];

impl Text {
    fn symbol(self, store: &Store, entry: &Entry, message: &Message) -> Sym {
        match self {
            Text::Server => message.server_id,
            Text::Transport => entry.transport_id,
            Text::Job => entry.job_id,
            Text::Tenant => entry.tenant_id,
            Text::Stage => message.stage_id,
            Text::Reason => entry.retry_reason,
            Text::RemoteMx => store.hop_of(entry).remote_mx,
            Text::Grouping => store.hop_of(entry).grouping,
        }
    }

    fn items(self, condition: &Condition) -> &[Item<TextTest>] {
        match self {
            Text::Server => &condition.server_ids,
            Text::Transport => &condition.transport_ids,
            Text::Job => &condition.job_ids,
            Text::Tenant => &condition.tenant_ids,
            Text::Stage => &condition.stage_ids,
            Text::Reason => &condition.retry_reasons,
            Text::RemoteMx => &condition.remote_mxs,
            Text::Grouping => &condition.groupings,
        }
    }

    fn field(self) -> Option<Field> {
        match self {
            Text::Transport => Some(Field::TransportId),
            Text::Job => Some(Field::JobId),
            Text::Tenant => Some(Field::TenantId),
            Text::RemoteMx => Some(Field::RemoteMx),
            Text::Grouping => Some(Field::Grouping),
            Text::Server | Text::Stage | Text::Reason => None,
        }
    }
}

/// A condition at work.
pub(crate) struct Scan {
    condition: Condition,
    received: Vec<Compare<Time>>,
    retry_at: Vec<Compare<Time>>,
    texts: [Memo; 8],
    sender_domains: Vec<Memo>,
    recipient_domains: Vec<Memo>,
    rng: Rng,
    cursor: u32,
    /// Slot generation has no say here: entries that come later are seen if they get a higher place.
    end: u32,
}

impl Scan {
    pub(crate) fn new(queue: &Queue, now: Time, condition: Condition, seed: u64) -> Scan {
        let received = condition.received.iter().map(|compare| times(compare, now)).collect();
        let retry_at = condition.retry_at.iter().map(|compare| times(compare, now)).collect();
        let memos = |count: usize| std::iter::repeat_with(Memo::default).take(count).collect();
        Scan {
            received,
            retry_at,
            texts: Default::default(),
            sender_domains: memos(condition.senders.len()),
            recipient_domains: memos(condition.recipients.len()),
            rng: Rng::new(seed),
            cursor: 0,
            end: queue.store.entries.bound() as u32,
            condition,
        }
    }

    /// Visits up to `budget` places and calls `found` for each matching entry; true when the end is reached.
    pub(crate) fn step(
        &mut self,
        queue: &Queue,
        budget: usize,
        mut found: impl FnMut(EntryView<'_>),
    ) -> bool {
        self.forget();
        if let Some(ids) = self.few_ids() {
            // Named messages are found through their index, whatever the size of the queue.
            for id in ids {
                let Some(owner) = queue.find_message(id) else { continue };
                for index in queue.chain(owner) {
                    let view = EntryView::new(queue, index, &queue.store.entries[index]);
                    if self.matches(view) {
                        found(view);
                    }
                }
            }
            self.cursor = self.end;
            return true;
        }
        let mut left = budget.max(1);
        while self.cursor < self.end && left > 0 {
            let index = self.cursor;
            self.cursor += 1;
            left -= 1;
            let Some(entry) = queue.store.entries.get(index) else { continue };
            let view = EntryView::new(queue, index, entry);
            if self.matches(view) {
                found(view);
            }
        }
        self.cursor >= self.end
    }

    /// How many of these entries match now; a random choice among them was made when they were found.
    pub(crate) fn count_matches(&mut self, queue: &Queue, entries: &[u32]) -> usize {
        self.forget();
        let share = std::mem::take(&mut self.condition.probability);
        let mut matching = 0;
        for &index in entries {
            matching += usize::from(self.matches(EntryView::new(queue, index, &queue.store.entries[index])));
        }
        self.condition.probability = share;
        matching
    }

    fn forget(&mut self) {
        self.texts.iter_mut().for_each(Memo::clear);
        self.sender_domains.iter_mut().for_each(Memo::clear);
        self.recipient_domains.iter_mut().for_each(Memo::clear);
    }

    /// The messages asked for, when the condition names some.
    fn few_ids(&self) -> Option<Vec<uuid::Uuid>> {
        let ids = &self.condition.ids;
        let mut named: Vec<_> =
            ids.iter().filter(|item| !item.exclude).map(|item| item.test.message).collect();
        named.sort_unstable();
        named.dedup();
        (!named.is_empty()).then_some(named)
    }

    /// Cheap tests first, random choice last.
    pub(crate) fn matches(&mut self, view: EntryView<'_>) -> bool {
        let (entry, message) = (view.entry, view.message);
        let condition = &self.condition;
        let states = condition.states;
        if !states.states.is_empty() && !states.states.contains(entry.state) {
            return false;
        }
        if let Some(freezing) = states.freezing
            && entry.state.is_working()
            && view.work().is_some_and(|work| work.freezing != freezing)
        {
            return false;
        }
        if condition.hold.is_some_and(|hold| hold != view.hold()) {
            return false;
        }
        let times_match =
            |list: &[Compare<Time>], at: Time| list.is_empty() || list.iter().any(|c| time_matches(c, at));
        if !times_match(&self.received, message.received)
            || !times_match(&self.retry_at, entry.retry_at)
            || !any(&condition.retry_counts, u64::from(entry.retry_count))
            || !any(&condition.sizes, view.size())
            || !any(&condition.priorities, u64::from(entry.priority))
        {
            return false;
        }
        if !condition.ids.is_empty() {
            let (id, number) = (message.id, view.queue_id());
            let is = |test: &crate::condition::IdTest| {
                test.message == id && test.queue_id.is_none_or(|wanted| wanted == number)
            };
            if !select(&condition.ids, is) {
                return false;
            }
        }
        self.texts_match(view)
            && self.addresses_match(view)
            && select_ips(&self.condition.sender_ips, view.queue.store.ips.get(message.sender_ip))
            && select_ips(&self.condition.local_ips, view.local_ips())
            && select_ips(
                &self.condition.remote_ips,
                view.queue.store.ips.get(view.queue.store.hop_of(entry).remote_ip),
            )
            && self.rare_match(view)
            && self.chosen()
    }

    fn texts_match(&mut self, view: EntryView<'_>) -> bool {
        for (memo, text) in self.texts.iter_mut().zip(TEXTS) {
            let items = text.items(&self.condition);
            if items.is_empty() {
                continue;
            }
            let symbol = text.symbol(&view.queue.store, view.entry, view.message);
            let grouping = self.condition.policy_grouping;
            let passes = memo.get(symbol, || {
                let value = view.queue.store.texts.get(symbol);
                let rolled = match (grouping, text.field()) {
                    (Some(fields), Some(field)) => view.queue.rolled_up(fields, field, value, None),
                    _ => None,
                };
                select(items, |test| test.matches(rolled.as_deref().unwrap_or(value)))
            });
            if !passes {
                return false;
            }
        }
        true
    }

    fn addresses_match(&mut self, view: EntryView<'_>) -> bool {
        let (entry, store) = (view.entry, &view.queue.store);
        let check = |items: &[Item<AddressTest>], memos: &mut [Memo], local: &str, domain: Sym| {
            let mut wanted = false;
            let mut found = false;
            for (item, memo) in items.iter().zip(memos) {
                let domain_matches = match &item.test.domain {
                    Some(test) => memo.get(domain, || test.matches(store.texts.get(domain))),
                    None => true,
                };
                let local_matches = item.test.localpart.as_ref();
                let matches = domain_matches
                    && local_matches.is_none_or(|part| part.test.matches(local) != part.exclude);
                if item.exclude && matches {
                    return false;
                }
                wanted |= !item.exclude;
                found |= !item.exclude && matches;
            }
            found || !wanted
        };
        let condition = &self.condition;
        check(
            &condition.senders,
            &mut self.sender_domains,
            store.sender_localpart(entry),
            entry.sender_domain,
        ) && check(
            &condition.recipients,
            &mut self.recipient_domains,
            store.recipient_localpart(entry),
            entry.recipient_domain,
        )
    }

    fn rare_match(&self, view: EntryView<'_>) -> bool {
        let condition = &self.condition;
        let one_of = |items: &[Item<TextTest>], values: &[&str]| {
            items.is_empty() || select(items, |test| values.iter().any(|value| test.matches(value)))
        };
        if !condition.subjects.is_empty() && !select(&condition.subjects, |t| t.matches(view.subject())) {
            return false;
        }
        if !condition.quotas.is_empty() && !one_of(&condition.quotas, &view.quotas().collect::<Vec<_>>()) {
            return false;
        }
        if !condition.metadata.is_empty()
            && !select(&condition.metadata, |test| test.matches(|key| view.metadata_value(key)))
        {
            return false;
        }
        if condition.tags.is_empty() {
            return true;
        }
        let tags = view.tags();
        one_of(&condition.tags, &tags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn chosen(&mut self) -> bool {
        let probability = self.condition.probability;
        probability <= 0.0 || self.rng.unit() < probability
    }
}
