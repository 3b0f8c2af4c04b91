//! Unsigned varints (LEB128): seven bits per byte, the lowest first.

/// Length of the longest number in bytes.
pub(crate) const BYTES_MAX: usize = 10;

/// Length of a number in bytes.
pub(crate) const fn len(number: u64) -> u64 {
    // 1..=7 bits take one byte, 8..=14 two; zero takes one.
    ((70 - (number | 1).leading_zeros()) / 7) as u64
}

/// Appends a number.
pub(crate) fn push(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(unsigned_varint::encode::u64(number, &mut [0; 10]));
}

/// Reads a number from the front of some bytes; returns the rest as well. `None` if the number is cut short,
/// overlong or too large.
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, &[u8])> {
    unsigned_varint::decode::u64(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_encoding() {
        let mut numbers = vec![0, u64::MAX];
        for bit in 0..64 {
            numbers.extend([(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        }
        for number in numbers {
            let mut bytes = Vec::new();
            push(&mut bytes, number);
            assert_eq!(len(number), u64::try_from(bytes.len()).unwrap(), "{number}");
            assert_eq!(read(&bytes), Some((number, &[][..])), "{number}");
        }
    }
}
