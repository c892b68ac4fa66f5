//! Network functions that suspend the script: `http`, and the classes `Socket`, `TLSSocket` and `LDAP`.

mod background;
mod connect;
mod http;
mod ldap;
mod pool;
mod socket;
pub(crate) mod tls;
mod tlssocket;

pub use background::drain;
pub use socket::SocketResource;

use hsl::{FunctionDef, NativeClass};
use std::sync::Arc;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![http::function()]
}

/// The classes of the group.
pub(crate) fn classes() -> Vec<Arc<NativeClass>> {
    let mut list = vec![socket::class(), tlssocket::class()];
    list.extend(ldap::classes());
    list
}
