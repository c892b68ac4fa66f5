//! Any bytes as address list, tag list, signature, key, parameters, encoded words and coded body.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::mail::check_fields(data));
