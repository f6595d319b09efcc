//! `podpin_fuzz::distinguished_name` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::distinguished_name(input));
