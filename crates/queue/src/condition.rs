//! Conditions: which entries a list, distribution or update is about.
//!
//! Values in one list are alternatives, different lists must all hold. Excluding items must all fail. Conditions
//! are compiled before a scan: exact texts become symbols, and patterns are asked once per distinct value.

use std::net::IpAddr;

use ipnet::IpNet;
use uuid::Uuid;

use crate::fields::FieldSet;
use crate::pattern::Regex;
use crate::state::States;
use crate::time::Time;

/// A text test.
#[derive(Debug, Clone, PartialEq)]
pub enum TextTest {
    /// Equal.
    Exact(String),
    /// Equal but for ASCII case.
    ExactCaseless(String),
    /// Contained.
    Partial(String),
    /// Contained but for ASCII case.
    PartialCaseless(String),
    /// Expression.
    Regex(Regex),
}

impl TextTest {
    /// Whether `text` passes.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            TextTest::Exact(wanted) => text == wanted,
            TextTest::ExactCaseless(wanted) => text.eq_ignore_ascii_case(wanted),
            TextTest::Partial(part) => text.contains(part.as_str()),
            TextTest::PartialCaseless(part) => text.to_ascii_lowercase().contains(&part.to_ascii_lowercase()),
            TextTest::Regex(regex) => regex.is_match(text),
        }
    }
}

/// An alternative, or with `exclude` something that must not be.
#[derive(Debug, Clone, PartialEq)]
pub struct Item<T> {
    /// Must not match.
    pub exclude: bool,
    /// The test.
    pub test: T,
}

impl<T> Item<T> {
    /// An alternative.
    pub fn include(test: T) -> Self {
        Item { exclude: false, test }
    }

    /// Something that must not be.
    pub fn exclude(test: T) -> Self {
        Item { exclude: true, test }
    }
}

/// Comparison of numbers; all members given must hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compare<T> {
    /// Equal.
    pub eq: Option<T>,
    /// Not equal.
    pub neq: Option<T>,
    /// Less.
    pub lt: Option<T>,
    /// Greater.
    pub gt: Option<T>,
    /// Greater or equal.
    pub gte: Option<T>,
    /// Less or equal.
    pub lte: Option<T>,
}

impl<T> Default for Compare<T> {
    /// No bound: everything passes.
    fn default() -> Self {
        Compare { eq: None, neq: None, lt: None, gt: None, gte: None, lte: None }
    }
}

impl<T: PartialOrd + Copy> Compare<T> {
    /// Whether `value` passes.
    pub fn matches(&self, value: T) -> bool {
        self.eq.is_none_or(|x| value == x)
            && self.neq.is_none_or(|x| value != x)
            && self.lt.is_none_or(|x| value < x)
            && self.gt.is_none_or(|x| value > x)
            && self.gte.is_none_or(|x| value >= x)
            && self.lte.is_none_or(|x| value <= x)
    }
}

impl<T> Compare<T> {
    /// The same comparison of other values.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Compare<U> {
        Compare {
            eq: self.eq.map(&f),
            neq: self.neq.map(&f),
            lt: self.lt.map(&f),
            gt: self.gt.map(&f),
            gte: self.gte.map(&f),
            lte: self.lte.map(&f),
        }
    }
}

/// A moment, fixed or counted from the time of the question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TimeValue {
    /// Seconds since the epoch.
    Absolute(f64),
    /// Seconds from now, negative for the past.
    Relative(f64),
}

impl TimeValue {
    /// The moment meant.
    pub fn at(self, now: Time) -> Time {
        match self {
            TimeValue::Absolute(seconds) => Time::from_secs_f64(seconds),
            TimeValue::Relative(seconds) => now.shifted_s(seconds),
        }
    }
}

/// Comparison of moments; `eq` and `neq` compare whole seconds.
pub type CompareTime = Compare<TimeValue>;

/// Works a comparison out for a moment of asking.
pub(crate) fn times(compare: &CompareTime, now: Time) -> Compare<Time> {
    compare.map(|value| value.at(now))
}

pub(crate) fn time_matches(compare: &Compare<Time>, value: Time) -> bool {
    let whole = |time: Time| time.as_secs();
    let bounds = Compare { eq: None, neq: None, ..*compare };
    compare.eq.is_none_or(|x| whole(value) == whole(x))
        && compare.neq.is_none_or(|x| whole(value) != whole(x))
        && bounds.matches(value)
}

/// A test of an address: both parts given must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AddressTest {
    /// Local part, and whether it must not match.
    pub localpart: Option<Item<TextTest>>,
    /// Domain.
    pub domain: Option<TextTest>,
}

/// A test of metadata: each key must exist and pass one of its tests.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetadataTest {
    /// Keys with what their values must be.
    pub keys: Vec<(String, MetadataValueTest)>,
}

/// Alternatives for one metadata value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetadataValueTest {
    /// Text tests.
    pub texts: Vec<Item<TextTest>>,
    /// Comparisons of values that are numbers.
    pub numbers: Vec<Compare<f64>>,
}

impl MetadataValueTest {
    fn matches(&self, value: &str) -> bool {
        let number = value.trim().parse::<f64>().ok();
        let excluded = self.texts.iter().any(|item| item.exclude && item.test.matches(value));
        let includes = self.texts.iter().filter(|item| !item.exclude).count() + self.numbers.len();
        let included = self.texts.iter().any(|item| !item.exclude && item.test.matches(value))
            || self.numbers.iter().any(|compare| number.is_some_and(|n| compare.matches(n)));
        !excluded && (includes == 0 || included)
    }
}

impl MetadataTest {
    pub(crate) fn matches<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> bool {
        self.keys.iter().all(|(key, test)| value(key).is_some_and(|value| test.matches(value)))
    }
}

/// An id test: one entry, or all of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdTest {
    /// Transaction.
    pub message: Uuid,
    /// Number; `None`: all.
    pub queue_id: Option<u64>,
}

/// States asked for. A working state can be narrowed to entries that are (or are not) marked by a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateTest {
    /// Alternatives; none: every state.
    pub states: States,
    /// Of working entries only those with this mark.
    pub freezing: Option<bool>,
}

/// What an entry must be. The default matches everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Condition {
    /// States.
    pub states: StateTest,
    /// Ids.
    pub ids: Vec<Item<IdTest>>,
    /// On hold or not.
    pub hold: Option<bool>,
    /// Virtual servers.
    pub server_ids: Vec<Item<TextTest>>,
    /// Client networks.
    pub sender_ips: Vec<Item<IpNet>>,
    /// Transports.
    pub transport_ids: Vec<Item<TextTest>>,
    /// Jobs.
    pub job_ids: Vec<Item<TextTest>>,
    /// Tenants.
    pub tenant_ids: Vec<Item<TextTest>>,
    /// Live stages.
    pub stage_ids: Vec<Item<TextTest>>,
    /// Senders.
    pub senders: Vec<Item<AddressTest>>,
    /// Recipients.
    pub recipients: Vec<Item<AddressTest>>,
    /// Reception time.
    pub received: Vec<CompareTime>,
    /// Next attempt.
    pub retry_at: Vec<CompareTime>,
    /// Retry count.
    pub retry_counts: Vec<Compare<u64>>,
    /// Subjects.
    pub subjects: Vec<Item<TextTest>>,
    /// Metadata.
    pub metadata: Vec<Item<MetadataTest>>,
    /// Quota names.
    pub quotas: Vec<Item<TextTest>>,
    /// Sizes in bytes.
    pub sizes: Vec<Compare<u64>>,
    /// Reasons.
    pub retry_reasons: Vec<Item<TextTest>>,
    /// Source networks.
    pub local_ips: Vec<Item<IpNet>>,
    /// Next-hop networks.
    pub remote_ips: Vec<Item<IpNet>>,
    /// MX names.
    pub remote_mxs: Vec<Item<TextTest>>,
    /// Tags.
    pub tags: Vec<Item<TextTest>>,
    /// Priorities.
    pub priorities: Vec<Compare<u64>>,
    /// Compare field values after the rollup of the policy with exactly these fields.
    pub policy_grouping: Option<FieldSet>,
    /// Grouping values.
    pub groupings: Vec<Item<TextTest>>,
    /// Random share, above 0 and at most 1; 0 is off.
    pub probability: f64,
}

/// Whether any alternative holds and no exclusion does; `matches` tests one item.
pub(crate) fn select<T>(items: &[Item<T>], matches: impl Fn(&T) -> bool) -> bool {
    let mut wanted = false;
    let mut found = false;
    for item in items {
        if item.exclude {
            if matches(&item.test) {
                return false;
            }
        } else {
            wanted = true;
            found = found || matches(&item.test);
        }
    }
    found || !wanted
}

/// Whether any comparison holds; none given is a pass.
pub(crate) fn any<T: PartialOrd + Copy>(compares: &[Compare<T>], value: T) -> bool {
    compares.is_empty() || compares.iter().any(|compare| compare.matches(value))
}

pub(crate) fn select_ips(items: &[Item<IpNet>], ips: &[IpAddr]) -> bool {
    items.is_empty() || select(items, |net| ips.iter().any(|ip| net.contains(ip)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_and_exclusions() {
        let items = [Item::include("a"), Item::include("b"), Item::exclude("x")];
        for (value, expected) in [("a", true), ("b", true), ("c", false), ("x", false)] {
            assert_eq!(select(&items, |test| *test == value), expected, "{value}");
        }
        let only_exclusion = [Item::exclude("x")];
        assert!(select(&only_exclusion, |test| *test == "a"));
        assert!(!select(&only_exclusion, |test| *test == "x"));
    }

    #[test]
    fn several_members_of_a_comparison_are_a_range() {
        let range = Compare { gte: Some(10u64), lte: Some(20), ..Compare::default() };
        for (value, expected) in [(9, false), (10, true), (20, true), (21, false)] {
            assert_eq!(range.matches(value), expected, "{value}");
        }
    }

    #[test]
    fn equal_times_agree_in_the_whole_second() {
        let compare = Compare { eq: Some(Time(5_900_000)), ..Compare::default() };
        assert!(time_matches(&compare, Time(5_100_000)));
        assert!(!time_matches(&compare, Time(6_000_000)));
    }

    #[test]
    fn metadata_numbers_and_texts_are_alternatives() {
        let more_than_ten = Compare { gt: Some(10.0), ..Compare::default() };
        let test = MetadataValueTest {
            texts: vec![Item::include(TextTest::Exact("many".into()))],
            numbers: vec![more_than_ten],
        };
        for (value, expected) in [("11", true), ("9.5", false), ("many", true), ("few", false)] {
            assert_eq!(test.matches(value), expected, "{value}");
        }
    }
}
