//! cargo fuzz run ruleset tests/corpus/ruleset
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::ruleset(bytes));
