//! A CAR read from front to back, section by section, refusing every cut.
//!
//! A CAR may end only between two sections: an end inside a frame length, a CID or a block is an error.

use std::io::{self, Read};
use std::ops::Range;

use super::header::{self, HeaderError};
use super::varint;
use crate::cids::{CidError, PayloadCid, split_cid};
use crate::limits::{HEADER_BYTES_MAX, SECTION_BYTES_MAX};
use crate::units::len64;

/// Bytes that are read at once: the next batch and what is left of the one before.
const READ_BYTES: usize = BATCH_BYTES + (2 << 20);
/// Bytes of blocks that make a batch, unless the last of them is longer: sixteen leaves of 1 MiB.
const BATCH_BYTES: usize = 16 << 20;
/// Sections of a batch at most.
const BATCH_SECTIONS: usize = 1024;
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
    /// Where in the CAR the section starts.
    pub(crate) offset: u64,
    pub(crate) cid: &'a [u8],
    pub(crate) block: &'a [u8],
}

/// Where in the buffer a section's CID and block are.
type Found = (Range<usize>, Range<usize>);

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

    /// The next sections, none at the end of the CAR, and the error that comes after them.
    pub(crate) fn batch(&mut self) -> (Vec<Section<'_>>, Option<ReadError>) {
        let mut places = Vec::new();
        let mut block_bytes = 0;
        let mut failure = self.top_up().err();
        while failure.is_none() && block_bytes < BATCH_BYTES && places.len() < BATCH_SECTIONS {
            let offset = self.offset;
            match self.section(places.is_empty()) {
                Ok(Some((cid, block))) => {
                    block_bytes += block.len();
                    places.push((offset, cid, block));
                }
                Ok(None) => break,
                Err(error) => failure = Some(error),
            }
        }
        let section = |(offset, cid, block): (u64, Range<usize>, Range<usize>)| Section {
            offset,
            cid: &self.buffer[cid],
            block: &self.buffer[block],
        };
        (places.into_iter().map(section).collect(), failure)
    }

    /// Where in the buffer the next section's CID and block are, if it is there; `None` also at the end.
    fn section(&mut self, may_read: bool) -> Result<Option<Found>, ReadError> {
        if !may_read && !self.has_whole_frame() {
            return Ok(None);
        }
        let Some((prefix, length)) = self.frame(SECTION_BYTES_MAX)? else { return Ok(None) };
        let frame = self.start + prefix..self.start + prefix + length;
        let (_, cid_len) = split_cid(&self.buffer[frame.clone()]).map_err(ReadError::Cid)?;
        self.consume(prefix + length);
        let block = frame.start + cid_len;
        Ok(Some((frame.start..block, block..frame.end)))
    }

    /// Whether the next frame can be had without reading; a malformed one cannot.
    fn has_whole_frame(&self) -> bool {
        varint::read(&self.buffer[self.start..self.end])
            .is_some_and(|(length, rest)| length > 0 && length <= len64(rest.len()))
    }

    /// Brings the whole next frame into the buffer: length of its length, and length of what follows.
    fn frame(&mut self, length_max: u64) -> Result<Option<(usize, usize)>, ReadError> {
        // What is there must not move: sections of a batch lie before it.
        if !self.has_whole_frame() {
            self.fill(VARINT_BYTES_MAX)?;
        }
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
        self.make_room(wanted);
        while self.end < wanted && self.read_once()? {}
        Ok(())
    }

    /// Reads what fits into the buffer, once.
    fn top_up(&mut self) -> Result<(), ReadError> {
        self.make_room(0);
        self.read_once().map(drop)
    }

    /// Brings what is left to the front of a buffer of at least this length.
    fn make_room(&mut self, wanted: usize) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.is_empty() {
            // Pages that are never read into cost nothing.
            self.buffer = vec![0; READ_BYTES];
        }
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
    }

    /// Whether there was more to read, or no room for it.
    fn read_once(&mut self) -> Result<bool, ReadError> {
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    (self.tap)(&self.buffer[self.end..self.end + count]);
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
    }
}
