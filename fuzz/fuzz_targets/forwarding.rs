//! `podpin_fuzz::forwarding` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::forwarding(input));
