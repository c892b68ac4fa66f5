//! Any bytes are a client: whole or in pieces they get the same replies.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::smtp_server::check(data));
