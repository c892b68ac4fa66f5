//! Helpers of several groups.

use hsl::{Args, Array, Error, Value};

/// Longest result string, bytes (library section 0.4).
pub(crate) const STRING_MAX: usize = 512 << 20;
/// Longest result array, elements.
pub(crate) const ARRAY_MAX: usize = 16 << 20;

/// Raises when a result string would be too long or not fit into memory.
pub(crate) fn check_string(function: &str, len: usize) -> Result<(), Error> {
    if len > STRING_MAX {
        return Err(Error::too_large(function));
    }
    if len > 1 << 16 { hsl::check_memory(len) } else { Ok(()) }
}

/// The options argument; empty when left out.
pub(crate) fn options(args: &Args<'_>, i: usize) -> Array {
    args.given(i).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Truthiness of an option.
pub(crate) fn flag(options: &Array, name: &str, default: bool) -> bool {
    options.get_str(name).map_or(default, Value::truthy)
}
