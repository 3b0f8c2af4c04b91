//! Fail points: named places in the code at which tests end the process.

/// The variable that names a fail point: `import.noted` ends the process at its first passing,
/// `import.noted:3` at its third.
#[cfg(feature = "fail-points")]
const VARIABLE: &str = "FAIL_POINT";

/// Ends this process as a power cut would, if the environment names this fail point. A release contains no
/// fail points: only tests enable the feature `fail-points`.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub fn fail_point(_name: &str) {}

/// Ends this process as a power cut would, if the environment asks for it to end here.
#[cfg(feature = "fail-points")]
pub fn fail_point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static ASKED: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let asked = std::env::var(VARIABLE).ok()?;
        let (name, passing) = asked.split_once(':').unwrap_or((&asked, "1"));
        Some((name.to_owned(), passing.parse().ok()?))
    });
    static PASSED: AtomicU32 = AtomicU32::new(0);
    if let Some((asked, passing)) = ASKED.as_ref()
        && asked == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *passing
    {
        use rustix::process::{Signal, getpid, kill_process};
        // A process may always kill itself.
        let _gone = kill_process(getpid(), Signal::KILL);
    }
}
