//! The HSL standard library: one module per group of the manual, registered in one table.

mod array;
mod data;
mod datatypes;
mod encoding;
pub mod files;
pub mod hooks;
pub mod mailmessage;
mod math;
mod memory;
mod regex;
mod string;
mod support;
mod yaml;

pub use data::decode;

use hsl::{FunctionDef, Registry};
use std::sync::Arc;

/// The library as one registry, to be layered under the functions of a hook.
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    let groups = [
        array::functions,
        datatypes::functions,
        encoding::functions,
        math::functions,
        memory::functions,
        regex::functions,
        string::functions,
    ];
    for group in groups {
        add(&mut registry, group());
    }
    string::aliases(&mut registry);
    registry
}

/// The functions and classes that every script has, behind a reference that layers can share.
pub fn library() -> Arc<Registry> {
    shared_registry()
}

/// [`registry`] behind a reference that layers can share.
pub fn shared_registry() -> Arc<Registry> {
    Arc::new(registry())
}

fn add(registry: &mut Registry, functions: Vec<FunctionDef>) {
    for def in functions {
        registry.add_function(def);
    }
}
