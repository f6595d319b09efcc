//! `podpin_fuzz::websocket` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::websocket(input));
