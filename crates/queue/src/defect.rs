//! Breaking the engine on purpose. Only with the feature `defects`, for the test that the simulation notices.

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The end of an attempt wakes nobody.
    NobodyWoken,
    /// Each counter lets one attempt more run than it may.
    OneMore,
    /// A reload does not count the attempts that run.
    ReloadForgetsRunning,
    /// A reload fills every rate.
    ReloadRefills,
    /// Suspensions that come after a lane was made do not concern it.
    LateSuspensionsIgnored,
    /// A frozen entry goes where its work sends it.
    FreezeForgotten,
    /// An entry that was delivered before a restart is sent again.
    DeliveredAgain,
    /// The last one in a lane goes first.
    LastInFirstOut,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 8] = [
        Defect::NobodyWoken,
        Defect::OneMore,
        Defect::ReloadForgetsRunning,
        Defect::ReloadRefills,
        Defect::LateSuspensionsIgnored,
        Defect::FreezeForgotten,
        Defect::DeliveredAgain,
        Defect::LastInFirstOut,
    ];
}

thread_local! {
    static BROKEN: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}

/// Breaks all queues of this thread, or mends them.
pub fn break_on_purpose(defect: Option<Defect>) {
    BROKEN.set(defect);
}

pub(crate) fn is(defect: Defect) -> bool {
    BROKEN.get() == Some(defect)
}
