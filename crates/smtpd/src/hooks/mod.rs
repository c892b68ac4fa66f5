//! The hooks of the daemon: compiling and running scripts, building their variables, reading what they decided.

pub mod bridge;
pub mod connection;
pub mod decision;
pub mod delivery;
mod in_line;
mod mail_queue;
pub mod pool;
pub mod pools;
mod ptr;
pub(crate) mod recipient;
pub mod script;
mod sink;
mod variables;

/// The `$context` of a connection or an attempt between two of its hooks.
#[derive(Default)]
pub struct ContextValue(Option<hsl::Value>);

impl ContextValue {
    /// True while no script has set it.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}
