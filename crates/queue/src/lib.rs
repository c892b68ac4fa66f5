//! The in-memory queue: index, conditions, states, retry schedule, lanes and policies. Pure: time is an argument.
//!
//! [`Queue`] is a single-owner structure without files, threads or clocks. The daemon wraps it in a mutex and
//! drives it:
//!
//! 1. [`Queue::insert`] takes in a message with its entries, one per recipient.
//! 2. [`Queue::poll`] hands out what is due: entries for pre-delivery and picks for delivery, each with a
//!    [`Ticket`]. [`Queue::next_wake`] says when to come again.
//! 3. Each ticket comes back: [`Queue::resolved`] puts an entry into its lane, [`Queue::attempt_done`] ends an
//!    attempt, [`Queue::settle`] ends the work.
//!
//! Policies and suspensions decide which lane may be picked ([`Queue::set_policies`],
//! [`Queue::set_suspensions`]); conditions select entries for lists, distributions and updates.
//!
//! ```
//! use queue::{Address, NewEntry, NewMessage, Outcome, Queue, Resolved, Settings, Time, Work};
//!
//! let mut queue = Queue::new(Settings::default());
//! let now = Time::from_secs(1_700_000_000);
//! let message = NewMessage { id: uuid::Uuid::from_u128(1), received: now, ..NewMessage::default() };
//! let recipient = Address::parse("user@example.com");
//! let entry = NewEntry { queue_id: 1, recipient, retry_at: now, ..NewEntry::default() };
//! queue.insert(now, message, vec![entry]).unwrap();
//!
//! let mut work = Vec::new();
//! queue.poll(now, 10, &mut work);
//! let Some(Work::Predelivery(ticket)) = work.pop() else { panic!("the entry is due") };
//! queue.resolved(now, ticket, &Resolved::default()).unwrap();
//! queue.poll(now, 10, &mut work);
//! let Some(Work::Deliver(pick)) = work.pop() else { panic!("nothing limits it") };
//! queue.settle(now, pick.ticket, Outcome::Done).unwrap();
//! assert!(queue.is_empty());
//! ```

/// Whether the engine is broken in this way on purpose; never, but in one test.
macro_rules! broken {
    ($defect:ident) => {{
        #[cfg(feature = "defects")]
        let is_broken = crate::defect::is(crate::defect::Defect::$defect);
        #[cfg(not(feature = "defects"))]
        let is_broken = false;
        is_broken
    }};
}

mod admin;
mod arena;
mod bucket;
mod condition;
mod counters;
#[cfg(feature = "defects")]
mod defect;
mod entry;
mod error;
mod explain;
mod few;
mod fields;
mod groupby;
mod heap;
mod hop;
mod intern;
mod lane;
mod list;
mod pattern;
mod policy;
mod queue;
mod records;
mod retry;
mod rng;
mod scan;
mod sched;
mod slab;
mod state;
mod suspend;
mod texts;
mod time;
mod unload;
mod update;
mod verify;
mod view;
mod waiting;
mod work;

pub use admin::{DynamicChange, PolicyMatch};
pub use bucket::Cause;
pub use condition::{
    AddressTest, Compare, CompareTime, Condition, IdTest, Item, MetadataTest, MetadataValueTest, StateTest,
    TextTest, TimeValue,
};
pub use counters::{Counters, DeliveryCounters, LimitCounters, Quota};
#[cfg(feature = "defects")]
pub use defect::{Defect, break_on_purpose};
pub use entry::{Address, Dsn, EntryKey, NewEntry, NewMessage, Resolved, SUBJECT_BYTES_MAX};
pub use error::QueueError;
pub use explain::{AddressView, BucketView, Explanation, LaneView};
pub use fields::{Field, FieldSet};
pub use groupby::{
    Count, CountReturn, CountTest, GroupField, GroupQuery, GroupRequest, GroupRollup, GroupRow,
    GroupSortField, GroupSorting,
};
pub use list::{ListQuery, SLICE_ENTRIES, SortField, Sorting};
pub use pattern::{Lists, Pattern, Regex, parse_net};
pub use policy::{
    Applied, DynamicCondition, Limits, Policy, PolicyCondition, PolicySet, Rate, RateAlgorithm, Rollup,
    Selection, Selector,
};
pub use queue::Queue;
pub use retry::{DELAY_MAX, DayWindow, RetryInterval, RetryPlan, RetrySchedule};
pub use sched::PickupCounters;
pub use state::{Phase, State, States, WorkInfo};
pub use suspend::{Suspension, SuspensionSource, SuspensionView};
pub use time::Time;
pub use unload::{UnloadReport, UnloadRun, Unloaded};
pub use update::{AddressChange, AgedRun, Changes, Duplicate, Task, UpdateReport, UpdateRequest, UpdateRun};
pub use view::EntryView;
pub use work::{AttemptClass, Outcome, Pick, Requeue, Settings, Settled, Ticket, Work};
