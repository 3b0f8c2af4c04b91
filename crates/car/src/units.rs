//! Payload sizes and piece sizes, padded and unpadded, as types.
//!
//! The same number can be any of three sizes, so each has its own type with named conversions and without
//! `Deref` or `From<u64>`.
//!
//! ```text
//! payload size         any number of bytes: the CAR on disk
//! unpadded piece size  127 · 2ⁿ             payload and the zeros behind it     (Lotus' DataRef.PieceSize)
//! padded piece size    128 · 2ⁿ             the same after Fr32 expansion       (DealProposal.PieceSize)
//! ```

use std::fmt;

/// Why a number is not the size of a piece, or a payload fits into no piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PieceSizeError {
    /// Not 127 · 2ⁿ.
    #[error("{0} bytes is not an unpadded piece size (127 times a power of two)")]
    NotUnpadded(u64),
    /// Not a power of two, or less than 128.
    #[error("{0} bytes is not a padded piece size (a power of two of at least 128)")]
    NotPadded(u64),
    /// The padded size of its piece does not fit in 64 bits.
    #[error("a payload of {0} bytes is too large for any piece")]
    TooLarge(u64),
}

/// Bytes of a payload: the size of a CAR on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PayloadSize(u64);

/// Bytes of a piece before Fr32 expansion: 127 · 2ⁿ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnpaddedPieceSize(u64);

/// Bytes of a piece after Fr32 expansion: a power of two of at least 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaddedPieceSize(u64);

impl PayloadSize {
    /// Any number of bytes is a payload size.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The smallest piece that holds this payload, counted before expansion.
    ///
    /// # Errors
    ///
    /// [`PieceSizeError::TooLarge`] where the padded size does not fit in 64 bits.
    pub fn unpadded_piece_size(self) -> Result<UnpaddedPieceSize, PieceSizeError> {
        self.padded_piece_size().map(PaddedPieceSize::unpadded)
    }

    /// The smallest piece that holds this payload, counted after expansion.
    ///
    /// # Errors
    ///
    /// [`PieceSizeError::TooLarge`] where the padded size does not fit in 64 bits.
    pub fn padded_piece_size(self) -> Result<PaddedPieceSize, PieceSizeError> {
        // Source: go-padreader paddedsize.go, PaddedSize.
        let quads = self.0.div_ceil(127).max(1);
        quads
            .checked_next_power_of_two()
            .and_then(|quads| quads.checked_mul(128))
            .map(PaddedPieceSize)
            .ok_or(PieceSizeError::TooLarge(self.0))
    }
}

impl UnpaddedPieceSize {
    /// Checks that the size is 127 · 2ⁿ.
    pub const fn new(bytes: u64) -> Result<Self, PieceSizeError> {
        let quads = bytes / 127;
        if !bytes.is_multiple_of(127) || !quads.is_power_of_two() || quads > (1 << 56) {
            return Err(PieceSizeError::NotUnpadded(bytes));
        }
        Ok(Self(bytes))
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The same piece after expansion.
    pub const fn padded(self) -> PaddedPieceSize {
        PaddedPieceSize(self.0 / 127 * 128)
    }
}

impl PaddedPieceSize {
    /// The largest piece of a 32 GiB sector.
    pub const GIB_32: Self = Self(32 << 30);
    /// The largest piece of a 64 GiB sector.
    pub const GIB_64: Self = Self(64 << 30);
    /// The smallest piece there is.
    pub const MIN: Self = Self(128);

    /// Checks that the size is a power of two of at least 128.
    pub const fn new(bytes: u64) -> Result<Self, PieceSizeError> {
        if bytes < 128 || !bytes.is_power_of_two() {
            return Err(PieceSizeError::NotPadded(bytes));
        }
        Ok(Self(bytes))
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The same piece before expansion.
    pub const fn unpadded(self) -> UnpaddedPieceSize {
        UnpaddedPieceSize(self.0 / 128 * 127)
    }

    /// Height of the piece's tree above its 32-byte leaves: `padded = 32 · 2^height`.
    pub const fn height(self) -> u32 {
        self.0.trailing_zeros() - 5
    }
}

impl fmt::Display for PayloadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UnpaddedPieceSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PaddedPieceSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A length in memory as a number of bytes in a file.
pub(crate) const fn len64(length: usize) -> u64 {
    length as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_take_the_smallest_piece() {
        for (payload, padded) in [
            (0, 128),
            (1, 128),
            (126, 128),
            (127, 128),
            (128, 256),
            (254, 256),
            (255, 512),
            (1016, 1024),
            (1017, 2048),
            (34_091_302_912, 32 << 30),
            (34_091_302_913, 64 << 30),
        ] {
            let size = PayloadSize::new(payload);
            assert_eq!(size.padded_piece_size().unwrap().get(), padded, "payload {payload}");
            assert_eq!(size.unpadded_piece_size().unwrap().get(), padded / 128 * 127, "payload {payload}");
        }
    }

    #[test]
    fn the_largest_payload_is_an_error_and_not_an_overflow() {
        assert_eq!(PayloadSize::new(u64::MAX).padded_piece_size(), Err(PieceSizeError::TooLarge(u64::MAX)));
        assert!(PayloadSize::new(127 << 56).padded_piece_size().is_ok());
        assert!(PayloadSize::new((127 << 56) + 1).padded_piece_size().is_err());
    }

    #[test]
    fn only_piece_sizes_are_piece_sizes() {
        for bad in [0, 126, 128, 381, u64::MAX] {
            assert!(UnpaddedPieceSize::new(bad).is_err(), "unpadded {bad}");
        }
        for bad in [0, 64, 127, 129, 384, u64::MAX] {
            assert!(PaddedPieceSize::new(bad).is_err(), "padded {bad}");
        }
        assert_eq!(UnpaddedPieceSize::new(254).unwrap().padded().get(), 256);
        assert_eq!(PaddedPieceSize::GIB_32.unpadded().get(), 34_091_302_912);
        assert_eq!(PaddedPieceSize::MIN.height(), 2);
    }
}
