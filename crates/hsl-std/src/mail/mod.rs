//! Mail in scripts (library sections 8, 11, C5 to C7): reading and changing messages, making new ones, signatures and
//! sender policies, sending and asking other servers.

mod auth;
mod builder;
mod classes;
mod dkim;
mod dns;
mod functions;
pub(crate) mod object;
mod parts;
mod send;
mod server_array;
mod session;

pub(crate) use builder::part_of;
pub(crate) use classes::message_value;
pub use classes::{eod_class, eod_message};
pub use dkim::ReportSigner;
pub use object::{MailQueue, QueueSink, Queued};
pub use send::{SendFailure, send_in_line};

use hsl::{FunctionDef, NativeClass};
use std::sync::Arc;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    let mut list = functions::functions();
    list.extend(auth::functions());
    list.extend(send::functions());
    list
}

/// The classes of the group.
pub(crate) fn classes() -> Vec<Arc<NativeClass>> {
    vec![builder::class(), classes::message_class(), classes::part_class()]
}
