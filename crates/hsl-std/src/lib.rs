//! The HSL standard library: one module per group of the manual, registered in one table.

mod aliases;
mod array;
mod collections;
mod data;
mod datatypes;
mod encoding;
mod files;
pub mod hooks;
pub mod mailmessage;
mod math;
mod memory;
mod misc;
mod regex;
mod string;
mod support;
mod yaml;

pub use data::decode;
pub use encoding::base64_decode;
pub use files::ScriptFiles;

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
        misc::functions,
        regex::functions,
        string::functions,
    ];
    for group in groups {
        add(&mut registry, group());
    }
    for class in collections::classes() {
        registry.add_class(class);
    }
    aliases::add(&mut registry);
    registry
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
