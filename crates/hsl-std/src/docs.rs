//! The table of the library for readers: JSON for editors (`functions.json`, `classes.json`) and a page of the manual.

use hsl::{FunctionDef, NativeClass, OptionTable, Registry};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;

fn options(tables: &[OptionTable], def: &FunctionDef) -> Json {
    let table = |t: &OptionTable| {
        let keys: Vec<Json> = t
            .keys
            .iter()
            .map(|o| json!({"key": o.key, "type": o.types, "default": o.default, "documentation": o.meaning}))
            .collect();
        let name = def.params.get(t.param).map_or("options", |p| &p.name);
        (name.to_owned(), Json::from(keys))
    };
    Json::Object(tables.iter().map(table).collect())
}

fn function(def: &FunctionDef) -> Json {
    let mut parameters: Vec<Json> = def
        .params
        .iter()
        .map(|p| json!({"name": p.name, "type": types(def, &p.name), "optional": p.optional}))
        .collect();
    if let Some(rest) = def.variadic {
        parameters.push(json!({"name": "...", "type": rest.to_string(), "optional": true}));
    }
    json!({
        "name": def.name,
        "signature": with_result(def),
        "group": def.group,
        "parameters": parameters,
        "returns": def.returns,
        "documentation": def.doc,
        "options": options(&def.options, def),
    })
}

/// The types of a parameter as its signature has them, names of classes included.
fn types<'a>(def: &'a FunctionDef, name: &str) -> &'a str {
    let list = def.signature.split_once('(').map_or("", |(_, list)| list).trim_end_matches(')');
    let typed = list.split(", ").find_map(|p| {
        let (n, types) = p.split_once(": ")?;
        (n.trim_end_matches('?') == name).then_some(types)
    });
    typed.unwrap_or("any")
}

/// A signature with what it gives.
pub fn with_result(def: &FunctionDef) -> String {
    if def.returns.is_empty() {
        def.signature.to_string()
    } else {
        format!("{} -> {}", def.signature, def.returns)
    }
}

/// What scripts call, by name: `function`, `Class`, `Class.method` and `Class::function`.
fn entries(registry: &Registry) -> Vec<(String, &FunctionDef)> {
    let mut all: Vec<(String, &FunctionDef)> =
        registry.functions().into_iter().map(|def| (def.name.to_string(), &**def)).collect();
    for class in registry.classes() {
        all.extend(class.constructor.iter().map(|def| (class.name.to_string(), &**def)));
        all.extend(class.methods().map(|def| (format!("{}.{}", class.name, def.name), def)));
        all.extend(class.statics().map(|def| (format!("{}::{}", class.name, def.name), &**def)));
    }
    all
}

/// The names of all functions, constructors, methods and static functions.
pub fn names(registry: &Registry) -> Vec<String> {
    entries(registry).into_iter().map(|(name, _)| name).collect()
}

/// Those that scripts have called so far, for tests; see [`FunctionDef::called`].
pub fn called(registry: &Registry) -> Vec<String> {
    let mut all = entries(registry);
    all.retain(|(_, def)| def.called.load(std::sync::atomic::Ordering::Relaxed));
    all.into_iter().map(|(name, _)| name).collect()
}

/// All functions, for editors.
pub fn functions_json(registry: &Registry) -> String {
    let list: Vec<Json> = registry.functions().into_iter().map(|def| function(def)).collect();
    format!("{:#}\n", Json::from(list))
}

/// All classes, for editors.
pub fn classes_json(registry: &Registry) -> String {
    let class = |class: &NativeClass| {
        json!({
            "name": class.name,
            "documentation": class.doc,
            "constructor": class.constructor.as_ref().map(|def| function(def)),
            "methods": class.methods().map(function).collect::<Vec<Json>>(),
            "static": class.statics().map(|def| function(def)).collect::<Vec<Json>>(),
        })
    };
    let list: Vec<Json> = registry.classes().into_iter().map(|c| class(c)).collect();
    format!("{:#}\n", Json::from(list))
}

/// The page of the manual.
pub fn manual(registry: &Registry) -> String {
    let mut out = String::from(
        "# Library reference\n\nThis page is made from the table that the programs use: `hsh --docs manual`. \
         [Library](library.md) tells what the functions have in common.\n",
    );
    let mut groups: Vec<&str> = registry.functions().iter().map(|def| def.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let title = if group.is_empty() { "Others" } else { group };
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "\n## {title}");
        for def in registry.functions().into_iter().filter(|def| def.group == group) {
            entry(&mut out, "###", def, "");
        }
    }
    let _ = writeln!(out, "\n## Classes");
    for class in registry.classes() {
        let _ = writeln!(out, "\n### {}", class.name);
        if !class.doc.is_empty() {
            let _ = writeln!(out, "\n{}", class.doc);
        }
        if let Some(def) = &class.constructor {
            entry(&mut out, "####", def, "");
        }
        for def in class.methods() {
            entry(&mut out, "####", def, "->");
        }
        for def in class.statics() {
            entry(&mut out, "####", def, &format!("{}::", class.name));
        }
    }
    out
}

fn entry(out: &mut String, heading: &str, def: &FunctionDef, prefix: &str) {
    let _ = writeln!(
        out,
        "\n{heading} {prefix}{}\n\n```\n{prefix}{}\n```\n\n{}",
        def.name,
        with_result(def),
        def.doc
    );
    for table in &def.options {
        let name = def.params.get(table.param).map_or("options", |p| &p.name);
        let _ = writeln!(out, "\n| `{name}` | type | default | meaning |\n| --- | --- | --- | --- |");
        for o in table.keys {
            let escape = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                o.key,
                escape(o.types),
                escape(o.default),
                escape(o.meaning)
            );
        }
    }
}
