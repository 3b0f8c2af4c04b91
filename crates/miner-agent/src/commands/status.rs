//! `status`: the pending deals of the miners and the state of their agents, from the database.

use std::fmt::Write as _;

use bson::DateTime;
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::address::MinerId;
use carferry_core::model::{ImportDoc, ImportState, OfflineDealDoc};
use carferry_core::printer::table;
use carferry_core::store::{MinerStateDoc, PendingCounts, Store, StoreError};
use serde::Serialize;
use tracing::debug;

/// What `status` shows.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// Pending deals by miner.
    pub miners: Vec<MinerLine>,
    /// The most urgent pending deals, then those that are over.
    pub deals: Vec<PendingLine>,
}

/// Pending deals of one miner.
#[derive(Clone, Debug, Serialize)]
pub struct MinerLine {
    /// Storage provider.
    pub miner: String,
    /// How many, by where they stand.
    #[serde(flatten)]
    pub counts: PendingCounts,
    /// Its agent.
    pub agent: AgentLine,
}

/// How a miner's agents stand, as they last said.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AgentLine {
    /// At least one imports.
    Works,
    /// Those that are up import nothing.
    Paused {
        /// RFC 3339.
        since: String,
        /// Why.
        reason: String,
    },
    /// None was heard of for some minutes.
    Gone {
        /// RFC 3339.
        last_seen: String,
    },
    /// None ever said anything: none ran, or its database user may not write to `minerstates`.
    Unknown,
}

/// One pending deal.
#[derive(Clone, Debug, Serialize)]
pub struct PendingLine {
    /// Proposal CID, as stored.
    pub deal: String,
    /// Storage provider.
    pub miner: String,
    /// `new`, `working`, `paused`, `waiting`, `retrying`, `set aside`, `missed`, `failed`.
    pub state: &'static str,
    /// Why.
    pub reason: Option<String>,
    /// Failed tries.
    pub attempts: i64,
    /// Next try, RFC 3339; `now` if it is due.
    pub next_try: Option<String>,
    /// The epoch by which it must be sealed.
    pub start_epoch: Option<i64>,
    /// The agent that works on it.
    pub owner: Option<String>,
    /// The deal's state at the provider.
    pub provider_status: Option<String>,
}

/// Reads the queue of these miners.
///
/// # Errors
///
/// When the database does not answer.
pub async fn status(store: &Store, miners: &[String], limit: i64) -> Result<StatusReport, StoreError> {
    let states = states(store, miners).await?;
    let mut lines = Vec::with_capacity(miners.len());
    for miner in miners {
        let (counts, agent) = (store.pending_counts(miner).await?, agent_line(&states, miner));
        lines.push(MinerLine { miner: miner.clone(), counts, agent });
    }
    let now = store.server_time().await?;
    let pending = store.pending_deals(miners, limit.max(0)).await?;
    let deals = pending.iter().map(|deal| {
        let agent = lines.iter().find(|line| is_same(&line.miner, deal.miner.as_deref().unwrap_or_default()));
        line(deal, now, agent.map(|line| &line.agent))
    });
    let deals = deals.collect();
    Ok(StatusReport { miners: lines, deals })
}

/// What agents say of themselves. A database user without the right to read it sees the deals all the same.
pub(crate) async fn states(store: &Store, miners: &[String]) -> Result<Vec<MinerStateDoc>, StoreError> {
    match store.miner_states(miners).await {
        Err(error @ StoreError::Refused { .. }) => {
            debug!(error = %ErrorChain(&error), "what agents say of themselves cannot be read");
            Ok(Vec::new())
        }
        answer => answer,
    }
}

/// How the agents of a miner stand.
pub(crate) fn agent_line(states: &[MinerStateDoc], miner: &str) -> AgentLine {
    let own: Vec<_> =
        states.iter().filter(|state| is_same(state.miner.as_deref().unwrap_or_default(), miner)).collect();
    let text =
        |time: Option<DateTime>| time.and_then(|time| time.try_to_rfc3339_string().ok()).unwrap_or_default();
    let Some(last) = own.iter().max_by_key(|state| state.lastseen) else { return AgentLine::Unknown };
    let alive = || own.iter().filter(|state| state.isalive);
    if alive().next().is_none() {
        return AgentLine::Gone { last_seen: text(last.lastseen) };
    }
    if alive().any(|state| state.pausedsince.is_none()) {
        return AgentLine::Works;
    }
    let first = alive().min_by_key(|state| state.pausedsince);
    AgentLine::Paused {
        since: text(first.and_then(|state| state.pausedsince)),
        reason: first.and_then(|state| state.reason.clone()).unwrap_or_default(),
    }
}

/// Whether two texts name one miner.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one == other
        || one
            .parse::<MinerId>()
            .ok()
            .zip(other.parse::<MinerId>().ok())
            .is_some_and(|(one, other)| one == other)
}

/// What the market was given, and when.
fn handed_words(import: &ImportDoc) -> Option<String> {
    let path = import.path.as_deref().unwrap_or("a file");
    let time = import.handedtime?.try_to_rfc3339_string().ok()?;
    (import.state == ImportState::Handed)
        .then(|| format!("the market was given {path} at {time}, and has not decided on it yet"))
}

pub(crate) fn line(deal: &OfflineDealDoc, now: DateTime, agent: Option<&AgentLine>) -> PendingLine {
    let claim = deal.claim.as_ref().filter(|claim| claim.until.is_some_and(|until| until > now));
    let import = deal.import.as_ref();
    let state = match (claim, import.map(|import| import.state)) {
        (Some(_), _) => "working",
        (None, Some(ImportState::Waiting | ImportState::Unknown)) => "waiting",
        (None, Some(ImportState::Retrying)) => "retrying",
        (None, Some(ImportState::Handed)) => "handed over",
        (None, Some(ImportState::SetAside)) => "set aside",
        (None, Some(ImportState::Missed)) => "missed",
        (None, Some(ImportState::Failed)) => "failed",
        // Done, and `isdeal` 0: a person reopened it.
        (None, None | Some(ImportState::Done)) => "new",
    };
    let goes_on = matches!(state, "new" | "waiting" | "retrying");
    let next_try = import.and_then(|import| import.nexttry).filter(|_| goes_on).map(|next| {
        if next <= now { "now".to_owned() } else { next.try_to_rfc3339_string().unwrap_or_default() }
    });
    // What was found at the last look says nothing while no look is made.
    let paused = match agent {
        Some(AgentLine::Paused { since, reason }) if goes_on => {
            Some(format!("nothing is imported for this miner since {since}: {reason}"))
        }
        _ => None,
    };
    PendingLine {
        deal: deal.shown_dealcid(),
        miner: deal.miner.clone().unwrap_or_default(),
        state: if paused.is_some() { "paused" } else { state },
        reason: paused.or_else(|| import.and_then(handed_words)).or_else(|| import?.reason.clone()),
        attempts: import.and_then(|import| import.attempts).unwrap_or(0),
        next_try,
        start_epoch: deal.startepoch,
        owner: claim.map(|claim| claim.owner.clone()),
        provider_status: deal.provider.as_ref().and_then(|provider| provider.statusname.clone()),
    }
}

impl std::fmt::Display for AgentLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Paused { since, reason } => write!(f, "paused since {since}: {reason}"),
            Self::Gone { last_seen } => write!(f, "not heard of since {last_seen}: does it run?"),
            Self::Unknown => f.write_str("never heard of"),
        }
    }
}

impl StatusReport {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut miners = table(["miner", "pending", "under way", "set aside", "failed", "missed", "agent"]);
        for MinerLine { miner, counts, agent } in &self.miners {
            miners.add_row([
                miner.clone(),
                counts.pending.to_string(),
                counts.claimed.to_string(),
                counts.set_aside.to_string(),
                counts.failed.to_string(),
                counts.missed.to_string(),
                agent.to_string(),
            ]);
        }
        let _infallible = writeln!(text, "{}", miners.trim_fmt());
        if !self.deals.is_empty() {
            let mut deals = table(["deal", "miner", "start epoch", "state", "tries", "next try", "why"]);
            for deal in &self.deals {
                deals.add_row([
                    deal.deal.clone(),
                    deal.miner.clone(),
                    deal.start_epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
                    deal.state.to_owned(),
                    deal.attempts.to_string(),
                    deal.next_try.clone().unwrap_or_default(),
                    deal.reason.clone().unwrap_or_default(),
                ]);
            }
            let _infallible = writeln!(text, "\n{}", deals.trim_fmt());
        }
        let pending: u64 = self.miners.iter().map(|line| line.counts.pending).sum();
        let shown = u64::try_from(self.deals.len()).unwrap_or(u64::MAX);
        if let (Some(more @ 1..), 1..) = (pending.checked_sub(shown), shown) {
            let _infallible = writeln!(text, "and {more} more (--limit)");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use carferry_core::model::{ClaimDoc, ImportDoc};

    use super::*;

    fn report() -> StatusReport {
        let now = DateTime::from_millis(1_700_000_000_000);
        let deal = |n: u8, import: Option<ImportDoc>, claim: Option<ClaimDoc>| OfflineDealDoc {
            dealcid: Some(format!("bafyrei{n}")),
            miner: Some("f01000".to_owned()),
            startepoch: Some(4_000_000),
            import,
            claim,
            ..OfflineDealDoc::default()
        };
        let import = |state, reason: &str| {
            let nexttry = Some(DateTime::from_millis(1_700_000_030_000));
            Some(ImportDoc { state, reason: Some(reason.to_owned()), nexttry, ..ImportDoc::default() })
        };
        let held = |until| {
            Some(ClaimDoc {
                owner: "host/1/a#1".to_owned(),
                until: Some(DateTime::from_millis(until)),
                n: Some(1),
            })
        };
        let deals = [
            deal(1, None, None),
            deal(2, None, held(1_700_000_000_001)),
            deal(3, import(ImportState::Waiting, "the CAR is not here yet"), held(1_699_999_999_999)),
            deal(4, import(ImportState::Missed, "start epoch 1 has passed"), None),
            deal(5, import(ImportState::SetAside, "set aside after 20 tries"), None),
        ];
        StatusReport {
            miners: vec![MinerLine {
                miner: "f01000".to_owned(),
                counts: PendingCounts { pending: 7, claimed: 1, set_aside: 1, failed: 0, missed: 1 },
                agent: AgentLine::Works,
            }],
            deals: deals.iter().map(|deal| line(deal, now, Some(&AgentLine::Works))).collect(),
        }
    }

    #[test]
    fn a_lease_counts_only_while_it_lasts() {
        let states: Vec<_> = report().deals.iter().map(|deal| deal.state).collect();
        assert_eq!(states, ["new", "working", "waiting", "missed", "set aside"]);
        assert_eq!(report().deals[1].owner.as_deref(), Some("host/1/a#1"));
        assert_eq!(report().deals[2].owner, None);
    }

    #[test]
    fn a_deal_of_a_paused_miner_says_so_and_not_what_was_found_before() {
        let at = |millis: i64| Some(DateTime::from_millis(millis));
        let state = |host: &str, isalive: bool, paused: Option<i64>| MinerStateDoc {
            miner: Some("t01000".to_owned()),
            host: Some(host.to_owned()),
            lastseen: at(1_700_000_000_000),
            pausedsince: paused.and_then(at),
            reason: paused.map(|_| "the token is refused".to_owned()),
            isalive,
            ..MinerStateDoc::default()
        };
        let paused =
            agent_line(&[state("a", true, Some(1_699_999_000_000)), state("b", false, None)], "f01000");
        assert_eq!(paused.to_string(), "paused since 2023-11-14T21:56:40Z: the token is refused");
        let works = agent_line(&[state("a", true, Some(1)), state("b", true, None)], "f01000");
        assert!(matches!(works, AgentLine::Works), "another agent imports");
        assert!(matches!(agent_line(&[state("a", false, Some(1))], "f01000"), AgentLine::Gone { .. }));
        assert!(matches!(agent_line(&[state("a", true, None)], "f01001"), AgentLine::Unknown));

        let now = DateTime::from_millis(1_700_000_000_000);
        for (state, shown) in [
            (ImportState::Waiting, "paused"),
            (ImportState::Retrying, "paused"),
            (ImportState::Missed, "missed"),
            (ImportState::SetAside, "set aside"),
        ] {
            let import = ImportDoc {
                state,
                reason: Some("the CAR is not here yet".to_owned()),
                ..ImportDoc::default()
            };
            let deal = OfflineDealDoc { import: Some(import), ..OfflineDealDoc::default() };
            let line = line(&deal, now, Some(&paused));
            assert_eq!(line.state, shown);
            assert_eq!(line.reason.unwrap().contains("the token is refused"), shown == "paused");
        }
    }

    #[test]
    fn a_try_that_is_due_is_now() {
        let now = DateTime::from_millis(1_700_000_000_000);
        for (next, shown) in [(1_699_999_999_000, "now"), (1_700_000_030_000, "2023-11-14T22:13:50Z")] {
            let import = ImportDoc { nexttry: Some(DateTime::from_millis(next)), ..ImportDoc::default() };
            let deal = OfflineDealDoc { import: Some(import), ..OfflineDealDoc::default() };
            assert_eq!(line(&deal, now, None).next_try.as_deref(), Some(shown));
        }
    }

    #[test]
    fn people_see_reasons_and_what_is_left_out() {
        insta::assert_snapshot!(report().text());
    }
}
