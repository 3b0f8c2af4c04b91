//! What people see while bytes move: bars on a terminal, a log line every ten seconds elsewhere.
//!
//! Everything goes to stderr. A log line that comes while bars are drawn is printed above them.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use carferry_car::Progress;
use indicatif::{BinaryBytes, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

/// How often a line is logged where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(100);

/// The terminal, shared by bars and log lines.
#[derive(Clone, Debug)]
pub struct Screen {
    bars: MultiProgress,
}

impl Default for Screen {
    fn default() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)) }
    }
}

impl Screen {
    /// For the log: prints above the bars.
    pub fn log_writer(&self) -> impl Fn() -> AboveBars + Send + Sync + 'static {
        let bars = self.bars.clone();
        move || AboveBars { bars: bars.clone() }
    }

    /// Prints to standard output without tearing the bars.
    pub fn print<T>(&self, print: impl FnOnce() -> T) -> T {
        if io::stdout().is_terminal() { self.bars.suspend(print) } else { print() }
    }
}

/// Writes log lines to stderr, above the bars.
#[derive(Clone, Debug)]
pub struct AboveBars {
    bars: MultiProgress,
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().lock().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Counts the bytes and files of one command; asked by every thread.
#[derive(Debug)]
pub struct Meter {
    bytes: AtomicU64,
    bytes_total: u64,
    files: AtomicU64,
    files_total: u64,
    stop: CancellationToken,
}

impl Meter {
    /// For this much work, which ends early when `stop` is cancelled.
    pub fn new(bytes_total: u64, files_total: u64, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), bytes_total, files: AtomicU64::new(0), files_total, stop })
    }

    /// One file more is done with.
    pub fn file_done(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Cancelled when the work is to end.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Progress for Meter {
    fn advance(&self, source_bytes: u64) {
        self.bytes.fetch_add(source_bytes, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }
}

/// One file's part of a [`Meter`]: knows how much of its own bytes it has counted.
#[derive(Debug)]
pub struct FileMeter<'a> {
    all: &'a Meter,
    own: AtomicU64,
}

impl<'a> FileMeter<'a> {
    /// Of a file of which nothing has been read.
    pub fn new(all: &'a Meter) -> Self {
        Self { all, own: AtomicU64::new(0) }
    }

    /// The file is done with, well or not: it counts for the bytes that were planned for it.
    pub fn done(self, planned_bytes: u64) {
        self.all.advance(planned_bytes.saturating_sub(self.own.load(Ordering::Relaxed)));
        self.all.file_done();
    }
}

impl Progress for FileMeter<'_> {
    fn advance(&self, source_bytes: u64) {
        self.own.fetch_add(source_bytes, Ordering::Relaxed);
        self.all.advance(source_bytes);
    }

    fn is_cancelled(&self) -> bool {
        self.all.is_cancelled()
    }
}

/// Shows a meter until it is dropped.
#[derive(Debug)]
pub struct Shown {
    bar: Option<ProgressBar>,
    _stop: DropGuard,
}

impl Screen {
    /// Shows the meter: a bar on a terminal, a log line every ten seconds elsewhere, nothing if `silent`.
    ///
    /// Must be called inside the runtime.
    pub fn show(&self, meter: &Arc<Meter>, silent: bool) -> Shown {
        let stop = CancellationToken::new();
        let mut shown = Shown { bar: None, _stop: stop.clone().drop_guard() };
        if silent {
            return shown;
        }
        let meter = Arc::clone(meter);
        if io::stderr().is_terminal() {
            let bar = self.bars.add(ProgressBar::new(meter.bytes_total));
            bar.set_style(style());
            let drawn = bar.clone();
            background(stop, TICK, move |_elapsed| draw(&drawn, &meter));
            shown.bar = Some(bar);
        } else {
            background(stop, LINE_EVERY, move |elapsed| log_line(&meter, elapsed));
        }
        shown
    }
}

/// Shows how many of a number that may grow are done, until it is dropped.
#[derive(Debug)]
pub struct Counter {
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Screen {
    /// A counter: a bar on a terminal, a log line every ten seconds elsewhere.
    pub fn counter(&self) -> Counter {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = self.bars.add(ProgressBar::new(0));
            let style = ProgressStyle::with_template("{bar:30} {msg}  {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Counter { bar, told: Instant::now() }
    }
}

impl Counter {
    /// So many are done, of so many as are known.
    pub fn set(&mut self, done: usize, known: usize, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(u64::try_from(known).unwrap_or(u64::MAX));
            bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
            bar.set_message(format!("{done} of {known} {what}"));
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            info!(done, known, "{done} of {known} {what}");
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Calls `tick` at this interval until stopped.
fn background(stop: CancellationToken, every: Duration, tick: impl Fn(Duration) + Send + 'static) {
    let started = Instant::now();
    let ticking = stop.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(every).await;
            tick(started.elapsed());
        }
    });
    #[expect(clippy::disallowed_methods, reason = "only shows; ends with its guard and cannot fail")]
    drop(tokio::spawn(ticking));
}

fn style() -> ProgressStyle {
    const TEMPLATE: &str =
        "{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {msg}  ETA {eta}";
    ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn draw(bar: &ProgressBar, meter: &Meter) {
    let (files, files_total) = (meter.files.load(Ordering::Relaxed), meter.files_total);
    bar.set_position(meter.bytes());
    bar.set_message(format!("{files} of {files_total} files"));
}

fn log_line(meter: &Meter, elapsed: Duration) {
    let (bytes, bytes_total) = (meter.bytes(), meter.bytes_total);
    let rate = rate(bytes, elapsed);
    let eta = bytes_total.saturating_sub(bytes).checked_div(rate);
    info!(
        bytes,
        bytes_total,
        bytes_per_second = rate,
        files = meter.files.load(Ordering::Relaxed),
        files_total = meter.files_total,
        eta_seconds = eta,
        "{} of {}, {}/s, {}",
        BinaryBytes(bytes),
        BinaryBytes(bytes_total),
        BinaryBytes(rate),
        eta.map_or_else(
            || "no end in sight".to_owned(),
            |eta| format!("{} to go", HumanDuration(Duration::from_secs(eta)))
        ),
    );
}

/// Bytes a second.
pub fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let milliseconds = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_file_counts_for_all_its_planned_bytes() {
        let meter = Meter::new(100, 2, CancellationToken::new());
        let file = FileMeter::new(&meter);
        file.advance(30);
        file.done(60);
        let file = FileMeter::new(&meter);
        file.advance(40);
        file.done(40);
        assert_eq!((meter.bytes(), meter.files.load(Ordering::Relaxed)), (100, 2));
    }

    #[test]
    fn cancelling_reaches_every_file() {
        let meter = Meter::new(1, 1, CancellationToken::new());
        let file = FileMeter::new(&meter);
        assert!(!file.is_cancelled());
        meter.stop().cancel();
        assert!(file.is_cancelled());
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate(3_000, Duration::from_millis(1500)), 2_000);
        assert_eq!(rate(7, Duration::ZERO), 7_000);
    }
}
