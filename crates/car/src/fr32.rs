//! Fr32 padding: two zero bits after every 254 bits, so that each 32 bytes are below the field's modulus.
//!
//! ```text
//! 127 bytes in   |--- 254 bits ---|--- 254 bits ---|--- 254 bits ---|--- 254 bits ---|
//! 128 bytes out  |--- 254 bits -00|--- 254 bits -00|--- 254 bits -00|--- 254 bits -00|
//! ```

/// Bytes of one quad before expansion.
pub(crate) const QUAD_RAW: usize = 127;
/// Bytes of one quad after it.
pub(crate) const QUAD_PADDED: usize = 128;

/// The bits of a field element's last word.
pub(crate) const FIELD_TOP: u64 = 0x3fff_ffff_ffff_ffff;

/// Expands whole quads: 127 bytes of `input` become 128 bytes of `output`.
pub(crate) fn expand(output: &mut [u8], input: &[u8]) {
    debug_assert_eq!(output.len() / QUAD_PADDED, input.len() / QUAD_RAW, "as many quads out as in");
    for (padded, raw) in output.chunks_exact_mut(QUAD_PADDED).zip(input.chunks_exact(QUAD_RAW)) {
        expand_quad(padded, raw);
    }
}

fn expand_quad(padded: &mut [u8], raw: &[u8]) {
    // The sixteenth word has only seven bytes of input.
    let mut words = [0u64; 16];
    for (word, bytes) in words.iter_mut().zip(raw.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
    }
    let mut last = [0u8; 8];
    last[..7].copy_from_slice(&raw[120..]);
    words[15] = u64::from_le_bytes(last);

    // Each of the four field elements is shifted by two bits more than the one before.
    let mut before = 0;
    for (index, (word, bytes)) in words.iter().zip(padded.chunks_exact_mut(8)).enumerate() {
        let shift = index / 4 * 2;
        let carried = if shift == 0 { 0 } else { before >> (64 - shift) };
        let mut shifted = (word << shift) | carried;
        if index % 4 == 3 {
            shifted &= FIELD_TOP;
        }
        bytes.copy_from_slice(&shifted.to_le_bytes());
        before = *word;
    }
}
