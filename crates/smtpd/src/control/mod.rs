//! The control socket's side of the daemon: requests become operations on the queue, its answers replies.

pub mod admin;
pub mod convert;
pub mod stats;
