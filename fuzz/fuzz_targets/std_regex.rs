//! Patterns and subjects of any kind end within the match limits.

#![no_main]

use hsl::{Array, Program};
use std::sync::{Arc, LazyLock};

static CALLS: LazyLock<Vec<Arc<Program>>> = LazyLock::new(|| {
    [
        "pcre_match($d[\"p\"], $d[\"s\"])",
        "pcre_match_all($d[\"p\"], $d[\"s\"])",
        "pcre_replace($d[\"p\"], \"<$0\\${1}>\", $d[\"s\"])",
        "pcre_match(pcre_quote($d[\"p\"]), $d[\"p\"])",
    ]
    .map(fuzz::library::expression)
    .to_vec()
});

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| {
    let (pattern, subject) = input;
    let mut array = Array::new();
    array.insert_str("p", pattern);
    array.insert_str("s", subject);
    for call in CALLS.iter() {
        fuzz::library::value(call, array.clone().into());
    }
});
