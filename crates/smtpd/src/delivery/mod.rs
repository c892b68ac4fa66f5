//! One attempt at the next hop: connection, dialogue, content, and how it ended.

pub mod connection;
pub mod peer;
pub mod pool;
pub mod result;
pub mod settings;
