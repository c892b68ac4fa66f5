//! Programs made from the input run, fail or are stopped by a limit: the machine neither panics nor hangs.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check(fuzz::generate::program(data).as_bytes()));
