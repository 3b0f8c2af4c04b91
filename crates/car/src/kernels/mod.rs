//! The inner loops: many SHA-256 nodes, many windows of a piece, many blocks at once.
//!
//! What lives here: one set of functions for each kind of processor, each tested against the portable set, and
//! the one safe door to them. The set is chosen once, by what the processor can do; `CARFERRY_KERNEL` set to
//! `portable`, `shani` or `avx512` chooses another for tests and bug reports (a set that the processor cannot run
//! is not taken). This is the only room with `unsafe`. What does not live here: trees, CIDs, files.

mod portable;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that the compiler cannot know this processor to have")]
mod x86;

use std::sync::LazyLock;

use crate::profile::BlockHash;

/// Bytes of one digest.
pub(crate) const DIGEST: usize = 32;
/// Bytes of one node's input: two digests.
pub(crate) const NODE: usize = 64;
/// Payload bytes of a window: what Fr32 expands to 32 KiB.
pub(crate) const WINDOW_RAW: usize = 32_512;
/// Windows that are hashed together at best.
pub(crate) const WINDOWS_AT_ONCE: usize = 32;

/// One set of inner loops.
#[derive(Debug)]
struct Kernel {
    name: &'static str,
    /// 64 bytes in, 32 bytes out, the two top bits of the last one cleared.
    hash_nodes: fn(&mut [u8], &[u8]),
    /// Whole windows in, one digest each out.
    hash_windows: fn(&mut [u8], &[u8], &mut Rows),
    /// Blocks of one length in, one digest each out.
    hash_blocks: HashBlocks,
}

type HashBlocks = fn(BlockHash, &mut [[u8; DIGEST]], &[&[u8]]);

/// Room for the rows of a tree, kept by a thread between calls.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) row: Vec<u8>,
    pub(crate) next: Vec<u8>,
}

static CHOSEN: LazyLock<&Kernel> = LazyLock::new(|| {
    let wanted = std::env::var("CARFERRY_KERNEL").unwrap_or_default();
    let mut available = available();
    let forced = available.iter().position(|kernel| kernel.name == wanted);
    available.swap_remove(forced.unwrap_or(0))
});

/// Name of the inner loops in use: `avx512`, `shani` or `portable`.
pub fn kernel_name() -> &'static str {
    CHOSEN.name
}

/// Hashes nodes: every 64 bytes of `input` give 32 bytes of `output`, the two top bits of the last one cleared
/// (`sha2-256-trunc254-padded`).
pub(crate) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert_eq!(input.len() % NODE, 0, "nodes are 64 bytes");
    assert_eq!(output.len() * 2, input.len(), "two digests in, one out");
    (CHOSEN.hash_nodes)(output, input);
}

/// Hashes whole windows of a piece, one 32-byte digest each; best for [`WINDOWS_AT_ONCE`] of them.
pub(crate) fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    assert_eq!(windows.len() % WINDOW_RAW, 0, "windows are whole");
    assert_eq!(digests.len() / DIGEST, windows.len() / WINDOW_RAW, "a digest for each window");
    (CHOSEN.hash_windows)(digests, windows, rows);
}

/// Hashes blocks, those of one length together.
pub(crate) fn hash_blocks(hash: BlockHash, blocks: &[&[u8]]) -> Vec<[u8; DIGEST]> {
    let mut digests = vec![[0; DIGEST]; blocks.len()];
    let mut start = 0;
    for run in blocks.chunk_by(|left, right| left.len() == right.len()) {
        let end = start + run.len();
        (CHOSEN.hash_blocks)(hash, &mut digests[start..end], run);
        start = end;
    }
    digests
}

/// The parts of the engine one by one, for benches alone.
pub mod bench {
    use super::{DIGEST, Kernel, Rows, available};
    use crate::profile::BlockHash;

    /// Payload bytes of a window.
    pub const WINDOW_RAW: usize = super::WINDOW_RAW;

    /// One set of inner loops.
    #[derive(Debug, Clone, Copy)]
    pub struct Engine(&'static Kernel);

    /// All sets that this processor can run.
    pub fn engines() -> Vec<Engine> {
        available().into_iter().map(Engine).collect()
    }

    impl Engine {
        /// Its name.
        pub fn name(self) -> &'static str {
            self.0.name
        }

        /// Hashes nodes of 64 bytes.
        pub fn hash_nodes(self, output: &mut [u8], input: &[u8]) {
            (self.0.hash_nodes)(output, input);
        }

        /// Hashes windows.
        pub fn hash_windows(self, digests: &mut [u8], windows: &[u8]) {
            (self.0.hash_windows)(digests, windows, &mut Rows::default());
        }

        /// Hashes blocks of one length.
        pub fn hash_blocks(self, hash: BlockHash, digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
            (self.0.hash_blocks)(hash, digests, blocks);
        }
    }

    /// Expands quads, 127 bytes to 128.
    pub fn expand_fr32(output: &mut [u8], input: &[u8]) {
        crate::piece::fr32::expand(output, input);
    }
}

/// All sets that this processor can run, the fastest first.
fn available() -> Vec<&'static Kernel> {
    let mut kernels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    kernels.extend(x86::available());
    kernels.push(&portable::KERNEL);
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn every_kernel_hashes_nodes_as_the_portable_one_does() {
        for kernel in available() {
            for count in (0..=70).chain([512, 1000]) {
                let input = painted(count * NODE);
                let (mut output, mut wanted) = (vec![0; count * DIGEST], vec![0; count * DIGEST]);
                (kernel.hash_nodes)(&mut output, &input);
                (portable::KERNEL.hash_nodes)(&mut wanted, &input);
                assert!(output == wanted, "{} nodes by {}", count, kernel.name);
            }
        }
    }

    #[test]
    fn every_kernel_hashes_windows_as_the_portable_one_does() {
        let mut rows = Rows::default();
        for kernel in available() {
            for count in [0, 1, 2, 3, 31, 32, 33, 70] {
                let windows = painted(count * WINDOW_RAW);
                let (mut digests, mut wanted) = (vec![0; count * DIGEST], vec![0; count * DIGEST]);
                (kernel.hash_windows)(&mut digests, &windows, &mut rows);
                (portable::KERNEL.hash_windows)(&mut wanted, &windows, &mut rows);
                assert!(digests == wanted, "{} windows by {}", count, kernel.name);
            }
        }
    }

    #[test]
    fn every_kernel_hashes_blocks_as_the_portable_one_does() {
        let bytes = painted(70 * 4096);
        for kernel in available() {
            for hash in [BlockHash::Blake2b256, BlockHash::Sha2_256] {
                for length in [0, 1, 63, 64, 65, 127, 128, 129, 256, 1000, 1024, 3968, 4096] {
                    for count in (0..=17).chain([23, 24, 33]) {
                        let blocks: Vec<&[u8]> =
                            (0..count).map(|index| &bytes[index * 4095..][..length]).collect();
                        let (mut digests, mut wanted) = (vec![[0; 32]; count], vec![[0; 32]; count]);
                        (kernel.hash_blocks)(hash, &mut digests, &blocks);
                        (portable::KERNEL.hash_blocks)(hash, &mut wanted, &blocks);
                        assert!(
                            digests == wanted,
                            "{count} blocks of {length} bytes, {hash:?}, by {}",
                            kernel.name
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_all_lengths_keep_their_order() {
        let bytes = painted(1000);
        let blocks: Vec<&[u8]> =
            [5, 5, 128, 128, 128, 0, 5, 7].iter().map(|length| &bytes[*length..2 * length]).collect();
        let together = hash_blocks(BlockHash::Blake2b256, &blocks);
        for (block, digest) in blocks.iter().zip(together) {
            assert_eq!(hash_blocks(BlockHash::Blake2b256, &[block]), [digest]);
        }
    }
}
