//! The decoders of the library take any text; what JSON gives survives being written and read again.

#![no_main]

use hsl::{Program, Value};
use std::sync::{Arc, LazyLock};

static DECODERS: LazyLock<Vec<Arc<Program>>> = LazyLock::new(|| {
    [
        "json_decode($d, [\"allow_comments\" => true])",
        "yaml_decode($d)",
        "csv_decode($d)",
        "csv_decode($d, [\"header\" => false])",
        "mimeword_decode($d)",
        "zlib_uncompress($d, 47)",
        "idna_encode($d)",
        "url_parse($d)",
        "LDAP::str2dn($d)",
        "X509::String($d)",
        "X509CRL::String($d)",
    ]
    .map(fuzz::library::expression)
    .to_vec()
});
static JSON: LazyLock<Arc<Program>> = LazyLock::new(|| fuzz::library::expression("json_decode($d)"));
static WRITTEN: LazyLock<Arc<Program>> =
    LazyLock::new(|| fuzz::library::expression("json_decode(json_encode($d))"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for decoder in DECODERS.iter() {
        fuzz::library::value(decoder, Value::bytes(data));
    }
    let Some(value) = fuzz::library::value(&JSON, Value::bytes(data)) else { return };
    if let Some(again) = fuzz::library::value(&WRITTEN, value.clone()) {
        assert!(again.strict_eq(&value), "{} became {}", value.to_string_lossy(), again.to_string_lossy());
    }
});
