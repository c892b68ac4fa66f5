//! `pack` and `unpack` take any format and data.

#![no_main]

use hsl::{Array, Program};
use std::sync::{Arc, LazyLock};

static UNPACK: LazyLock<Arc<Program>> =
    LazyLock::new(|| fuzz::library::expression("unpack($d[\"f\"], $d[\"b\"], $d[\"n\"])"));
static PACK: LazyLock<Arc<Program>> =
    LazyLock::new(|| fuzz::library::expression("pack($d[\"f\"], $d[\"b\"], $d[\"n\"], \"ff\", -2.5)"));

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (offset, format, data) = input;
    let mut array = Array::new();
    array.insert_str("f", format);
    array.insert_str("b", data);
    array.insert_str("n", u32::from(offset));
    fuzz::library::value(&UNPACK, array.clone().into());
    // Large counts are large results and nothing else, and would only cost time.
    if !format.windows(7).any(|w| w.iter().all(u8::is_ascii_digit)) {
        fuzz::library::value(&PACK, array.into());
    }
});
