//! Any bytes are a program or a list of errors: lexer, parser and compiler neither panic nor hang. What compiles is
//! run, too, within tight limits.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check(data));
