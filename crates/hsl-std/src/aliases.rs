//! Names of older scripts (library appendix "legacy names").

use hsl::{FunctionDef, NativeFn, Registry};
use std::sync::Arc;

/// Old name and the function it stands for.
const PLAIN: &[(&str, &str)] = &[
    ("count", "length"),
    ("strlen", "length"),
    ("strtolower", "str_lower"),
    ("strtoupper", "str_upper"),
    ("trim", "str_strip"),
    ("substr", "str_slice"),
    ("strpos", "str_find"),
    ("in_array", "array_includes"),
    ("range", "array_range"),
    ("rand", "random_number"),
    ("is_bool", "is_boolean"),
];

/// Signature with swapped arguments, and the function it stands for.
const SWAPPED: &[(&str, &str)] = &[
    ("implode(glue: string, array: array)", "array_join"),
    ("explode(delimiter: string, string: string, limit?: number)", "str_split"),
];

/// Adds the old names to a registry that has the functions.
pub(crate) fn add(registry: &mut Registry) {
    for (alias, name) in PLAIN {
        registry.add_alias(alias, name);
    }
    for (signature, name) in SWAPPED {
        let Some(def) = registry.function(name).map(Arc::clone) else { continue };
        let NativeFn::Pure(code) = def.code else { continue };
        registry.add_function(FunctionDef::full(signature, "Older name.", move |cx, mut args| {
            args.swap(0, 1);
            code(cx, args).map(Into::into)
        }));
        registry.set_old_name(signature.split('(').next().unwrap_or_default(), name);
    }
    for (signature, kind) in crate::domain::OLD {
        registry.add_function(crate::domain::old(signature, kind));
        registry.set_old_name(signature.split('(').next().unwrap_or_default(), "dns_query");
    }
}
