//! Writes a CAR: reserves disk space, writes large aligned parts with `O_DIRECT` and the rest through the
//! page cache.
//!
//! ```text
//! extent     ......|====|====|====|====|....
//!            cached      direct         cached
//! ```
//!
//! A direct write needs offset, length and address to be multiples of the block size. Address and offset of a
//! byte agree modulo the block size, so only the two edges of an extent go through the cache. Edges and
//! direct parts never share a block, so cached and direct writes do not overlap.
//!
//! Fallbacks, if the file system has no direct writes: writes that leave no pages in the cache
//! (`RWF_DONTCACHE`, Linux 6.14 and later); else (tmpfs, some network file systems) the cache is synced and
//! dropped every [`FLUSH_BYTES`], so that the last sync is short and other programs keep their cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate, fstatvfs};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use crate::readahead::BLOCK;
use crate::units::len64;

/// Smallest direct write. Chosen: below about 1 MiB the page cache is cheaper.
const DIRECT_BYTES_MIN: usize = 1 << 20;
/// Dirty bytes in the page cache before they are synced. Chosen: at most a second of most disks.
const FLUSH_BYTES: u64 = 64 << 20;
/// Source: Linux 6.14 include/uapi/linux/fs.h, `RWF_DONTCACHE`; not in rustix 1.1.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What happens if the upper bound of a CAR does not fit on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// An error.
    Refuse,
    /// The CAR is written without a reservation. It may fit, because the source is sparse and its blocks of
    /// zeros are written once.
    Try,
}

/// The output file of a CAR whose upper bound is known.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    cached: &'a File,
    /// The same file, opened with `O_DIRECT`.
    direct: Option<File>,
    direct_works: AtomicBool,
    /// Whether `RWF_DONTCACHE` works.
    uncached_works: AtomicBool,
    /// Bytes written to the cache since the last flush; `None` for small and special files.
    in_cache: Option<AtomicU64>,
    reserved: u64,
}

impl<'a> Output<'a> {
    /// Reserves the space of a large CAR, so that a full disk is an error before the CAR is built.
    pub(crate) fn new(file: &'a File, length_max: u64, when_full: WhenFull) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.len() != 0 {
            return Err(io::Error::other("the output is not empty"));
        }
        let mut reserved = 0;
        if metadata.is_file() && length_max >= len64(DIRECT_BYTES_MIN) {
            reserved = reserve(file, length_max, when_full)?;
        }
        let is_large = metadata.is_file() && length_max >= len64(DIRECT_BYTES_MIN);
        let direct = if reserved < len64(DIRECT_BYTES_MIN) { None } else { reopen_direct(file) };
        Ok(Self {
            cached: file,
            direct_works: AtomicBool::new(direct.is_some()),
            direct,
            uncached_works: AtomicBool::new(is_large),
            in_cache: is_large.then(AtomicU64::default),
            reserved,
        })
    }

    /// Writes bytes at an offset.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some((before, blocks, after)) = self.split(offset, bytes) else {
            return self.write_through(offset, bytes);
        };
        let blocks_at = offset + len64(before.len());
        self.write_blocks(blocks_at, blocks)?;
        self.cached.write_all_at(before, offset)?;
        self.cached.write_all_at(after, blocks_at + len64(blocks.len()))
    }

    /// Frees the space that was reserved after the CAR's end.
    pub(crate) fn finish(&self, length: u64) -> io::Result<()> {
        if self.reserved > length { self.cached.set_len(length) } else { Ok(()) }
    }

    /// Splits bytes into the first edge, the part for a direct write, and the last edge.
    fn split<'b>(&self, offset: u64, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8], &'b [u8])> {
        if bytes.len() < DIRECT_BYTES_MIN || !self.direct_works.load(Ordering::Relaxed) {
            return None;
        }
        let block = len64(BLOCK);
        let to_block = usize::try_from(offset.next_multiple_of(block) - offset).ok()?;
        let (before, rest) = bytes.split_at(to_block);
        if rest.as_ptr().addr() % BLOCK != 0 {
            return None;
        }
        let (blocks, after) = rest.split_at(rest.len() / BLOCK * BLOCK);
        Some((before, blocks, after))
    }

    fn write_blocks(&self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(direct) = &self.direct
            && done < blocks.len()
        {
            match direct.write_at(&blocks[done..], offset + len64(done)) {
                // After a short write the rest goes through the cache, because it may be misaligned.
                Ok(count) => {
                    done += count;
                    if done % BLOCK != 0 || count == 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.direct_works.store(false, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.write_through(offset + len64(done), &blocks[done..])
    }

    /// Writes through the page cache, without keeping large parts there.
    fn write_through(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while bytes.len() - done >= DIRECT_BYTES_MIN && self.uncached_works.load(Ordering::Relaxed) {
            let part = [IoSlice::new(&bytes[done..])];
            match pwritev2(self.cached, &part, offset + len64(done), DONT_CACHE) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    self.uncached_works.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.cached.write_all_at(&bytes[done..], offset + len64(done))?;
        self.flush_cache(len64(bytes.len() - done))
    }

    /// Counts bytes in the cache; syncs and drops them at [`FLUSH_BYTES`].
    fn flush_cache(&self, more: u64) -> io::Result<()> {
        let Some(in_cache) = &self.in_cache else { return Ok(()) };
        if in_cache.fetch_add(more, Ordering::Relaxed) + more >= FLUSH_BYTES {
            in_cache.store(0, Ordering::Relaxed);
            self.cached.sync_data()?;
            // Advice only: an error changes nothing.
            let _ = fadvise(self.cached, 0, None, Advice::DontNeed);
        }
        Ok(())
    }
}

/// Reserves space in a file; returns how much.
fn reserve(file: &File, length: u64, when_full: WhenFull) -> io::Result<u64> {
    // Checked first, because a failing fallocate can fill the disk for a moment and fail other programs.
    let disk = fstatvfs(file)?;
    // File systems without a size report zero blocks.
    let fits = disk.f_blocks == 0 || length <= disk.f_bavail.saturating_mul(disk.f_frsize);
    match if fits { fallocate(file, FallocateFlags::empty(), 0, length) } else { Err(Errno::NOSPC) } {
        Ok(()) => Ok(length),
        Err(Errno::NOSPC) if when_full == WhenFull::Try => file.set_len(0).map(|()| 0),
        // Not every file system supports fallocate.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Opens the same file with `O_DIRECT`.
fn reopen_direct(file: &File) -> Option<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::readahead::Buffer;

    /// Writes parts with edges, aligned, misaligned and small; checks the bytes of the file.
    fn check_writes(output: &Output<'_>, file: &File) {
        let length = (5 << 20) + 777;
        let wanted: Vec<u8> = (0..=250).cycle().take(length).collect();
        let mut buffer = Buffer::default();
        let mut offset = 0;
        for (count, misplaced) in [((1 << 20) + 99, 0), (3997, 0), (2 << 20, 0), (1 << 20, 5), (1000, 0)] {
            buffer.place(len64(offset + misplaced), count);
            buffer.bytes_mut()[..count].copy_from_slice(&wanted[offset..offset + count]);
            output.write(len64(offset), &buffer.bytes()[..count]).unwrap();
            offset += count;
        }
        output.write(len64(offset), &wanted[offset..]).unwrap();
        output.finish(len64(length)).unwrap();
        let mut read = vec![0; length];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), len64(length));
        assert!(read == wanted);
    }

    #[test]
    fn every_way_of_writing_gives_the_same_bytes() {
        // The file system's own way first, then each fallback by force.
        for folder in [env!("CARGO_MANIFEST_DIR"), "/dev/shm"].map(Path::new) {
            for (direct, uncached) in [(true, true), (false, true), (false, false)] {
                let Ok(file) = tempfile::tempfile_in(folder) else { continue };
                let output = Output::new(&file, (5 << 20) + 20_000, WhenFull::Refuse).unwrap();
                output.direct_works.fetch_and(direct, Ordering::Relaxed);
                output.uncached_works.fetch_and(uncached, Ordering::Relaxed);
                // Close to the limit, so that a flush happens.
                output.in_cache.as_ref().unwrap().store(FLUSH_BYTES - (1 << 20), Ordering::Relaxed);
                check_writes(&output, &file);
            }
        }
    }

    #[test]
    fn a_car_beyond_the_free_space_is_refused_or_tried_without_filling_the_disk() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let error = Output::new(&file, 1 << 62, WhenFull::Refuse).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let output = Output::new(&file, 1 << 62, WhenFull::Try).unwrap();
        output.write(0, b"little").unwrap();
        output.finish(6).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 6);
    }
}
