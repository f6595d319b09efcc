//! `podpin_fuzz::endpoints_file` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::endpoints_file(input));
