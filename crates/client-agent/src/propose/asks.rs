//! Storage asks of providers, fetched beside the planning: a silent provider delays no other, and is logged
//! once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use carferry_core::runtime::BackoffPolicy;
use futures::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::propose::conditions::MinerFacts;

/// How long a provider's terms are taken for true: asking means a stream to the provider.
const FACTS_LAST: Duration = Duration::from_secs(600);
/// Age from which on they are asked for again, while they are still taken for true.
const FACTS_REFRESHED_AFTER: Duration = Duration::from_secs(300);
/// Pauses after a provider that did not answer.
const PAUSES: BackoffPolicy = BackoffPolicy {
    first: Duration::from_secs(30),
    max: Duration::from_secs(600),
    quiet: Duration::from_secs(600),
};

/// Asks one provider.
type Ask = dyn Fn(&str) -> BoxFuture<'static, Result<MinerFacts, String>> + Send + Sync;

/// What is known of every provider's terms.
pub(super) struct Asks {
    ask: Arc<Ask>,
    providers: BTreeMap<String, Provider>,
    calls: JoinSet<(String, Result<MinerFacts, String>)>,
}

#[derive(Debug, Default)]
struct Provider {
    facts: Option<(Instant, MinerFacts)>,
    trouble: Option<Trouble>,
    call: Call,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    UnderWay,
}

#[derive(Debug)]
struct Trouble {
    words: String,
    failures: u32,
    next: Instant,
}

/// What a pass goes by.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Providers that answered.
    pub(super) facts: BTreeMap<String, MinerFacts>,
    /// Providers that did not, and why.
    pub(super) problems: BTreeMap<String, String>,
    /// Providers that were asked for the first time and have not answered yet.
    pub(super) awaited: Vec<String>,
}

impl Asks {
    /// Nothing is known yet.
    pub(super) fn new(
        ask: impl Fn(&str) -> BoxFuture<'static, Result<MinerFacts, String>> + Send + Sync + 'static,
    ) -> Self {
        Self { ask: Arc::new(ask), providers: BTreeMap::new(), calls: JoinSet::new() }
    }

    /// What is known of these providers after at most `timeout`. Calls that take longer go on, and calls to
    /// providers that failed before are not waited for.
    pub(super) async fn answers(&mut self, miners: &[&str], timeout: Duration) -> Answers {
        let until = Instant::now() + timeout;
        for miner in miners {
            self.call_if_due(miner);
        }
        loop {
            while let Some(Ok((miner, answer))) = self.calls.try_join_next() {
                self.note(&miner, answer);
            }
            if !miners.iter().any(|miner| self.is_awaited(miner)) {
                break;
            }
            match timeout_at(until, self.calls.join_next()).await {
                Ok(Some(Ok((miner, answer)))) => self.note(&miner, answer),
                Ok(Some(Err(_)) | None) | Err(_) => break,
            }
        }
        let mut answers = Answers::default();
        for miner in miners {
            let name = (*miner).to_owned();
            let Some(provider) = self.providers.get(*miner) else { continue };
            if let Some(facts) = provider.facts() {
                answers.facts.insert(name, facts.clone());
            } else if let Some(trouble) = &provider.trouble {
                answers.problems.insert(name, trouble.words.clone());
            } else {
                answers.awaited.push(name);
            }
        }
        answers
    }

    fn is_awaited(&self, miner: &str) -> bool {
        self.providers.get(miner).is_some_and(|provider| {
            provider.call == Call::UnderWay && provider.trouble.is_none() && provider.facts().is_none()
        })
    }

    fn call_if_due(&mut self, miner: &str) {
        let provider = self.providers.entry(miner.to_owned()).or_default();
        let is_fresh =
            provider.facts.as_ref().is_some_and(|(when, _)| when.elapsed() < FACTS_REFRESHED_AFTER);
        let pauses = provider.trouble.as_ref().is_some_and(|trouble| Instant::now() < trouble.next);
        if is_fresh || pauses || provider.call == Call::UnderWay {
            return;
        }
        provider.call = Call::UnderWay;
        let (call, miner) = ((self.ask)(miner), miner.to_owned());
        self.calls.spawn(async move { (miner, call.await) });
    }

    fn note(&mut self, miner: &str, answer: Result<MinerFacts, String>) {
        let provider = self.providers.entry(miner.to_owned()).or_default();
        provider.call = Call::None;
        match answer {
            Ok(facts) => {
                provider.facts = Some((Instant::now(), facts));
                if provider.trouble.take().is_some() {
                    info!(miner, "miner answers again");
                }
            }
            Err(words) => {
                let before = provider.trouble.take();
                if before.as_ref().is_none_or(|before| before.words != words) {
                    warn!(miner, reason = %words, "miner gets no deals now");
                }
                let failures = before.map_or(0, |before| before.failures).saturating_add(1);
                let next = Instant::now() + PAUSES.ceiling(failures);
                provider.trouble = Some(Trouble { words, failures, next });
            }
        }
    }
}

impl Provider {
    /// What it asks for, as far as that still holds.
    fn facts(&self) -> Option<&MinerFacts> {
        let (when, facts) = self.facts.as_ref()?;
        (when.elapsed() < FACTS_LAST).then_some(facts)
    }
}

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asks").field("providers", &self.providers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// `silent` fails after 30 s as long as the answer is false; all others answer at once.
    fn asks(answers: Arc<dyn Fn(u32) -> bool + Send + Sync>, calls: Arc<AtomicU32>) -> Asks {
        Asks::new(move |miner| {
            let is_silent = miner == "silent";
            let call = if is_silent { calls.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
            let answers = Arc::clone(&answers);
            Box::pin(async move {
                if is_silent && !answers(call) {
                    tokio::time::sleep(30 * SECOND).await;
                    return Err("no answer within 30 s".to_owned());
                }
                Ok(MinerFacts::of_tests())
            })
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_provider_costs_a_second_once_and_is_asked_less_and_less() {
        let calls = Arc::new(AtomicU32::new(0));
        let mut asks = asks(Arc::new(|_| false), Arc::clone(&calls));
        let miners = ["good", "silent"];
        let begun = Instant::now();
        let first = asks.answers(&miners, SECOND).await;
        assert_eq!(begun.elapsed(), SECOND);
        assert_eq!(
            (first.facts.len(), first.problems.len(), first.awaited),
            (1, 0, vec!["silent".to_owned()])
        );
        tokio::time::sleep(30 * SECOND).await;
        for _ in 0..119 {
            let before = Instant::now();
            let later = asks.answers(&miners, SECOND).await;
            assert_eq!((later.facts.len(), later.problems.len(), later.awaited.len()), (1, 1, 0));
            assert_eq!(before.elapsed(), Duration::ZERO);
            tokio::time::sleep(30 * SECOND).await;
        }
        let asked = calls.load(Ordering::Relaxed);
        assert!((5..=12).contains(&asked), "an hour of passes asked {asked} times");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_with_time_gets_every_answer_and_terms_are_renewed_before_they_end() {
        let calls = Arc::new(AtomicU32::new(0));
        // The second call of it fails, the third does not.
        let mut asks = asks(Arc::new(|call| call != 2), Arc::clone(&calls));
        for minute in 0..30 {
            let answers = asks.answers(&["silent"], 60 * SECOND).await;
            assert_eq!((answers.facts.len(), answers.problems.len()), (1, 0), "{minute}");
            tokio::time::sleep(60 * SECOND).await;
        }
        assert!(calls.load(Ordering::Relaxed) >= 4);
    }
}
