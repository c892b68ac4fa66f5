//! Inbound connections: listeners, limits and the session driver.

pub mod facts;
pub mod limits;
pub mod listener;
pub mod session;
mod wire;
