//! Fuzzes the parsing of CIDs with any bytes and any text.
#![no_main]

use carferry_car::{PayloadCid, PieceCid, PieceCidV2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for cid in [PayloadCid::from_bytes(bytes), text.parse()].into_iter().flatten() {
        assert_eq!(PayloadCid::from_bytes(&cid.to_bytes()).as_ref(), Ok(&cid));
        assert_eq!(cid.to_string().parse::<PayloadCid>().as_ref(), Ok(&cid));
    }
    for cid in [PieceCid::from_bytes(bytes), text.parse()].into_iter().flatten() {
        assert_eq!(cid.to_string().parse::<PieceCid>(), Ok(cid));
    }
    for cid in [PieceCidV2::from_bytes(bytes), text.parse()].into_iter().flatten() {
        assert_eq!(cid.to_string().parse::<PieceCidV2>(), Ok(cid));
    }
});
