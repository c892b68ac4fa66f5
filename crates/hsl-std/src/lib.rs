//! The HSL standard library: one module per group of the manual, registered in one table.

mod aliases;
mod array;
mod collections;
mod crypto;
mod data;
mod datatypes;
mod datetime;
pub mod debug;
pub mod docs;
mod domain;
mod encoding;
pub mod environment;
mod ffi;
pub mod file;
mod files;
pub mod hooks;
mod iconv;
pub mod mail;
mod math;
mod memory;
pub mod metrics;
mod mimeword;
mod misc;
pub mod network;
mod rate;
mod regex;
pub mod server;
mod string;
mod support;
mod sys;
mod tls_options;
mod yaml;
mod zlib;

pub use crypto::keys::{KeyKind, PrivateKey, certificate_value};
pub use data::{decode, to_json};
pub use encoding::base64_decode;
pub use environment::{Credential, Environment};
pub use files::{Opened, ScriptFiles};
pub use misc::network_includes;

use hsl::{FunctionDef, NativeClass, Registry};
use std::sync::Arc;

/// The library as one registry, to be layered under the functions of a hook.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    for (group, functions) in groups() {
        for mut def in functions {
            def.group = group;
            registry.add_function(def);
        }
    }
    for class in classes() {
        registry.add_class(class);
    }
    aliases::add(&mut registry);
    // Plugins elsewhere, and imported from their modules.
    registry.add_module("ldap", &["LDAP", "LDAPResult"]);
    registry.add_module("rate", &["rate"]);
    registry
}

/// [`registry`] behind a reference that layers can share.
pub fn shared_registry() -> Arc<Registry> {
    Arc::new(registry())
}

/// The functions by chapter of the manual.
fn groups() -> Vec<(&'static str, Vec<FunctionDef>)> {
    let mut encodings = encoding::functions();
    encodings.extend(mimeword::functions());
    encodings.push(yaml::function());
    encodings.extend(zlib::functions());
    vec![
        ("Arrays", array::functions()),
        ("Cryptography", crypto::functions()),
        ("Data types", datatypes::functions()),
        ("Date and time", datetime::functions()),
        ("DNS", domain::functions()),
        ("Encodings and data formats", encodings),
        ("Mail", mail::functions()),
        ("Mathematics", math::functions()),
        ("Shared memory", memory::functions()),
        ("HTTP", network::functions()),
        ("Metrics", metrics::functions()),
        ("Miscellaneous", misc::functions()),
        ("Queue and server", server::functions()),
        ("Rates", vec![rate::function()]),
        ("Regular expressions", regex::functions()),
        ("Strings", string::functions()),
    ]
}

fn classes() -> Vec<Arc<NativeClass>> {
    let mut list = collections::classes();
    list.extend(crypto::classes());
    list.push(file::class());
    list.push(iconv::class());
    list.extend(mail::classes());
    list.extend(network::classes());
    list.extend(ffi::classes());
    list
}
