//! Progress of a command: bars on a terminal, a log line every ten seconds elsewhere.
//!
//! Everything goes to stderr. A log line that comes while bars are drawn is printed above them.

use std::io;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carferry_car::Progress;
use carferry_core::words::counted;
use indicatif::{BinaryBytes, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::info;

/// How often a line is logged where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(100);

/// The terminal, shared by bars and log lines.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    bars: MultiProgress,
}

impl Default for Screen {
    fn default() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)) }
    }
}

impl Screen {
    /// For the log: prints above the bars.
    pub(crate) fn log_writer(&self) -> impl Fn() -> AboveBars + Send + Sync + 'static {
        let bars = self.bars.clone();
        move || AboveBars { bars: bars.clone() }
    }

    /// Prints to standard output without tearing the bars.
    pub(crate) fn print<T>(&self, print: impl FnOnce() -> T) -> T {
        if io::stdout().is_terminal() { self.bars.suspend(print) } else { print() }
    }
}

/// Writes log lines to stderr, above the bars.
#[derive(Clone, Debug)]
pub(crate) struct AboveBars {
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

/// Byte and file or piece counters of one command, shared by all threads.
#[derive(Debug)]
pub(crate) struct Meter {
    bytes: AtomicU64,
    bytes_before: u64,
    bytes_total: u64,
    items: AtomicU64,
    items_total: u64,
    /// What the items are.
    noun: &'static str,
    /// What is waited for, while nothing is done.
    waits_for: Mutex<Option<&'static str>>,
    stop: CancellationToken,
}

/// How much of some work there is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amount {
    /// Bytes of sources.
    pub bytes: u64,
    /// Files or pieces.
    pub items: u64,
}

impl Meter {
    /// For this many files, which end early when `stop` is cancelled.
    pub(crate) fn new(bytes_total: u64, files_total: u64, stop: CancellationToken) -> Arc<Self> {
        let all = Amount { bytes: bytes_total, items: files_total };
        Self::of_items("file", all, Amount::default(), stop)
    }

    /// For all of these, of which some were done by earlier runs.
    pub(crate) fn of_items(
        noun: &'static str,
        all: Amount,
        done: Amount,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicU64::new(done.bytes),
            bytes_before: done.bytes,
            bytes_total: all.bytes,
            items: AtomicU64::new(done.items),
            items_total: all.items,
            noun,
            waits_for: Mutex::default(),
            stop,
        })
    }

    /// One file or piece more is done with.
    pub(crate) fn item_done(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing is done until this comes; no time to go is told meanwhile. `None`: it goes on.
    pub(crate) fn wait_for(&self, what: Option<&'static str>) {
        *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn waits_for(&self) -> Option<&'static str> {
        *self.waits_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `3 of 7 pieces`.
    fn items(&self) -> String {
        let items = self.items.load(Ordering::Relaxed);
        format!("{items} of {}", counted(self.items_total, self.noun))
    }

    /// Cancelled when the work is to end.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
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
pub(crate) struct FileMeter<'a> {
    all: &'a Meter,
    own: AtomicU64,
}

impl<'a> FileMeter<'a> {
    /// Of a file of which nothing has been read.
    pub(crate) fn new(all: &'a Meter) -> Self {
        Self { all, own: AtomicU64::new(0) }
    }

    /// The file is done with, well or not: it counts for the bytes that were planned for it.
    pub(crate) fn done(self, planned_bytes: u64) {
        self.all.advance(planned_bytes.saturating_sub(self.own.load(Ordering::Relaxed)));
        self.all.item_done();
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
pub(crate) struct Shown {
    bar: Option<ProgressBar>,
    _stop: DropGuard,
}

impl Screen {
    /// Shows the meter: a bar on a terminal, a log line every ten seconds elsewhere, nothing if `silent`.
    ///
    /// Must be called inside the runtime.
    pub(crate) fn show(&self, meter: &Arc<Meter>, silent: bool) -> Shown {
        let stop = CancellationToken::new();
        let mut shown = Shown { bar: None, _stop: stop.clone().drop_guard() };
        if silent {
            return shown;
        }
        let meter = Arc::clone(meter);
        if io::stderr().is_terminal() {
            let bar = ProgressBar::new(meter.bytes_total).with_position(meter.bytes_before);
            let bar = self.bars.add(bar);
            bar.set_style(style(WORKING));
            // What earlier runs did says nothing of the speed of this one.
            bar.reset_eta();
            let drawn = bar.clone();
            let has_waited = AtomicBool::new(false);
            background(stop, TICK, move |_elapsed| draw(&drawn, &meter, &has_waited));
            shown.bar = Some(bar);
        } else {
            background(stop, LINE_EVERY, move |elapsed| log_line(&meter, elapsed));
        }
        shown
    }
}

/// Shows how many of a number that may grow are done, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Screen {
    /// A counter: a bar on a terminal, a log line every ten seconds elsewhere.
    pub(crate) fn counter(&self) -> Counter {
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
    pub(crate) fn set(&mut self, done: usize, known: usize, what: &str) {
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

const WORKING: &str = "{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {msg}  ETA {eta}";
const WAITING: &str = "{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn draw(bar: &ProgressBar, meter: &Meter, has_waited: &AtomicBool) {
    let waits_for = meter.waits_for();
    if has_waited.swap(waits_for.is_some(), Ordering::Relaxed) != waits_for.is_some() {
        bar.set_style(style(if waits_for.is_some() { WAITING } else { WORKING }));
        bar.reset_eta();
    }
    bar.set_position(meter.bytes());
    bar.set_message(match waits_for {
        Some(what) => format!("{}  waiting for {what}", meter.items()),
        None => meter.items(),
    });
}

fn log_line(meter: &Meter, elapsed: Duration) {
    let (bytes, bytes_total) = (meter.bytes(), meter.bytes_total);
    if let Some(what) = meter.waits_for() {
        info!(bytes, bytes_total, "{}, waiting for {what}", meter.items());
        return;
    }
    let rate = rate(bytes.saturating_sub(meter.bytes_before), elapsed);
    let eta = bytes_total.saturating_sub(bytes).checked_div(rate);
    info!(
        bytes,
        bytes_total,
        bytes_per_second = rate,
        files = meter.items.load(Ordering::Relaxed),
        files_total = meter.items_total,
        eta_seconds = eta,
        "{} of {}, {}/s, {}, {}",
        BinaryBytes(bytes),
        BinaryBytes(bytes_total),
        BinaryBytes(rate),
        meter.items(),
        eta.map_or_else(
            || "no end in sight".to_owned(),
            |eta| format!("{} to go", duration_words(Duration::from_secs(eta)))
        ),
    );
}

/// `less than a second`, `3 minutes`.
pub(crate) fn duration_words(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        return "less than a second".to_owned();
    }
    HumanDuration(duration).to_string()
}

/// Bytes a second.
pub(crate) fn rate(bytes: u64, elapsed: Duration) -> u64 {
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
        assert_eq!((meter.bytes(), meter.items()), (100, "2 of 2 files".to_owned()));
    }

    #[test]
    fn pieces_are_counted_from_where_earlier_runs_ended() {
        let all = Amount { bytes: 100, items: 7 };
        let done = Amount { bytes: 30, items: 2 };
        let meter = Meter::of_items("piece", all, done, CancellationToken::new());
        assert_eq!((meter.bytes(), meter.items()), (30, "2 of 7 pieces".to_owned()));
        meter.advance(10);
        meter.item_done();
        assert_eq!((meter.bytes(), meter.items()), (40, "3 of 7 pieces".to_owned()));
        let one = Meter::of_items(
            "piece",
            Amount { bytes: 1, items: 1 },
            Amount::default(),
            CancellationToken::new(),
        );
        assert_eq!(one.items(), "0 of 1 piece");
    }

    #[test]
    fn no_time_to_go_is_told_while_something_is_waited_for() {
        let meter = Meter::new(100, 2, CancellationToken::new());
        let bar = ProgressBar::hidden();
        let has_waited = AtomicBool::new(false);
        draw(&bar, &meter, &has_waited);
        assert_eq!(bar.message(), "0 of 2 files");
        meter.wait_for(Some("room"));
        draw(&bar, &meter, &has_waited);
        assert_eq!(bar.message(), "0 of 2 files  waiting for room");
        assert!(has_waited.load(Ordering::Relaxed) && !WAITING.contains("eta"));
        meter.wait_for(None);
        draw(&bar, &meter, &has_waited);
        assert!(!has_waited.load(Ordering::Relaxed));
    }

    #[test]
    fn nothing_takes_no_seconds() {
        assert_eq!(duration_words(Duration::from_millis(999)), "less than a second");
        assert_eq!(duration_words(Duration::from_secs(120)), "2 minutes");
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
