//! cargo fuzz run dhcp4 tests/corpus/dhcp4
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::dhcp4(bytes));
