//! cargo fuzz run port_policy tests/corpus/port_policy
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::port_policy(bytes));
