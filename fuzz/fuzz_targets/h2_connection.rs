//! `podpin_fuzz::h2_connection` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::h2_connection(input));
