//! cargo fuzz run demultiplexer tests/corpus/demultiplexer
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::demultiplexer(bytes));
