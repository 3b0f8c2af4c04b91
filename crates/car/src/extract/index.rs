//! Index of the blocks of a CAR: reads only frame lengths and CIDs.
//!
//! ```text
//! CAR      |header|length|cid|block......|length|cid|block......|
//! reads     ^^^^^^ ^^^^^^^^^^             ^^^^^^^^^^
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::carv1::header::HeaderError;
use crate::carv1::{header, varint};
use crate::cids::{CidError, CidParts, HASH_IDENTITY, PayloadCid, split_cid};
use crate::extract::ExtractError;
use crate::limits::{CID_DIGEST_BYTES_MAX, HEADER_BYTES_MAX, SECTION_BYTES_MAX};
use crate::progress::Progress;
use crate::units::len64;

/// Bytes of the longest frame length and CID: five varints and a digest.
const PREFIX_BYTES_MAX: usize = 5 * varint::BYTES_MAX + CID_DIGEST_BYTES_MAX;
/// Bytes of one read where sections are short. Chosen: sixteen pages.
const READ_BYTES: usize = 64 << 10;
/// Sections between two checks for cancellation.
const SECTIONS_BETWEEN_CHECKS: usize = 4096;

/// Location of a block. Millions of entries are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// Key of the block's CID; see [`key`].
    pub(super) key: u64,
    /// Offset of the block in the CAR, after its CID.
    pub(super) offset: u64,
    pub(super) len: u32,
    /// Number of the CAR.
    pub(super) car: u32,
}

const _: () = assert!(size_of::<Entry>() == 24, "the index of a CAR has a known size");

/// The key under which blocks are found: the end of the digest and the hash function. The codec is not part
/// of it, because it does not change the bytes.
pub(super) fn key(parts: &CidParts<'_>) -> u64 {
    let mut end = [0; 8];
    for (to, from) in end.iter_mut().rev().zip(parts.digest.iter().rev()) {
        *to = *from;
    }
    u64::from_be_bytes(end) ^ parts.hash
}

/// Adds the blocks of a CAR to `entries`; returns the root, or the error of the header.
pub(super) fn read(
    entries: &mut Vec<Entry>,
    car: u32,
    path: &Path,
    file: &File,
    progress: &dyn Progress,
) -> Result<Result<PayloadCid, HeaderError>, ExtractError> {
    let unreadable = |source| ExtractError::Unreadable { car: path.to_owned(), source };
    let truncated = |offset| ExtractError::Truncated { car: path.to_owned(), offset };
    let length = file.metadata().map_err(unreadable)?.len();
    let mut window = Window { file, start: 0, bytes: Vec::new(), len: 0 };
    let frame = |offset: u64, bytes: &[u8], length_max: u64| match varint::read(bytes) {
        Some((body, rest)) if body <= length_max => {
            let start = offset + len64(bytes.len() - rest.len());
            if start + body <= length { Ok((start, body)) } else { Err(truncated(offset)) }
        }
        None if bytes.len() < varint::BYTES_MAX && bytes.iter().all(|byte| byte & 0x80 != 0) => {
            Err(truncated(offset))
        }
        _ => Err(ExtractError::SectionLength { car: path.to_owned(), offset }),
    };

    let (start, header_len) =
        frame(0, window.at(0, varint::BYTES_MAX).map_err(unreadable)?, HEADER_BYTES_MAX)?;
    let header_bytes = usize::try_from(header_len).expect("at most 1 MiB");
    let header = window.at(start, header_bytes).map_err(unreadable)?;
    if header.len() < header_bytes {
        return Err(truncated(0));
    }
    let root = header::decode(&header[..header_bytes]);
    if !matches!(root, Ok(_) | Err(HeaderError::RootCount(_))) {
        return Ok(root);
    }

    let mut offset = start + header_len;
    let mut sections = 0usize;
    while offset < length {
        if sections.is_multiple_of(SECTIONS_BETWEEN_CHECKS) && progress.is_cancelled() {
            return Err(ExtractError::Cancelled);
        }
        sections += 1;
        let bytes = window.at(offset, PREFIX_BYTES_MAX).map_err(unreadable)?;
        // Zeros after the blocks: pieces from a provider are padded, and Singularity pads its CARs.
        // Source: go-car v2 options.go, `ZeroLengthSectionAsEOF`.
        if bytes.first() == Some(&0) {
            break;
        }
        let (start, body_len) = frame(offset, bytes, SECTION_BYTES_MAX)?;
        let prefix = usize::try_from(start - offset).expect("at most ten bytes");
        let body = &bytes[prefix..];
        let body = &body[..usize::try_from(body_len).map_or(body.len(), |len| len.min(body.len()))];
        let (parts, cid_len) = match split_cid(body) {
            Ok(found) => found,
            // The file was shortened meanwhile.
            Err(CidError::Truncated)
                if len64(body.len()) < body_len && body.len() < PREFIX_BYTES_MAX - varint::BYTES_MAX =>
            {
                return Err(truncated(offset));
            }
            Err(source) => return Err(ExtractError::Cid { car: path.to_owned(), offset, source }),
        };
        if parts.hash != HASH_IDENTITY {
            let len = body_len - len64(cid_len);
            entries.push(Entry {
                key: key(&parts),
                offset: start + len64(cid_len),
                len: u32::try_from(len).expect("sections have at most 32 MiB"),
                car,
            });
        }
        offset = start + body_len;
    }
    Ok(root)
}

/// A part of a file in memory.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
    len: usize,
}

impl Window<'_> {
    /// The bytes from `offset` on: at least `wanted`, or fewer at the end of the file.
    fn at(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let end = self.start + len64(self.len);
        if offset < self.start || offset + len64(wanted) > end {
            // After a long section the next one is probably long too, and only its start is needed.
            let is_near = offset <= end && self.len > 0;
            let length = if is_near { READ_BYTES.max(wanted) } else { wanted };
            self.bytes.resize(READ_BYTES.max(length), 0);
            self.start = offset;
            self.len = 0;
            while self.len < length {
                match self.file.read_at(&mut self.bytes[self.len..length], offset + len64(self.len)) {
                    Ok(0) => break,
                    Ok(count) => self.len += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let at = usize::try_from(offset - self.start).expect("inside of the window");
        Ok(&self.bytes[at..self.len])
    }
}
