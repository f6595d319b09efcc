//! `podpin_fuzz::h2_heads` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::h2_heads(input));
