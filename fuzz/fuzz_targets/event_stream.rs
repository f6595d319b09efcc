//! `podpin_fuzz::event_stream` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podpin_fuzz::event_stream(input));
