//! A CAR read from front to back, section by section, refusing every cut.
//!
//! A CAR may end only between two sections: an end inside a frame length, a CID or a block is an error.

use std::io::{self, Read};

use super::header::{self, HeaderError};
use super::varint;
use crate::cids::{CidError, PayloadCid, split_cid};
use crate::limits::{HEADER_BYTES_MAX, SECTION_BYTES_MAX};
use crate::units::len64;

/// Bytes that are read at once.
const READ_BYTES: usize = 4 << 20;
/// Bytes of the longest frame length.
const VARINT_BYTES_MAX: usize = 10;

/// Why the next part of a CAR cannot be had. The offset is that of the section, or zero for the header.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    /// The file ends inside the header or section.
    Truncated,
    /// The frame length is no number.
    BadLength,
    /// The frame length is beyond any real one.
    TooLong(u64),
    /// The section has no bytes.
    Empty,
    Header(HeaderError),
    Cid(CidError),
}

/// One block where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    pub(crate) cid: &'a [u8],
    pub(crate) block: &'a [u8],
}

/// Reads a CAR; every byte of the source also goes to `tap`, in order and once.
pub(crate) struct Reader<R, T> {
    source: R,
    tap: T,
    buffer: Vec<u8>,
    /// What of the buffer is still to be read.
    start: usize,
    end: usize,
    /// Offset in the CAR of `start`.
    offset: u64,
}

impl<R: Read, T: FnMut(&[u8])> Reader<R, T> {
    pub(crate) fn new(source: R, tap: T) -> Self {
        Self { source, tap, buffer: Vec::new(), start: 0, end: 0, offset: 0 }
    }

    /// Where the next section starts.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The root in the header.
    pub(crate) fn header(&mut self) -> Result<PayloadCid, ReadError> {
        let (prefix, length) = self.frame(HEADER_BYTES_MAX)?.ok_or(ReadError::Truncated)?;
        let root =
            header::decode(&self.buffer[self.start + prefix..][..length]).map_err(ReadError::Header)?;
        self.consume(prefix + length);
        Ok(root)
    }

    /// The next section, or `None` at the end of the CAR.
    pub(crate) fn section(&mut self) -> Result<Option<Section<'_>>, ReadError> {
        let Some((prefix, length)) = self.frame(SECTION_BYTES_MAX)? else { return Ok(None) };
        let frame = self.start + prefix..self.start + prefix + length;
        let (_, cid_len) = split_cid(&self.buffer[frame.clone()]).map_err(ReadError::Cid)?;
        self.consume(prefix + length);
        let (cid, block) = self.buffer[frame].split_at(cid_len);
        Ok(Some(Section { cid, block }))
    }

    /// Brings the whole next frame into the buffer: length of its length, and length of what follows.
    fn frame(&mut self, length_max: u64) -> Result<Option<(usize, usize)>, ReadError> {
        self.fill(VARINT_BYTES_MAX)?;
        let available = &self.buffer[self.start..self.end];
        if available.is_empty() {
            return Ok(None);
        }
        let Some((length, rest)) = varint::read(available) else {
            let cut = available.len() < VARINT_BYTES_MAX && available.iter().all(|byte| byte & 0x80 != 0);
            return Err(if cut { ReadError::Truncated } else { ReadError::BadLength });
        };
        let prefix = available.len() - rest.len();
        match length {
            0 => Err(ReadError::Empty),
            length if length > length_max => Err(ReadError::TooLong(length)),
            length => {
                let length = usize::try_from(length).map_err(|_| ReadError::TooLong(length))?;
                self.fill(prefix + length)?;
                if self.end - self.start < prefix + length {
                    return Err(ReadError::Truncated);
                }
                Ok(Some((prefix, length)))
            }
        }
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        self.offset += len64(count);
    }

    /// Reads until so many bytes are there, or the source ends.
    fn fill(&mut self, wanted: usize) -> Result<(), ReadError> {
        if self.end - self.start >= wanted {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < wanted.max(READ_BYTES) {
            self.buffer.resize(wanted.max(READ_BYTES), 0);
        }
        while self.end < wanted {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => {
                    (self.tap)(&self.buffer[self.end..self.end + count]);
                    self.end += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
        Ok(())
    }
}
