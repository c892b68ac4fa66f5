//! The HSL standard library: one module per group of the manual, registered in one table.

pub mod files;
pub mod hooks;
pub mod mailmessage;

use hsl::Registry;
use std::sync::Arc;

/// The functions and classes that every script has.
pub fn library() -> Arc<Registry> {
    Arc::new(Registry::new())
}
