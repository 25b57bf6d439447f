//! cargo fuzz run shim tests/corpus/shim
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::shim(bytes));
