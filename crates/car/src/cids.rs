//! Payload CIDs and piece CIDs (commP), parsed as strictly as Lotus parses them.
//!
//! ```text
//! `CIDv1` = version 0x01 | codec varint | hash code varint | digest length varint | digest
//! `CIDv0` = 0x12 0x20 | 32-byte digest                        (text: base58btc without a prefix)
//! ```
//!
//! The rules are those of go-cid v0.4.1: no bytes after the digest, no `/ipfs/` prefix. CIDs are held as
//! bytes, because digests of Lotus' inlined roots are longer than the limit of the crate `cid`, which is 64.

use std::fmt;
use std::str::FromStr;

use cid::multibase;

use crate::kernels::hash_blocks;
use crate::limits::CID_DIGEST_BYTES_MAX;
use crate::profile::BlockHash;
use crate::units::{PaddedPieceSize, PayloadSize, PieceSizeError, len64};

pub(crate) const CODEC_RAW: u64 = 0x55;
pub(crate) const CODEC_DAG_PB: u64 = 0x70;
pub(crate) const CODEC_CBOR: u64 = 0x51;
pub(crate) const CODEC_DAG_CBOR: u64 = 0x71;
pub(crate) const CODEC_JSON: u64 = 0x0200;
pub(crate) const HASH_IDENTITY: u64 = 0x00;
pub(crate) const HASH_SHA2_256: u64 = 0x12;
pub(crate) const HASH_BLAKE2B_256: u64 = 0xb220;
/// `fil-commitment-unsealed`. Source: multicodec table.
const CODEC_PIECE: u64 = 0xf101;
/// `sha2-256-trunc254-padded`. Source: multicodec table.
const HASH_PIECE: u64 = 0x1012;
/// `fr32-sha2-256-trunc254-padded-binary-tree`. Source: FRC-0069.
const HASH_PIECE_V2: u64 = 0x1011;

/// Why bytes or text are not the expected CID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidError {
    /// Neither base58 of a `CIDv0` nor a known multibase.
    #[error("not a CID: the text is not valid in any base a CID is written in")]
    Encoding,
    /// The bytes end inside the CID.
    #[error("not a CID: it ends too early")]
    Truncated,
    /// Bytes follow the digest.
    #[error("not a CID: {0} bytes follow its end")]
    TrailingBytes(usize),
    /// A version other than 0 and 1.
    #[error("not a CID: unknown version {0}")]
    UnknownVersion(u64),
    /// A varint that is overlong or has more than 64 bits.
    #[error("not a CID: a malformed number in it")]
    Varint,
    /// A digest of more than 128 bytes.
    #[error("not a CID: a digest of {0} bytes, more than 128")]
    DigestTooLong(u64),
    /// A CID, but not of a piece.
    #[error("not a piece CID: codec {codec:#x}, hash {hash:#x}, digest of {digest_bytes} bytes")]
    NotAPiece {
        /// Its codec.
        codec: u64,
        /// Its hash code.
        hash: u64,
        /// The length of its digest.
        digest_bytes: usize,
    },
    /// A piece CID of version 2 whose height and padding do not describe a piece.
    #[error("not a piece CID: height {height} and padding {padding} describe no piece")]
    NoSuchPiece {
        /// Height of the tree.
        height: u8,
        /// Zero bytes after the payload.
        padding: u64,
    },
}

/// The parts of a CID, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CidParts<'a> {
    pub(crate) codec: u64,
    pub(crate) hash: u64,
    pub(crate) digest: &'a [u8],
}

/// Parses the CID at the front of some bytes; returns its parts and its length.
pub(crate) fn split_cid(bytes: &[u8]) -> Result<(CidParts<'_>, usize), CidError> {
    if let [0x12, 0x20, rest @ ..] = bytes {
        let digest = rest.get(..32).ok_or(CidError::Truncated)?;
        return Ok((CidParts { codec: CODEC_DAG_PB, hash: HASH_SHA2_256, digest }, 34));
    }
    let (version, rest) = number(bytes)?;
    if version != 1 {
        return Err(CidError::UnknownVersion(version));
    }
    let (codec, rest) = number(rest)?;
    let (hash, rest) = number(rest)?;
    let (digest_bytes, rest) = number(rest)?;
    let length = usize::try_from(digest_bytes)
        .ok()
        .filter(|length| *length <= CID_DIGEST_BYTES_MAX)
        .ok_or(CidError::DigestTooLong(digest_bytes))?;
    let digest = rest.get(..length).ok_or(CidError::Truncated)?;
    Ok((CidParts { codec, hash, digest }, bytes.len() - rest.len() + length))
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), CidError> {
    unsigned_varint::decode::u64(bytes).map_err(|error| match error {
        unsigned_varint::decode::Error::Insufficient => CidError::Truncated,
        _ => CidError::Varint,
    })
}

fn whole_cid(bytes: &[u8]) -> Result<CidParts<'_>, CidError> {
    let (parts, length) = split_cid(bytes)?;
    if length == bytes.len() { Ok(parts) } else { Err(CidError::TrailingBytes(bytes.len() - length)) }
}

/// Bytes of a CID from its text, by the rules of go-cid's `Decode`.
fn decode_text(text: &str) -> Result<Vec<u8>, CidError> {
    if text.len() == 46 && text.starts_with("Qm") {
        return multibase::Base::Base58Btc.decode(text).map_err(|_| CidError::Encoding);
    }
    match text.as_bytes() {
        [b'b' | b'B', digits @ ..] if !digits.is_empty() => decode_base32(digits),
        [_, _, ..] => multibase::decode(text).map(|(_, bytes)| bytes).map_err(|_| CidError::Encoding),
        _ => Err(CidError::Encoding),
    }
}

/// Decodes base32 as Go does: either case; unused bits of the last digit are ignored.
fn decode_base32(digits: &[u8]) -> Result<Vec<u8>, CidError> {
    if matches!(digits.len() % 8, 1 | 3 | 6) {
        return Err(CidError::Encoding);
    }
    let mut bytes = Vec::with_capacity(digits.len() * 5 / 8);
    let mut bits = 0u32;
    let mut bit_count = 0;
    for digit in digits {
        let value = match digit.to_ascii_lowercase() {
            letter @ b'a'..=b'z' => letter - b'a',
            figure @ b'2'..=b'7' => figure - b'2' + 26,
            _ => return Err(CidError::Encoding),
        };
        bits = (bits << 5) | u32::from(value);
        bit_count += 5;
        if bit_count >= 8 {
            bit_count -= 8;
            bytes.push((bits >> bit_count).to_le_bytes()[0]);
        }
    }
    Ok(bytes)
}

fn write_text(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if bytes.starts_with(&[0x12, 0x20]) {
        return f.write_str(&multibase::Base::Base58Btc.encode(bytes));
    }
    f.write_str(&multibase::encode(multibase::Base::Base32Lower, bytes))
}

/// CID of a DAG's root, which identifies a deal's payload.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadCid(Box<[u8]>);

impl PayloadCid {
    /// A CID from its binary form.
    ///
    /// # Errors
    ///
    /// [`CidError`] if the bytes are not exactly one CID.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        whole_cid(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// The binary form, borrowed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The multicodec of the root block.
    pub fn codec(&self) -> u64 {
        self.parts().codec
    }

    /// Whether this is the CID of zero bytes, by any hash function of this crate.
    pub fn is_of_nothing(&self) -> bool {
        let parts = self.parts();
        match parts.hash {
            HASH_IDENTITY => parts.digest.is_empty(),
            HASH_BLAKE2B_256 => parts.digest == hash_blocks(BlockHash::Blake2b256, &[&b""[..]])[0],
            HASH_SHA2_256 => parts.digest == hash_blocks(BlockHash::Sha2_256, &[&b""[..]])[0],
            _ => false,
        }
    }

    /// Whether the block lives inside the CID (identity multihash).
    pub fn is_inlined(&self) -> bool {
        self.parts().hash == HASH_IDENTITY
    }

    pub(crate) fn parts(&self) -> CidParts<'_> {
        whole_cid(&self.0).expect("the constructors checked these bytes")
    }
}

impl FromStr for PayloadCid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        Self::from_bytes(&decode_text(text)?)
    }
}

impl fmt::Display for PayloadCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(&self.0, f)
    }
}

impl fmt::Debug for PayloadCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadCid({self})")
    }
}

/// CID of a piece (version 1): its commitment, commP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceCid([u8; 32]);

impl PieceCid {
    /// The piece CID of a commitment.
    pub const fn from_commitment(commitment: [u8; 32]) -> Self {
        Self(commitment)
    }

    /// The commitment: the root of the piece's Merkle tree.
    pub const fn commitment(&self) -> &[u8; 32] {
        &self.0
    }

    /// A piece CID from its binary form.
    ///
    /// # Errors
    ///
    /// [`CidError`] if the bytes are not exactly one piece CID.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let parts = whole_cid(bytes)?;
        match <[u8; 32]>::try_from(parts.digest) {
            Ok(commitment) if parts.codec == CODEC_PIECE && parts.hash == HASH_PIECE => Ok(Self(commitment)),
            _ => Err(not_a_piece(parts)),
        }
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        cid_bytes(CODEC_PIECE, HASH_PIECE, &self.0)
    }

    /// The version 2 form, which includes the payload size.
    ///
    /// # Errors
    ///
    /// [`PieceSizeError::TooLarge`] if no piece holds the payload.
    pub fn v2(&self, payload_size: PayloadSize) -> Result<PieceCidV2, PieceSizeError> {
        let padded_piece_size = payload_size.padded_piece_size()?;
        Ok(PieceCidV2 { piece_cid: *self, payload_size, padded_piece_size })
    }
}

impl FromStr for PieceCid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        Self::from_bytes(&decode_text(text)?)
    }
}

impl fmt::Display for PieceCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(&self.to_bytes(), f)
    }
}

impl fmt::Debug for PieceCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceCid({self})")
    }
}

/// CID of a piece, version 2: commitment, height of the tree, and number of zero bytes after the payload.
///
/// ```text
/// 0x01 | 0x55 | 0x1011 | length | padding varint | height u8 | 32-byte commitment
/// ```
///
/// Source: FRC-0069. `payload size = 127 · 2^(height - 2) - padding`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceCidV2 {
    piece_cid: PieceCid,
    payload_size: PayloadSize,
    padded_piece_size: PaddedPieceSize,
}

impl PieceCidV2 {
    /// The version 1 form.
    pub const fn piece_cid(&self) -> PieceCid {
        self.piece_cid
    }

    /// Bytes of the payload in the piece.
    pub const fn payload_size(&self) -> PayloadSize {
        self.payload_size
    }

    /// Size of the piece.
    pub const fn padded_piece_size(&self) -> PaddedPieceSize {
        self.padded_piece_size
    }

    /// A version 2 piece CID from its binary form.
    ///
    /// # Errors
    ///
    /// [`CidError`] if the bytes are not exactly one piece CID of version 2.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let parts = whole_cid(bytes)?;
        if parts.codec != CODEC_RAW || parts.hash != HASH_PIECE_V2 {
            return Err(not_a_piece(parts));
        }
        let (padding, rest) = number(parts.digest)?;
        let Some((height, commitment)) = rest.split_first() else {
            return Err(CidError::Truncated);
        };
        let commitment = <[u8; 32]>::try_from(commitment).map_err(|_| not_a_piece(parts))?;
        let no_such_piece = CidError::NoSuchPiece { height: *height, padding };
        let padded_piece_size = 32u64
            .checked_shl(u32::from(*height))
            .filter(|padded| *height < 59 && *padded >= 128)
            .and_then(|padded| PaddedPieceSize::new(padded).ok())
            .ok_or_else(|| no_such_piece.clone())?;
        let payload_size = padded_piece_size
            .unpadded()
            .get()
            .checked_sub(padding)
            .map(PayloadSize::new)
            .ok_or(no_such_piece)?;
        Ok(Self { piece_cid: PieceCid(commitment), payload_size, padded_piece_size })
    }

    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let padding = self.padded_piece_size.unpadded().get() - self.payload_size.get();
        let mut digest = Vec::with_capacity(43);
        digest.extend_from_slice(unsigned_varint::encode::u64(padding, &mut [0; 10]));
        digest.push(self.padded_piece_size.height().to_le_bytes()[0]);
        digest.extend_from_slice(&self.piece_cid.0);
        cid_bytes(CODEC_RAW, HASH_PIECE_V2, &digest)
    }
}

impl FromStr for PieceCidV2 {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        Self::from_bytes(&decode_text(text)?)
    }
}

impl fmt::Display for PieceCidV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_text(&self.to_bytes(), f)
    }
}

impl fmt::Debug for PieceCidV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceCidV2({self})")
    }
}

/// Binary form of a `CIDv1`.
pub(crate) fn cid_bytes(codec: u64, hash: u64, digest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + digest.len());
    let mut scratch = [0; 10];
    for number in [1, codec, hash, len64(digest.len())] {
        bytes.extend_from_slice(unsigned_varint::encode::u64(number, &mut scratch));
    }
    bytes.extend_from_slice(digest);
    bytes
}

fn not_a_piece(parts: CidParts<'_>) -> CidError {
    CidError::NotAPiece { codec: parts.codec, hash: parts.hash, digest_bytes: parts.digest.len() }
}
