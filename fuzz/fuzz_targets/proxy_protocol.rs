//! `podpin_fuzz::proxy_protocol` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::proxy_protocol(input));
