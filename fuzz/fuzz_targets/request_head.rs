//! `podpin_fuzz::request_head` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::request_head(input));
