//! Suspensions: selections of ACTIVE entries that are not picked up.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bucket::Waiters;
use crate::error::{QueueError, check_tag};
use crate::fields::Field;
use crate::policy::{CompiledSelector, Selector};
use crate::time::Time;

/// A suspension from the file or added at run time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Suspension {
    /// Id: from the file, or made by the caller.
    pub id: String,
    /// What it holds back; empty: everything. Naming `localip` excludes that address only.
    pub when: Selector,
    /// Life time; `None`: until deleted.
    pub ttl: Option<Duration>,
    /// Shown in lists.
    pub tag: Option<String>,
    /// Shown in lists.
    pub properties: BTreeMap<String, String>,
}

impl Suspension {
    pub(crate) fn check(&self) -> Result<(), QueueError> {
        check_tag(self.tag.as_deref())
    }
}

/// Who made a suspension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SuspensionSource {
    /// The suspend file.
    Static,
    /// Control plane, script or plugin.
    Dynamic,
    /// A counter at its limit.
    Counter(crate::bucket::Cause),
}

/// A suspension in force, for lists.
#[derive(Debug, Clone, PartialEq)]
pub struct SuspensionView {
    /// Who made it.
    pub source: SuspensionSource,
    /// Id; empty for counters.
    pub id: String,
    /// Field values or patterns as written.
    pub fields: Vec<(Field, String)>,
    /// Remaining life; `None`: no end known.
    pub ttl: Option<Duration>,
    /// Tag.
    pub tag: Option<String>,
    /// Properties.
    pub properties: BTreeMap<String, String>,
}

pub(crate) struct SuspendSlot {
    /// Order of arrival, from 1.
    pub(crate) number: u64,
    pub(crate) definition: Suspension,
    pub(crate) selector: CompiledSelector,
    pub(crate) expires: Option<Time>,
    pub(crate) dynamic: bool,
    pub(crate) waiters: Waiters,
}

impl SuspendSlot {
    pub(crate) fn new(number: u64, definition: Suspension, dynamic: bool, now: Time) -> Self {
        let expires = definition.ttl.map(|ttl| now.after(ttl));
        let selector = CompiledSelector::new(&definition.when);
        SuspendSlot { number, definition, selector, expires, dynamic, waiters: Waiters::default() }
    }
}

/// A suspension as lists show it.
pub(crate) fn view_of(slot: &SuspendSlot, now: Time) -> SuspensionView {
    SuspensionView {
        source: if slot.dynamic { SuspensionSource::Dynamic } else { SuspensionSource::Static },
        id: slot.definition.id.clone(),
        fields: describe(&slot.definition.when),
        ttl: slot.expires.map(|at| at.since(now)),
        tag: slot.definition.tag.clone(),
        properties: slot.definition.properties.clone(),
    }
}

/// The patterns of a selector as text, one per field.
fn describe(selector: &Selector) -> Vec<(Field, String)> {
    let text = |pattern: &crate::pattern::Pattern| pattern.to_string();
    selector
        .fields
        .iter()
        .map(|(field, patterns)| (*field, patterns.iter().map(text).collect::<Vec<_>>().join(", ")))
        .collect()
}
