//! Pure rules of an import: missed start epochs, pauses between tries, and how long a call may take.

use std::time::Duration;

use carferry_core::model::{ChainEpoch, ImportDoc};

use crate::car_files::piece_check::NOT_THE_PIECE;

/// The reason of a deal whose market took a file and still waits for one.
pub const WITHOUT_EFFECT: &str = "the import call answered success, but the deal still waits for data";

/// Added to the market's words where this agent has found the refused file to be the deal's piece.
pub const SEEN_OTHERWISE: &str = "this agent computed the deal's piece CID of the file: does the market open another \
                                  one by that name? check `nodePaths`";

/// The reason of a deal that its market does not list.
pub const UNLISTED: &str = "the provider does not know the proposal yet";

/// The reason of a deal whose record its market cannot read.
pub const UNREAD: &str = "the provider's market cannot read its record of the deal now";

/// Whether a file in the deal's place was found to be another piece, by the market or by this agent: from
/// then on the piece CID is computed before a call. Documents of before the field say it in their reason.
pub fn is_other_piece(import: Option<&ImportDoc>) -> bool {
    import.is_some_and(|import| {
        import
            .piecemismatch
            .unwrap_or_else(|| import.reason.as_deref().is_some_and(|reason| reason.contains(NOT_THE_PIECE)))
    })
}

/// Why the file that the market knows as `node_path` is refused, with the market's words.
pub fn not_the_piece(node_path: &str, words: &str) -> String {
    format!("{node_path} {NOT_THE_PIECE}: {words}")
}

/// Why the start epoch of a deal cannot be met any more; `None` if it can.
///
/// `margin_epochs`: how many epochs the provider needs between publishing and the deal's start. Lotus refuses
/// to publish below 480 (lotus v1.23.3 `markets/storageadapter/dealpublisher.go`, `StartEpochSealingBuffer`).
pub fn missed_start(start: ChainEpoch, head: ChainEpoch, margin_epochs: i64) -> Option<String> {
    if head > start {
        Some(format!("start epoch {start} has passed (head {head})"))
    } else if head.plus(margin_epochs) > start {
        Some(format!(
            "start epoch {start} has passed for sealing: head {head}, {} epochs left, {margin_epochs} needed \
             (setting.startEpochMargin)",
            start.since(head)
        ))
    } else {
        None
    }
}

/// How old a deal was when it was claimed, by the database's clock as far as the deal tells it: a lease that
/// was just given ends that much later. Times in milliseconds since 1970.
pub fn age_at_claim(created: i64, lease_until: i64, lease: Duration) -> Duration {
    let until_end = u64::try_from(lease_until.saturating_sub(created)).unwrap_or(0);
    Duration::from_millis(until_end).saturating_sub(lease)
}

/// Maximum time of an import of this many bytes at a busy market, which copies the file and computes
/// its commitment at 10 MiB a second (lotus-contract §3.3: minutes for 32 GiB on a quiet machine).
pub fn import_takes_at_most(bytes: u64) -> Duration {
    Duration::from_secs(bytes / (10 << 20))
}

/// Bounds of the pauses between tries of one deal.
#[derive(Clone, Copy, Debug)]
pub struct RetryPauses {
    /// After the first failure.
    pub min: Duration,
    /// Never longer.
    pub max: Duration,
}

impl RetryPauses {
    /// The pause after a failure: it doubles with each failure before, and is spread over its upper half so
    /// that deals that failed together are not tried together.
    pub fn after(&self, failures_before: i64, rng: &mut fastrand::Rng) -> Duration {
        let doublings = u32::try_from(failures_before.clamp(0, 20)).unwrap_or(0);
        let ceiling = self.min.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(0.5 + rng.f64() / 2.0)
    }

    /// The pause for a deal that has waited for `age`: a quarter of that, so that a proposal that never
    /// arrives is looked for less and less often.
    pub fn by_age(&self, age: Duration, least: Duration) -> Duration {
        (age / 4).min(self.max).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_of_a_deal_leaves_the_lease_out() {
        let lease = Duration::from_secs(60);
        assert_eq!(age_at_claim(1_000, 61_250, lease), Duration::from_millis(250));
        assert_eq!(age_at_claim(1_000, 60_000, lease), Duration::ZERO);
    }

    #[test]
    fn another_piece_is_known_by_its_field_and_in_old_documents_by_their_words() {
        let words = not_the_piece("/a.car", "x");
        assert!(words.contains("/a.car") && words.contains(NOT_THE_PIECE));
        for (piecemismatch, reason, expected) in [
            (None, Some(words.clone()), true),
            (None, Some("the CAR is not here yet".to_owned()), false),
            (None, None, false),
            (Some(true), Some("the CAR is not here yet".to_owned()), true),
            (Some(false), Some(words), false),
        ] {
            let import = ImportDoc { piecemismatch, reason, ..ImportDoc::default() };
            assert_eq!(is_other_piece(Some(&import)), expected, "{import:?}");
        }
        assert!(!is_other_piece(None));
    }

    #[test]
    fn a_start_epoch_is_missed_when_sealing_cannot_be_done_before_it() {
        let head = ChainEpoch::new(1000);
        for (start, missed) in [(999, true), (1000, true), (1479, true), (1480, false), (5000, false)] {
            assert_eq!(missed_start(ChainEpoch::new(start), head, 480).is_some(), missed, "{start}");
        }
        let passed = missed_start(ChainEpoch::new(999), head, 480).unwrap();
        assert_eq!(passed, "start epoch 999 has passed (head 1000)");
    }

    #[test]
    fn pauses_double_within_their_bounds() {
        let pauses = RetryPauses { min: Duration::from_secs(10), max: Duration::from_secs(1800) };
        let mut rng = fastrand::Rng::with_seed(3);
        for (failures, seconds) in
            [(-1, 10), (0, 10), (1, 20), (3, 80), (7, 1280), (8, 1800), (i64::MAX, 1800)]
        {
            for _ in 0..50 {
                let pause = pauses.after(failures, &mut rng).as_secs_f64();
                let ceiling = f64::from(seconds);
                assert!((ceiling / 2.0..=ceiling).contains(&pause), "{failures}: {pause}");
            }
        }
        let least = Duration::from_secs(30);
        for (age, pause) in [(0, 30), (100, 30), (400, 100), (1_000_000, 1800)] {
            assert_eq!(pauses.by_age(Duration::from_secs(age), least).as_secs(), pause, "{age}");
        }
    }
}
