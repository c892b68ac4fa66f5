//! The parts of a message (RFC 2045, 2046): where they lie, how their bodies are coded, how new ones are written.

pub mod build;
pub mod codec;
pub mod params;
pub mod tree;

pub use build::Builder;
pub use codec::TransferEncoding;
pub use params::Parameters;
pub use tree::{PART_DEPTH_MAX, PARTS_MAX, Part, PartErrors, Tree};
