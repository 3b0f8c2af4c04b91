//! Reads a CARv1 sequentially in batches of whole sections.
//!
//! A CAR may end only between two sections. An end inside a frame length, a CID or a block is an error.
//!
//! ```text
//! CAR      |header|section|section|section|section|section|
//! batches  |<------- 0 ------->|<----- 1 ----->|<-- 2 --->|     every byte is in one of them
//! ```

use std::io;
use std::io::Read;
use std::ops::Range;

use crate::carv1::header::HeaderError;
use crate::carv1::{header, varint};
use crate::cids::{CidError, PayloadCid, split_cid};
use crate::kernels::is_zero;
use crate::limits::{HEADER_BYTES_MAX, SECTION_BYTES_MAX};
use crate::units::len64;

/// Bytes that are read for a batch: sixteen sections with leaves of 1 MiB, and the start of the next one.
pub(crate) const READ_BYTES: usize = (16 << 20) + (64 << 10);
/// Most sections of a batch: bounds the memory of many tiny sections.
const BATCH_SECTIONS: usize = 1 << 16;

/// Why the next part of a CAR cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    /// The file ends inside the header or section.
    Truncated,
    /// The frame length is not a varint.
    BadLength,
    /// The frame length is beyond the limit.
    TooLong(u64),
    /// The section has length zero.
    Empty,
    Header(HeaderError),
    Cid(CidError),
}

/// One block in its batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    /// Offset of the section in the CAR.
    pub(crate) offset: u64,
    pub(crate) cid: &'a [u8],
    pub(crate) block: &'a [u8],
}

/// Adjacent whole sections.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Sequence number, from 0 on.
    pub(crate) number: u64,
    /// Offset of the batch in the CAR.
    pub(crate) offset: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that belong to the batch.
    len: usize,
    places: Vec<Place>,
    /// Why reading ends after the batch's sections.
    pub(crate) failure: Option<ReadError>,
    /// Offset at which the CAR ends and padding zeros start. With a failure other bytes than zeros follow.
    pub(crate) padding_from: Option<u64>,
}

/// Position of a section in the buffer.
#[derive(Debug)]
struct Place {
    start: usize,
    cid: Range<usize>,
    block: Range<usize>,
}

impl Batch {
    /// All bytes of the batch.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Offset of the next batch.
    pub(crate) fn end(&self) -> u64 {
        self.offset + len64(self.len)
    }

    pub(crate) fn sections(&self) -> impl ExactSizeIterator<Item = Section<'_>> {
        self.places.iter().map(|place| Section {
            offset: self.offset + len64(place.start),
            cid: &self.buffer[place.cid.clone()],
            block: &self.buffer[place.block.clone()],
        })
    }
}

/// Reads a CAR batch by batch.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    source: R,
    /// Bytes that were read but belong to the next batch.
    carried: Vec<u8>,
    /// Length of the header at the front of `carried`, until the first batch is read.
    header_len: usize,
    offset: u64,
    number: u64,
    ended: bool,
    /// Offset of a section of length zero, after which only zeros may follow.
    padding_from: Option<u64>,
}

/// A frame at the front of some bytes.
enum Frame {
    /// A whole frame: length of the frame length, and length of the body.
    Whole(usize, usize),
    /// The start of a frame that has at least this many bytes.
    Part(usize),
}

impl<R: Read> Reader<R> {
    /// Reads the header and returns the root.
    pub(crate) fn open(mut source: R) -> Result<(Self, PayloadCid), ReadError> {
        let mut carried = Vec::new();
        let mut wanted = 1;
        let (prefix, length) = loop {
            if !fill(&mut source, &mut carried, wanted)? {
                return Err(ReadError::Truncated);
            }
            match frame(&carried, HEADER_BYTES_MAX)? {
                Frame::Whole(prefix, length) => break (prefix, length),
                Frame::Part(least) => wanted = least,
            }
        };
        let root = header::decode(&carried[prefix..prefix + length]).map_err(ReadError::Header)?;
        let header_len = prefix + length;
        let (offset, number, ended, padding_from) = (0, 0, false, None);
        Ok((Self { source, carried, header_len, offset, number, ended, padding_from }, root))
    }

    /// Reads the next batch into `batch`. Returns `false` at the end.
    ///
    /// A failure is returned with the sections before it, in the last batch.
    pub(crate) fn next(&mut self, batch: &mut Batch) -> bool {
        if self.ended {
            return false;
        }
        let header_len = std::mem::take(&mut self.header_len);
        batch.number = self.number;
        batch.offset = self.offset;
        batch.places.clear();
        batch.len = header_len;
        batch.failure = self.read_sections(batch).err();
        batch.padding_from = self.padding_from;
        self.number += 1;
        self.offset = batch.end();
        self.ended |= batch.failure.is_some();
        true
    }

    fn read_sections(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        if self.padding_from.is_some() {
            return self.read_padding(batch);
        }
        let mut source = Filling::start(&mut batch.buffer, &self.carried, &mut self.source);
        self.carried.clear();
        let mut result = source.read_to(READ_BYTES);
        while result.is_ok() && batch.places.len() < BATCH_SECTIONS {
            let rest = source.filled_from(batch.len);
            if rest.is_empty() && source.ended {
                self.ended = true;
                break;
            }
            match frame(rest, SECTION_BYTES_MAX) {
                Ok(Frame::Whole(prefix, length)) => {
                    let body = batch.len + prefix..batch.len + prefix + length;
                    match split_cid(&rest[prefix..prefix + length]) {
                        Ok((_, cid_len)) => {
                            let block = body.start + cid_len;
                            batch.places.push(Place {
                                start: batch.len,
                                cid: body.start..block,
                                block: block..body.end,
                            });
                            batch.len = body.end;
                        }
                        Err(error) => result = Err(ReadError::Cid(error)),
                    }
                }
                Ok(Frame::Part(_)) if source.ended => result = Err(ReadError::Truncated),
                // The batch ends before the frame, unless the batch would be empty.
                Ok(Frame::Part(_)) if !batch.places.is_empty() => break,
                Ok(Frame::Part(least)) => result = source.read_to(batch.len + least),
                Err(ReadError::Empty) => {
                    self.padding_from = Some(batch.offset + len64(batch.len));
                    break;
                }
                Err(error) => result = Err(error),
            }
        }
        self.carried.extend_from_slice(source.filled_from(batch.len));
        result
    }

    /// Reads the padding after a section of length zero, which may have only zeros.
    fn read_padding(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let mut source = Filling::start(&mut batch.buffer, &self.carried, &mut self.source);
        self.carried.clear();
        source.read_to(READ_BYTES)?;
        let zeros = source.filled_from(0);
        if !is_zero(zeros) {
            return Err(ReadError::Empty);
        }
        batch.len = zeros.len();
        self.ended = source.ended;
        Ok(())
    }
}

/// A partly filled buffer. It keeps its length from batch to batch, so that it is zeroed only once.
struct Filling<'a, R> {
    buffer: &'a mut Vec<u8>,
    filled: usize,
    source: &'a mut R,
    ended: bool,
}

impl<'a, R: Read> Filling<'a, R> {
    fn start(buffer: &'a mut Vec<u8>, carried: &[u8], source: &'a mut R) -> Self {
        if buffer.is_empty() {
            // Unused pages of a zeroed allocation take no memory.
            *buffer = vec![0; READ_BYTES.max(carried.len())];
        }
        if buffer.len() < carried.len() {
            buffer.resize(carried.len(), 0);
        }
        buffer[..carried.len()].copy_from_slice(carried);
        Self { buffer, filled: carried.len(), source, ended: false }
    }

    fn filled_from(&self, start: usize) -> &[u8] {
        &self.buffer[start..self.filled]
    }

    /// Reads until the buffer has `wanted` bytes, or the source ends.
    fn read_to(&mut self, wanted: usize) -> Result<(), ReadError> {
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        while self.filled < wanted && !self.ended {
            let count = read(self.source, &mut self.buffer[self.filled..wanted])?;
            self.filled += count;
            self.ended = count == 0;
        }
        Ok(())
    }
}

/// Reads the frame at the front of some bytes.
fn frame(bytes: &[u8], length_max: u64) -> Result<Frame, ReadError> {
    let Some((length, rest)) = varint::read(bytes) else {
        let cut = bytes.len() < varint::BYTES_MAX && bytes.iter().all(|byte| byte & 0x80 != 0);
        return if cut { Ok(Frame::Part(bytes.len() + 1)) } else { Err(ReadError::BadLength) };
    };
    if length == 0 {
        return Err(ReadError::Empty);
    }
    let length_bytes = usize::try_from(length).ok().filter(|_| length <= length_max);
    let length = length_bytes.ok_or(ReadError::TooLong(length))?;
    let prefix = bytes.len() - rest.len();
    Ok(if rest.len() < length { Frame::Part(prefix + length) } else { Frame::Whole(prefix, length) })
}

/// Reads until `bytes` has the length `wanted`. Returns `false` if the source ends before.
fn fill(source: &mut impl Read, bytes: &mut Vec<u8>, wanted: usize) -> Result<bool, ReadError> {
    let mut filled = bytes.len();
    bytes.resize(wanted, 0);
    while filled < wanted {
        match read(source, &mut bytes[filled..])? {
            0 => return Ok(false),
            count => filled += count,
        }
    }
    Ok(true)
}

fn read(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ReadError> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(ReadError::Io),
        }
    }
}
