//! cargo fuzz run vnet_hdr tests/corpus/vnet_hdr
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| overlay_tests::fuzz::vnet_hdr(bytes));
