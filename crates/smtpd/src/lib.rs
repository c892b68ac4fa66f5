//! The mail daemon: wires sockets, scripts, spool, queue and delivery together.
//!
//! The way of a message through the rooms of this crate: [`server`] receives it and asks the [`hooks`],
//! [`queueing`] commits it and follows the queue, [`delivery`] carries it to the next hop. [`generation`] is
//! the configuration they all work with, [`control`] lets operators look and act, [`daemon`] starts and stops
//! everything.

pub mod clock;
pub mod control;
pub mod daemon;
pub mod delivery;
pub mod generation;
pub mod grouping;
pub mod hooks;
pub mod lists;
pub mod log;
pub mod policies;
pub mod privileges;
pub mod queue_files;
pub mod queueing;
pub mod server;
pub mod stage;
pub mod transport;
