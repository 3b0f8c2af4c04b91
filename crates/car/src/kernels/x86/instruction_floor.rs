//! Lower bounds of the kernels' time: their instructions without any dependence of one on another.
//!
//! Only for benches, with the feature `bench`.

use std::arch::asm;

use crate::kernels::x86::{avx2, shani};

/// Runs the rounds of `count` nodes of 64 bytes with the SHA extensions: two blocks of thirty-two
/// instructions each. Returns whether the processor has the extensions.
pub(in crate::kernels) fn nodes(count: u64) -> bool {
    let can = shani::is_available();
    if can && count > 0 {
        // SAFETY: the code changes nothing but the registers it names; the features it needs were just found.
        unsafe {
            asm!(
                "2:",
                ".rept 8",
                "sha256rnds2 xmm1, xmm9",
                "sha256rnds2 xmm2, xmm9",
                "sha256rnds2 xmm3, xmm9",
                "sha256rnds2 xmm4, xmm9",
                "sha256rnds2 xmm5, xmm9",
                "sha256rnds2 xmm6, xmm9",
                "sha256rnds2 xmm7, xmm9",
                "sha256rnds2 xmm8, xmm9",
                ".endr",
                "dec {count}",
                "jnz 2b",
                count = inout(reg) count => _,
                out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _,
                options(nomem, nostack),
            );
        }
    }
    can
}

/// Runs `count` compressions of four lanes of `BLAKE2b` with AVX2: 28 additions, 20 exclusive ors, 12
/// shuffles and 4 shifts in each of 24 half rounds. Returns whether the processor has AVX2.
pub(in crate::kernels) fn blake2b(count: u64) -> bool {
    let can = avx2::is_available();
    if can && count > 0 {
        // SAFETY: the code changes nothing but the registers it names; the feature it needs was just found.
        unsafe {
            asm!(
                "2:",
                // 96 times sixteen instructions in these proportions, on all registers.
                ".rept 96",
                "vpaddq ymm0, ymm0, ymm15",
                "vpaddq ymm1, ymm1, ymm15",
                "vpxor ymm2, ymm2, ymm15",
                "vpshufb ymm3, ymm3, ymm15",
                "vpaddq ymm4, ymm4, ymm15",
                "vpxor ymm5, ymm5, ymm15",
                "vpaddq ymm6, ymm6, ymm15",
                "vpshufb ymm7, ymm7, ymm15",
                "vpaddq ymm8, ymm8, ymm15",
                "vpxor ymm9, ymm9, ymm15",
                "vpxor ymm10, ymm10, ymm15",
                "vpshufb ymm11, ymm11, ymm15",
                "vpaddq ymm12, ymm12, ymm15",
                "vpxor ymm13, ymm13, ymm15",
                "vpsrlq ymm14, ymm14, 63",
                "vpaddq ymm1, ymm1, ymm15",
                ".endr",
                "dec {count}",
                "jnz 2b",
                count = inout(reg) count => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                out("ymm12") _, out("ymm13") _, out("ymm14") _,
                options(nomem, nostack),
            );
        }
    }
    can
}
