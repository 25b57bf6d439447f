//! cargo fuzz run envelope tests/corpus/envelope
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::envelope(bytes));
