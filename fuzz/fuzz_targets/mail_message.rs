//! Any bytes are a message: it is read, changed in one place and written, and everything else stays as it was.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::mail::check_message(data));
