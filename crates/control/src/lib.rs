//! The control plane on the wire: protobuf messages, frame codec, client and server skeleton.
//!
//! A request is a command letter, for most commands followed by a length and a protobuf message; a reply is one
//! final frame (`+` or `E`) after any number of interim frames (`=`). See [`frame`] for the bytes, [`commands`]
//! for the letters, [`smtpd`] for the messages and [`json`] for their JSON form.
//!
//! [`Client`] speaks to a daemon, [`server::serve`] answers for one.

pub mod client;
pub mod commands;
mod error;
pub mod frame;
pub mod json;
pub mod server;

pub use client::{Client, Endpoint};
pub use commands::Command;
pub use error::ControlError;

/// Messages of the mail daemon, generated from `proto/smtpd.proto`.
#[allow(missing_docs, reason = "generated; the schema and the manual describe the fields")]
#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]
pub mod smtpd {
    include!(concat!(env!("OUT_DIR"), "/smtpd.rs"));
}
