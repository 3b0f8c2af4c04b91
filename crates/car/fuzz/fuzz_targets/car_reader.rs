//! Fuzzes the verification of CARs with any bytes.
#![no_main]

use carferry_car::Commitment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(verified) = carferry_car::fuzz::verify(bytes) {
        let mut commitment = Commitment::new();
        commitment.update(bytes);
        let piece = commitment.finish().expect("it was small enough before");
        assert_eq!(piece.piece_cid, verified.piece_cid);
        assert_eq!(piece.payload_size, verified.payload_size);
    }
});
