//! Everything between the spool and the wire: the scheduler that follows the queue, pre-delivery, attempts,
//! post-delivery, reports of failure, and the way in for new messages.

mod attempt;
pub mod backlog;
pub mod commit;
pub(crate) mod ending;
pub mod engine;
pub mod job;
pub(crate) mod load;
pub(crate) mod predelivery;
mod report;
pub mod settle;
mod store;
