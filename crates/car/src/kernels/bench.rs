//! Each kernel by itself, for benches and the example `engine`; only with the feature `bench`.

use std::cell::RefCell;

use crate::kernels::{DIGEST, Kernel, Rows, available};
use crate::profile::BlockHash;

/// Payload bytes of a window.
pub const WINDOW_RAW: usize = crate::kernels::WINDOW_RAW;

/// The kernel of one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct Engine(&'static Kernel);

/// All kernels that this processor can run.
pub fn engines() -> Vec<Engine> {
    available().into_iter().map(Engine).collect()
}

impl Engine {
    /// Name of the kernel, as in `CARFERRY_KERNEL`.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Hashes nodes of 64 bytes.
    pub fn hash_nodes(self, output: &mut [u8], input: &[u8]) {
        (self.0.hash_nodes)(output, input);
    }

    /// Hashes windows. The scratch rows are kept between calls, as the pipeline keeps them.
    pub fn hash_windows(self, digests: &mut [u8], windows: &[u8]) {
        thread_local! {
            static ROWS: RefCell<Rows> = RefCell::default();
        }
        ROWS.with_borrow_mut(|rows| (self.0.hash_windows)(digests, windows, rows));
    }

    /// Hashes blocks of one length.
    pub fn hash_blocks(self, hash: BlockHash, digests: &mut [[u8; DIGEST]], blocks: &[&[u8]]) {
        (self.0.hash_blocks)(hash, digests, blocks);
    }
}

/// Runs the instructions that the kernel `shani` needs at least for this many nodes, and for this many chunks
/// of 128 bytes in each of four blocks, and hashes nothing.
///
/// The time that this takes is the lower bound of the kernel's. Returns `false` if the processor lacks the
/// instructions.
pub fn instruction_floor(nodes: u64, blake2b: u64) -> bool {
    #[cfg(target_arch = "x86_64")]
    let can = {
        use crate::kernels::x86::instruction_floor;
        instruction_floor::nodes(nodes) && instruction_floor::blake2b(blake2b)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let can = nodes + blake2b == 0;
    can
}

/// Expands quads, 127 bytes to 128.
pub fn expand_fr32(output: &mut [u8], input: &[u8]) {
    crate::fr32::expand(output, input);
}
