//! What a machine must allow for a test, and tests that cannot be run without it.

use std::io::Write as _;
use std::{env, fs};

/// Set where a test that the machine could run must be run: by the gate.
const MUST_RUN_VARIABLE: &str = "TESTS_MUST_RUN";
/// `CAP_SYS_ADMIN`. Source: linux/capability.h.
const SYS_ADMIN: u32 = 21;

/// What a test needs beside the programs under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A file system mounted in a namespace of its own.
    Mount,
    /// The same, with a server in user space.
    Fuse,
}

impl Need {
    /// Whether this machine should allow it, found out apart from what the test does.
    fn is_to_be_expected(self) -> bool {
        let may_mount = has_capability(SYS_ADMIN);
        match self {
            Self::Mount => may_mount,
            Self::Fuse => {
                may_mount && fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok()
            }
        }
    }
}

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    bits >> number & 1 == 1
}

/// Says that a test was not run, and why; the test then ends.
///
/// # Panics
///
/// Where the machine should have allowed it and `TESTS_MUST_RUN` is set.
pub fn not_run(need: Need, said: &str) {
    // Not captured with what a test prints: seen in every run.
    let line = format!("NOT RUN: this system does not allow what the test needs ({need:?}): {said}\n");
    std::io::stderr().write_all(line.as_bytes()).ok();
    let must_run = env::var_os(MUST_RUN_VARIABLE).is_some();
    assert!(!(must_run && need.is_to_be_expected()), "this machine should allow it ({need:?}): {said}");
}
