//! Sparse files: ranges without blocks on the disk read as zeros, and are found without reading.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes that a file takes on the disk.
///
/// Source: stat(2), a block of `st_blocks` has 512 bytes on Linux.
pub(crate) fn allocated_bytes(metadata: &Metadata) -> u64 {
    metadata.blocks().saturating_mul(512)
}

/// Whether a file takes fewer bytes on the disk than its length, so that parts of it may be holes.
pub fn is_sparse(metadata: &Metadata) -> bool {
    allocated_bytes(metadata) < metadata.len()
}

/// Whether the `length` bytes from `offset` on are a hole. Returns `false` where the file system cannot tell.
///
/// Moves the file's own position. Source: lseek(2), `SEEK_DATA`; everything after the last data is a hole.
pub(crate) fn is_hole(file: &File, offset: u64, length: u64) -> bool {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + length,
        Err(error) => error == Errno::NXIO,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_where_nothing_was_written() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"data", 33 << 20).unwrap();
        assert!(is_sparse(&file.metadata().unwrap()));
        for (offset, length, wanted) in
            [(0, 33, true), (0, 34, false), (33, 1, false), (34, 30, true), (63, 1, true)]
        {
            assert_eq!(
                is_hole(&file, offset << 20, length << 20),
                wanted,
                "{length} MiB from {offset} MiB on"
            );
        }
    }

    #[test]
    fn written_zeros_are_data() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
        file.sync_all().unwrap();
        assert!(!is_sparse(&file.metadata().unwrap()));
        assert!(!is_hole(&file, 0, 1 << 20));
    }
}
