//! Fuzzes the reading of dag-pb links with any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let links = carferry_car::fuzz::links(bytes).unwrap_or_default();
    assert!(links <= bytes.len() / 2, "a link takes two bytes at least");
});
