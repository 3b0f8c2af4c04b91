//! The constants of BLAKE2b-256. Source: RFC 7693.

/// Bytes of one compression.
pub(super) const CHUNK: usize = 128;
/// Source: RFC 7693 section 2.6.
pub(super) static START: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];
/// Parameter block: digest of 32 bytes, no key, no tree. Source: RFC 7693 section 2.5.
pub(super) const PARAMETERS: i64 = 0x0101_0020;
