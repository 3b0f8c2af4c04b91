//! Reading ahead of those who hash, and buffers that the system fills quickly.

use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::units::len64;

/// Bytes of a page of memory, and the largest block size of disks and file systems in use.
pub(crate) const BLOCK: usize = 4096;

/// Tells the system that a file will be read once from front to back.
pub(crate) fn expect_sequential(file: &File) {
    // Only advice: a file system that takes none is read all the same.
    let _ = fadvise(file, 0, None, Advice::Sequential);
}

/// Has the system read a part of a file while something else is worked on.
///
/// Asks first whether its last byte is in memory: where all is, the advice alone costs nearly as much as
/// reading (measured on Zen 3: 0.2 ms a MiB).
pub(crate) fn read_ahead(file: &File, offset: u64, length: NonZeroU64) {
    let last = offset + length.get() - 1;
    let in_memory = preadv2(file, &mut [IoSliceMut::new(&mut [0])], last, ReadWriteFlags::NOWAIT);
    if in_memory.is_err() {
        let _ = fadvise(file, offset, Some(length), Advice::WillNeed);
    }
}

/// Bytes in memory whose place can be chosen to agree with their place in a file.
///
/// That is for direct writes, and for the copy out of the page cache: Zen 3 copies two and a half times
/// slower to the first 32 bytes of a page, other than the very first, which is just where a large allocation
/// starts.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Makes room for the bytes of a file from `offset` on.
    pub(crate) fn place(&mut self, offset: u64, length: usize) {
        if self.bytes.len() < length + BLOCK {
            // Not kept: nothing of the old content is wanted.
            self.bytes = vec![0; length + BLOCK];
        }
        let wanted = usize::try_from(offset % len64(BLOCK)).expect("less than a block");
        let is = self.bytes.as_ptr().addr() % BLOCK;
        self.start = (BLOCK + wanted - is) % BLOCK;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

/// Buffers that one CAR has done with, for the next.
///
/// Not left to malloc: glibc keeps what a thread frees for that thread, and CARs come and go with their
/// threads. Eighty CARs of 8 MiB, four at a time on two processors, came to 200 MiB that way, of which 50
/// were in use.
#[derive(Debug)]
pub(crate) struct BufferPool {
    count_max: usize,
    buffers: Mutex<Vec<Buffer>>,
}

impl BufferPool {
    /// Keeps so many at most.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { count_max, buffers: Mutex::default() }
    }

    /// One that was used before, or an empty one.
    pub(crate) fn take(&self) -> Buffer {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps a buffer; an empty one is not worth it.
    pub(crate) fn keep(&self, buffer: Buffer) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if !buffer.bytes.is_empty() && buffers.len() < self.count_max {
            buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_lie_as_their_offsets_do() {
        let mut buffer = Buffer::default();
        for offset in [0, 1, 41, 4095, 4096, 4097, 1 << 40] {
            buffer.place(offset, 10_000);
            assert_eq!(len64(buffer.bytes().as_ptr().addr() % BLOCK), offset % len64(BLOCK), "{offset}");
            assert!(buffer.bytes().len() >= 10_000);
        }
    }
}
