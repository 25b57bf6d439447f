//! cargo fuzz run dhcp6 tests/corpus/dhcp6
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::dhcp6(bytes));
