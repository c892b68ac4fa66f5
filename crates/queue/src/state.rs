//! The states of an entry (`ACTIVE`, `DEFER`, `HOLD`, `UPDATE` and the two working ones) and of work in progress.

use crate::time::Time;

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Resolved, due, waiting in a lane for pickup.
    Active,
    /// Waiting for its next attempt time, or due and waiting for a pre-delivery slot.
    Defer,
    /// Parked until released.
    Hold,
    /// Frozen for an update.
    Update,
    /// In a hook, in DNS resolution or being removed: cannot be changed.
    Unknown,
    /// Delivery attempt running: cannot be changed.
    Sending,
}

impl State {
    /// All states in the order of the manual's tables.
    pub const ALL: [State; 6] =
        [State::Active, State::Defer, State::Hold, State::Update, State::Unknown, State::Sending];

    /// The manual's spelling.
    pub fn name(self) -> &'static str {
        match self {
            State::Active => "ACTIVE",
            State::Defer => "DEFER",
            State::Hold => "HOLD",
            State::Update => "UPDATE",
            State::Unknown => "UNKNOWN",
            State::Sending => "SENDING",
        }
    }

    /// Whether somebody holds a ticket for the entry.
    pub fn is_working(self) -> bool {
        matches!(self, State::Unknown | State::Sending)
    }
}

/// A set of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct States(u8);

impl States {
    /// No state.
    pub const NONE: States = States(0);
    /// ACTIVE, DEFER and HOLD: what updates touch when nothing is said.
    pub const QUEUED: States = States(0b111);
    /// Every state.
    pub const ALL: States = States(0b11_1111);

    /// The set with one more member.
    #[must_use]
    pub fn with(self, state: State) -> States {
        States(self.0 | 1 << state as u8)
    }

    /// Membership.
    pub fn contains(self, state: State) -> bool {
        self.0 & (1 << state as u8) != 0
    }

    /// Whether no state is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<State> for States {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        states.into_iter().fold(States::NONE, States::with)
    }
}

/// What is being done with a working entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Pre-delivery hook and DNS.
    Predelivery,
    /// Delivery attempt.
    Delivery,
    /// Post-delivery hook, notification, removal.
    Postdelivery,
}

impl Phase {
    pub(crate) fn state(self) -> State {
        match self {
            Phase::Delivery => State::Sending,
            Phase::Predelivery | Phase::Postdelivery => State::Unknown,
        }
    }
}

/// What a working entry is up to, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkInfo {
    /// Current phase.
    pub phase: Phase,
    /// Since when.
    pub since: Time,
    /// Whether it goes to UPDATE when the work ends.
    pub freezing: bool,
}
