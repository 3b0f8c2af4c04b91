//! Hash kernels by instruction set: many SHA-256 nodes, piece windows or blocks in one call.
//!
//! What lives here: one kernel per instruction set, each tested against the portable one, and safe functions
//! that call the chosen kernel. The kernel is chosen once, by the features of the processor. The environment
//! variable `CARFERRY_KERNEL` (`portable`, `avx2`, `shani`, `avx512` or `armsha2`) chooses another one for
//! tests and bug reports; [`check_kernel_choice`] checks it. Only this module has `unsafe` code. What does
//! not live here: trees, CIDs, files.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
#[expect(unsafe_code, reason = "instructions that the compiler cannot know this processor to have")]
mod arm;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(any(all(target_arch = "aarch64", target_endian = "little"), target_arch = "x86_64"))]
mod constants;
mod portable;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that the compiler cannot know this processor to have")]
mod x86;

use std::sync::{LazyLock, Mutex, PoisonError};

use crate::profile::BlockHash;

/// Bytes of one digest.
pub(crate) const DIGEST: usize = 32;
/// Bytes of one node's input: two digests.
pub(crate) const NODE: usize = 64;
/// Payload bytes of a window. Fr32 expands them to 32 KiB.
pub(crate) const WINDOW_RAW: usize = 32_512;
/// Windows of one call at which all kernels reach their full speed.
pub(crate) const WINDOWS_AT_ONCE: usize = 32;

/// The hash functions of one instruction set.
#[derive(Debug)]
struct Kernel {
    name: &'static str,
    /// Hashes nodes: 64 bytes in, 32 bytes out, the two top bits of the last byte cleared.
    hash_nodes: fn(&mut [u8], &[u8]),
    /// Hashes whole windows to one digest each.
    hash_windows: fn(&mut [u8], &[u8], &mut Rows),
    /// Hashes blocks of one length to one digest each.
    hash_blocks: HashBlocks,
    /// Blocks of one call at which the kernel reaches its full speed.
    blocks_at_once: usize,
}

type HashBlocks = fn(BlockHash, &mut [[u8; DIGEST]], &[&[u8]]);

/// Buffers for the rows of a tree, kept by a thread between calls.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) row: Vec<u8>,
    pub(crate) next: Vec<u8>,
}

static CHOSEN: LazyLock<&Kernel> = LazyLock::new(|| choose(&wanted()).unwrap_or(available()[0]));

/// `CARFERRY_KERNEL` names a kernel that this processor cannot run, or that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("CARFERRY_KERNEL is {wanted:?}, but this processor runs only {}", available.join(", "))]
pub struct KernelUnavailable {
    /// The named kernel.
    pub wanted: String,
    /// The kernels that this processor can run, the fastest first.
    pub available: Vec<&'static str>,
}

/// Checks that this processor can run the kernel of `CARFERRY_KERNEL`; returns the name of the kernel in use.
///
/// # Errors
///
/// [`KernelUnavailable`]. The fastest kernel is in use then.
pub fn check_kernel_choice() -> Result<&'static str, KernelUnavailable> {
    choose(&wanted()).map(|kernel| kernel.name)
}

fn wanted() -> String {
    std::env::var("CARFERRY_KERNEL").unwrap_or_default()
}

fn choose(wanted: &str) -> Result<&'static Kernel, KernelUnavailable> {
    let available = available();
    let found = available.iter().find(|kernel| wanted.is_empty() || kernel.name == wanted);
    found.copied().ok_or_else(|| KernelUnavailable {
        wanted: wanted.to_owned(),
        available: available.iter().map(|kernel| kernel.name).collect(),
    })
}

/// Name of the kernel in use: `avx512`, `shani`, `avx2`, `armsha2` or `portable`.
pub fn kernel_name() -> &'static str {
    CHOSEN.name
}

/// Hashes nodes: every 64 bytes of `input` give 32 bytes of `output`, the two top bits of the last one
/// cleared (`sha2-256-trunc254-padded`).
pub(crate) fn hash_nodes(output: &mut [u8], input: &[u8]) {
    assert_eq!(input.len() % NODE, 0, "nodes are 64 bytes");
    assert_eq!(output.len() * 2, input.len(), "two digests in, one out");
    (CHOSEN.hash_nodes)(output, input);
}

/// Hashes whole windows of a piece to one 32-byte digest each. [`WINDOWS_AT_ONCE`] windows reach the full
/// speed.
pub(crate) fn hash_windows(digests: &mut [u8], windows: &[u8], rows: &mut Rows) {
    assert_eq!(windows.len() % WINDOW_RAW, 0, "windows are whole");
    assert_eq!(digests.len() / DIGEST, windows.len() / WINDOW_RAW, "a digest for each window");
    let spans = windows.chunks(WINDOWS_AT_ONCE * WINDOW_RAW);
    for (digests, span) in digests.chunks_mut(WINDOWS_AT_ONCE * DIGEST).zip(spans) {
        if is_zero(span) {
            digests.as_chunks_mut().0.fill(*ZERO_WINDOW);
        } else {
            (CHOSEN.hash_windows)(digests, span, rows);
        }
    }
}

/// Blocks of one call at which [`hash_blocks`] reaches its full speed.
pub(crate) fn blocks_at_once() -> usize {
    CHOSEN.blocks_at_once
}

/// Hashes blocks. Adjacent blocks of one length are hashed together; of blocks of zeros only one is hashed.
pub(crate) fn hash_blocks(hash: BlockHash, blocks: &[&[u8]]) -> Vec<[u8; DIGEST]> {
    let mut digests = vec![[0; DIGEST]; blocks.len()];
    let mut start = 0;
    for run in blocks.chunk_by(|left, right| left.len() == right.len()) {
        let digests = &mut digests[start..start + run.len()];
        start += run.len();
        let is_zeros: Vec<bool> = run.iter().map(|block| is_zero(block)).collect();
        if !is_zeros.contains(&true) {
            (CHOSEN.hash_blocks)(hash, digests, run);
            continue;
        }
        let pairs = || run.iter().zip(&is_zeros);
        let others: Vec<&[u8]> = pairs().filter(|(_, is_zero)| !**is_zero).map(|(block, _)| *block).collect();
        let mut hashed = vec![[0; DIGEST]; others.len()];
        (CHOSEN.hash_blocks)(hash, &mut hashed, &others);
        let of_zeros = pairs().find(|(_, is_zero)| **is_zero).map(|(block, _)| zero_block(hash, block));
        let mut hashed = hashed.into_iter();
        for (digest, is_zero) in digests.iter_mut().zip(is_zeros) {
            let source = if is_zero { of_zeros } else { hashed.next() };
            *digest = source.expect("a digest for each block");
        }
    }
    digests
}

/// The digest of a block of zeros. The last one is cached, because sparse files repeat it.
fn zero_block(hash: BlockHash, zeros: &[u8]) -> [u8; DIGEST] {
    static LAST: Mutex<Option<(BlockHash, usize, [u8; DIGEST])>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match *last {
        Some((of, length, digest)) if (of, length) == (hash, zeros.len()) => digest,
        _ => {
            let mut digest = [[0; DIGEST]];
            (CHOSEN.hash_blocks)(hash, &mut digest, &[zeros]);
            *last = Some((hash, zeros.len(), digest[0]));
            digest[0]
        }
    }
}

/// The digest of a window of zeros.
static ZERO_WINDOW: LazyLock<[u8; DIGEST]> = LazyLock::new(|| {
    let mut digest = [0; DIGEST];
    (CHOSEN.hash_windows)(&mut digest, &[0; WINDOW_RAW], &mut Rows::default());
    digest
});

/// Whether all bytes are zero. For nearly all other bytes the check ends in the first page.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

/// All kernels that this processor can run, the fastest first.
fn available() -> Vec<&'static Kernel> {
    #[cfg(target_arch = "x86_64")]
    let faster = x86::available();
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    let faster = arm::available();
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))))]
    let faster = Vec::new();
    faster.into_iter().chain([&portable::KERNEL]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_pattern(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    /// Whether a case runs under Miri, which is a million times slower: only one case of each kind does.
    fn in_time(count: usize) -> bool {
        !cfg!(miri) || [0, 1, 2, 3, 8, 9, 33].contains(&count)
    }

    #[test]
    fn a_kernel_that_is_not_there_is_named() {
        assert_eq!(choose("").unwrap().name, available()[0].name);
        assert_eq!(choose("portable").unwrap().name, "portable");
        let error = choose("shaniii").unwrap_err().to_string();
        assert!(error.contains("\"shaniii\"") && error.contains("portable"), "{error}");
    }

    #[test]
    fn every_kernel_hashes_nodes_as_the_portable_one_does() {
        for kernel in available() {
            for count in (0..=70).chain([512, 1000]).filter(|count| in_time(*count)) {
                let input = test_pattern(count * NODE);
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
            for count in [0, 1, 2, 3, 31, 32, 33, 70].into_iter().filter(|count| !cfg!(miri) || *count < 2) {
                let windows = test_pattern(count * WINDOW_RAW);
                let (mut digests, mut wanted) = (vec![0; count * DIGEST], vec![0; count * DIGEST]);
                (kernel.hash_windows)(&mut digests, &windows, &mut rows);
                (portable::KERNEL.hash_windows)(&mut wanted, &windows, &mut rows);
                assert!(digests == wanted, "{} windows by {}", count, kernel.name);
            }
        }
    }

    #[test]
    fn every_kernel_hashes_blocks_as_the_portable_one_does() {
        let bytes = test_pattern(70 * 4096);
        for kernel in available() {
            for hash in [BlockHash::Blake2b256, BlockHash::Sha2_256] {
                for length in [0, 1, 63, 64, 65, 127, 128, 129, 256, 1000, 1024, 3968, 4096]
                    .into_iter()
                    .filter(|length| !cfg!(miri) || *length < 130)
                {
                    for count in (0..=17).chain([23, 24, 33]).filter(|count| in_time(*count)) {
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
    fn blocks_and_windows_of_zeros_are_like_all_others() {
        let mut bytes = test_pattern(8 * 5000);
        bytes[5000..10_000].fill(0);
        bytes[15_000..25_000].fill(0);
        bytes[39_999] = 0;
        let blocks: Vec<&[u8]> = bytes.chunks(5000).collect();
        for hash in [BlockHash::Blake2b256, BlockHash::Sha2_256] {
            let mut wanted = vec![[0; 32]; 8];
            (portable::KERNEL.hash_blocks)(hash, &mut wanted, &blocks);
            assert_eq!(hash_blocks(hash, &blocks), wanted, "{hash:?}");
        }
        // A span of zeros, a span of zeros but for its last byte, and a short span.
        let mut windows = vec![0; 66 * WINDOW_RAW];
        windows[64 * WINDOW_RAW - 1] = 1;
        let (mut digests, mut wanted) = (vec![0; 66 * 32], vec![0; 66 * 32]);
        hash_windows(&mut digests, &windows, &mut Rows::default());
        (portable::KERNEL.hash_windows)(&mut wanted, &windows, &mut Rows::default());
        assert!(digests == wanted);
    }

    #[test]
    fn blocks_of_all_lengths_keep_their_order() {
        let bytes = test_pattern(1000);
        let blocks: Vec<&[u8]> =
            [5, 5, 128, 128, 128, 0, 5, 7].iter().map(|length| &bytes[*length..2 * length]).collect();
        let together = hash_blocks(BlockHash::Blake2b256, &blocks);
        for (block, digest) in blocks.iter().zip(together) {
            assert_eq!(hash_blocks(BlockHash::Blake2b256, &[block]), [digest]);
        }
    }
}
