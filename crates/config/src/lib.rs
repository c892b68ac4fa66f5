//! Typed configuration: parsing with positions, validation with key paths, packing and unpacking of source trees.
//!
//! A file is read into its type ([`Startup`], [`App`], [`Policy`], [`Suspend`], [`DeliveryFile`]) by [`load`]; unknown keys, wrong types and
//! values out of range are errors that name the file, the key path and the place. [`validate`] then checks
//! what no single key can tell: references, duplicate ids, pairs of files. [`pack`] turns a source tree into
//! the files a daemon reads.

pub mod app;
pub mod environment;
pub mod load;
pub mod node;
pub mod pack;
pub mod pki;
pub mod policy;
pub mod startup;
pub mod validate;
pub mod value;

pub use app::App;
pub use load::{Error, load};
pub use policy::{DeliveryFile, Policy, Suspend};
pub use startup::Startup;
pub use value::{Duration, Rate, Size};
