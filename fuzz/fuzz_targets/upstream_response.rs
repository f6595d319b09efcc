//! `podpin_fuzz::upstream_response` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::upstream_response(input));
