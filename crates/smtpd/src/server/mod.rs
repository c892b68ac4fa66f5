//! Inbound connections: listeners, limits and the session driver.

mod entry;
pub mod facts;
mod form;
mod http;
pub mod limits;
pub mod listener;
mod message;
mod phases;
mod proxied;
mod session;
pub mod stream;
pub mod tls;
mod wire;
