//! Fuzzes the piece commitment with any payload, split anywhere.
#![no_main]

use carferry_car::Commitment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u8, Vec<u16>)| {
    let (length, seed, cuts) = input;
    let payload: Vec<u8> = (0..=250u8).cycle().map(|byte| byte ^ seed).take(usize::from(length)).collect();
    let mut whole = Commitment::new();
    whole.update(&payload);
    let mut parts = Commitment::new();
    let mut rest = &payload[..];
    for cut in cuts {
        let (head, tail) = rest.split_at(usize::from(cut).min(rest.len()));
        parts.update(head);
        rest = tail;
    }
    parts.update(rest);
    assert_eq!(whole.finish(), parts.finish());
});
