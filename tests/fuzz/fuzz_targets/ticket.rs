//! cargo fuzz run ticket tests/corpus/ticket
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::ticket(bytes));
