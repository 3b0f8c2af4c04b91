//! Plans the deals of a pass: scans the CARs by the page while the queues of providers have space.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bson::oid::ObjectId;
use carferry_core::error_chain::ErrorChain;
use carferry_core::model::{CarDoc, ChainEpoch};
use carferry_core::runtime::fail_point;
use carferry_core::store::{Inserted, StoreError};
use tokio::time::Instant;
use tracing::info;

use crate::propose::budget::Need;
use crate::propose::miner_queues::Pushed;
use crate::propose::policy::{Decision, HoldReason, Offer, PayloadDeals, Situation};
use crate::propose::problems::{Lack, Reason};
use crate::propose::proposable::{Proposable, proposable};
use crate::propose::report::{DealLine, DealState, Held};
use crate::propose::terms::Target;
use crate::propose::{Mode, Pass, ProposeError, Proposer, ScanCursor, conditions, policy};

/// CARs read from the database at a time.
const PAGE: i64 = 200;
/// How long CARs that had all they wanted are passed over while others wait for a queue.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// How far a pass came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageEnd {
    /// Through these CARs.
    End,
    /// To where nothing more can be done now.
    Full,
}

/// Why a provider gets no deal for a CAR.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NoOffer {
    /// The node would have to read the CAR from its own disk.
    OutOfReach,
    /// The provider takes no such piece, or not at this price.
    DoesNotFit(String),
}

impl Proposer {
    /// Goes through the CARs, beginning with the first that had to wait in the pass before: what comes before
    /// it has what it wants. A pass that reached the end is followed by one through all of them, and so
    /// is an hour that did not come so far: what failed meanwhile is to be replaced.
    pub(super) async fn plan(&mut self, pass: &mut Pass) -> Result<(), ProposeError> {
        if self.full_scan.is_none_or(|last| last.elapsed() >= SWEEP_EVERY) {
            self.cursor = ScanCursor::default();
        }
        let ScanCursor { mut after, found } = self.cursor.clone();
        pass.report.absorb(found);
        if after.is_none() {
            self.full_scan = Some(Instant::now());
        }
        while !self.stop.is_cancelled() {
            let page = self.store.cars_page(after, PAGE).await?;
            let is_last = i64::try_from(page.len()).is_ok_and(|length| length < PAGE);
            // Ids of another type sort before these; documents that have such cannot be read.
            let last = page.iter().rev().find_map(|(id, _)| *id).unwrap_or(ObjectId::from_bytes([0; 12]));
            let reach = self.plan_page(pass, after, page).await?;
            if reach == PageEnd::Full {
                self.cursor = pass.busy.take().unwrap_or_default();
                return Ok(());
            }
            if is_last || after == Some(last) {
                self.cursor = ScanCursor::default();
                return Ok(());
            }
            after = Some(last);
        }
        Ok(())
    }

    async fn plan_page(
        &mut self,
        pass: &mut Pass,
        mut before: Option<ObjectId>,
        page: Vec<(Option<ObjectId>, Result<CarDoc, StoreError>)>,
    ) -> Result<PageEnd, ProposeError> {
        let readable = page.iter().filter_map(|(_, car)| car.as_ref().ok());
        let payloads: Vec<String> = readable.filter_map(|car| car.filecid.clone()).collect();
        let mut by_payload: HashMap<String, PayloadDeals> = HashMap::new();
        // Intents first: one that is confirmed by now has its deal in what is read after it. The other way
        // round a deal confirmed in between would be in neither, and be made again.
        let (intents, unreadable) = self.store.intents_of_payloads(&payloads).await?;
        for intent in intents {
            by_payload.entry(intent.filecid.clone()).or_default().intents.push(intent);
        }
        for deal in self.store.deals_of_payloads(&payloads).await? {
            by_payload.entry(deal.payload_cid.clone()).or_default().deals.push(deal);
        }
        by_payload.values_mut().for_each(PayloadDeals::by_intents);
        let mut planned: HashSet<String> = HashSet::new();
        for (id, car) in page {
            if self.stop.is_cancelled() {
                return Ok(PageEnd::Full);
            }
            let car = match car {
                Ok(car) => car,
                Err(error) => {
                    pass.report.car_problem(ErrorChain(&error).to_string());
                    before = id.or(before);
                    continue;
                }
            };
            let wanted_group = self.terms.groups.is_empty()
                || car.group.as_ref().is_some_and(|group| self.terms.groups.contains(group));
            if !wanted_group {
                before = id.or(before);
                continue;
            }
            let here = || ScanCursor { after: before, found: pass.report.scanned() };
            if let Some(reason) = self.is_full(pass) {
                pass.busy = pass.busy.take().or_else(|| Some(here()));
                pass.report.hold(reason);
                return Ok(PageEnd::Full);
            }
            match proposable(&car) {
                // The same bytes may lie under two paths: one payload, one set of replicas.
                Ok(car) if unreadable.contains(&car.payload_cid.to_string()) => {
                    let problem = "one of its documents in `dealintents` cannot be read";
                    pass.report.car_problem(format!("{}: {problem}", car.payload_cid));
                }
                Ok(car) if planned.insert(car.payload_cid.to_string()) => {
                    let payload_deals = by_payload.remove(&car.payload_cid.to_string()).unwrap_or_default();
                    if self.has_to_wait(pass, &car, &payload_deals) {
                        pass.busy = pass.busy.take().or_else(|| Some(here()));
                        pass.report.hold(Held::Busy);
                    }
                    self.plan_payload(pass, &car, &payload_deals).await?;
                }
                Ok(_) => {}
                Err(problem) => pass.report.car_problem(problem),
            }
            pass.report.cars += 1;
            before = id.or(before);
        }
        Ok(PageEnd::End)
    }

    /// Why no CAR can get anything more in this pass.
    fn is_full(&self, pass: &Pass) -> Option<Held> {
        if self.limits.deals_per_pass_max.is_some_and(|max| pass.budget.planned() >= max) {
            return Some(Held::By(HoldReason::RunIsFull));
        }
        let mut asked =
            self.targets.iter().filter(|target| pass.miners.contains_key(&target.miner)).peekable();
        (asked.peek().is_some() && asked.all(|target| self.is_busy(target))).then_some(Held::Busy)
    }

    fn is_busy(&self, target: &Target) -> bool {
        self.queues.is_full(&target.miner, self.limits.deals_per_payload_and_miner_max)
    }

    /// Whether a CAR would get a deal if the queues of all its providers had room.
    fn has_to_wait(&self, pass: &Pass, car: &Proposable, payload_deals: &PayloadDeals) -> bool {
        let of_busy = |target: &&Target| self.is_busy(target);
        let busy: Vec<Offer> = self
            .targets
            .iter()
            .filter(of_busy)
            .filter_map(|target| self.offer(pass, car, target)?.ok())
            .collect();
        if busy.is_empty() {
            return false;
        }
        let mut budget = pass.budget.clone();
        !policy::decide(payload_deals, &busy, &mut budget, &self.situation(pass)).wanted.is_empty()
    }

    /// What is the same for all payloads of this pass.
    fn situation<'a>(&'a self, pass: &'a Pass) -> Situation<'a> {
        Situation {
            limits: &self.limits,
            terms: &pass.terms,
            now: pass.now,
            head: pass.node.head,
            epochs_per_day: pass.node.epochs_per_day(),
        }
    }

    /// The deal that this provider would take of this CAR, or why it takes none; `None` where nothing is
    /// known of the provider, or no call makes deals at its price: both are said for the provider, not
    /// for each CAR.
    fn offer(&self, pass: &Pass, car: &Proposable, target: &Target) -> Option<Result<Offer, NoOffer>> {
        let facts = pass.miners.get(&target.miner)?;
        let method = *pass.methods.get(&target.miner)?;
        if self.is_out_of_reach(&pass.node, car, method) {
            return Some(Err(NoOffer::OutOfReach));
        }
        let fits = conditions::fits(facts, target, car.padded, self.terms.verified);
        Some(fits.map_err(NoOffer::DoesNotFit).map(|()| Offer {
            target: target.clone(),
            method,
            need: Need {
                cost: self.terms.duration.cost_max(target.price),
                datacap_bytes: if self.terms.verified { u128::from(car.padded.get()) } else { 0 },
            },
        }))
    }

    async fn plan_payload(
        &mut self,
        pass: &mut Pass,
        car: &Proposable,
        payload_deals: &PayloadDeals,
    ) -> Result<(), ProposeError> {
        let mut offers = Vec::new();
        for target in &self.targets {
            match self.offer(pass, car, target) {
                Some(Err(NoOffer::OutOfReach)) => pass.report.hold(Held::OutOfReach),
                Some(Err(NoOffer::DoesNotFit(why))) => {
                    let reason = Reason::WithMiner { miner: target.miner.clone(), why };
                    pass.report.problem(reason, car.payload_cid.to_string().as_str(), Lack::default());
                }
                Some(Ok(offer)) if !self.is_busy(target) => offers.push(offer),
                Some(Ok(_)) | None => {}
            }
        }
        // What is planned takes from the budget only once there is a collateral: without it there is no deal.
        let mut budget = pass.budget.clone();
        let Decision { wanted, held, replicas } =
            policy::decide(payload_deals, &offers, &mut budget, &self.situation(pass));
        let collateral = if wanted.is_empty() {
            None
        } else {
            match self.collateral(pass, car.padded).await? {
                Ok(collateral) => Some(collateral),
                Err(why) => {
                    pass.report.car_problem(format!("{}: {why}", car.payload_cid));
                    return Ok(());
                }
            }
        };
        report_held(pass, car, held);
        *pass.report.coverage.entry(replicas).or_insert(0) += 1;
        let Some(collateral) = collateral else { return Ok(()) };
        pass.budget = budget;
        let mut number =
            payload_deals.intents.iter().filter_map(|intent| number_of(&intent.id)).max().unwrap_or(0);
        let mut starts: Vec<(String, i64)> =
            payload_deals.intents.iter().map(|intent| (intent.miner.clone(), intent.startepoch)).collect();
        for Offer { target, method, need } in wanted {
            // After a stop the queues send nothing more: what is written now would only be settled by the
            // next start.
            if self.stop.is_cancelled() {
                break;
            }
            let wanted_start = pass.node.head.plus(pass.terms.start_delay_epochs);
            let start = free_start(wanted_start, &target.miner, &starts);
            starts.push((target.miner.clone(), start.get()));
            number = number.saturating_add(1);
            let intent = self.intent(pass, car, &target, number, start, collateral, method);
            pass.count_planned(car, &target, method, need.cost);
            if pass.mode == Mode::DryRun {
                pass.report.deals.push(DealLine::of(&intent, DealState::Planned, None));
                continue;
            }
            if self.store.insert_intent(&intent).await? == Inserted::NumberTaken {
                // Another agent decided about this payload at the same moment: look again in the next pass.
                info!(payload_cid = %car.payload_cid, "another agent plans this payload too");
                break;
            }
            fail_point("publish.intended");
            if self.queues.push(intent.clone()) == Pushed::QueueIsFull {
                pass.report.deals.push(DealLine::of(
                    &intent,
                    DealState::Unsettled,
                    Some("its queue is full".to_owned()),
                ));
            }
        }
        Ok(())
    }
}

/// Says why offers were not taken: limits by their count, a lack of money or datacap as a problem of the CAR.
fn report_held(pass: &mut Pass, car: &Proposable, held: Vec<(Offer, HoldReason)>) {
    let car_name = car.payload_cid.to_string();
    for (Offer { target: Target { miner, .. }, need, .. }, held) in held {
        match held {
            HoldReason::NoFunds => {
                let left = pass.budget.funds().get();
                let lack = Lack { cost: need.cost, left, ..Lack::default() };
                pass.report.problem(Reason::Funds { miner }, &car_name, lack);
            }
            HoldReason::NoDatacap => {
                let left = pass.budget.datacap_bytes();
                let lack = Lack { datacap_bytes: need.datacap_bytes, left, ..Lack::default() };
                pass.report.problem(Reason::Datacap { miner }, &car_name, lack);
            }
            limit => pass.report.hold(Held::By(limit)),
        }
    }
}

/// The number in an intent's id.
fn number_of(id: &str) -> Option<u32> {
    id.rsplit_once('#')?.1.parse().ok()
}

/// The first start epoch from `wanted` on that no other deal of this payload and provider has: the same
/// start would make the same proposal, and the node would take it for a repeat.
fn free_start(wanted: ChainEpoch, miner: &str, taken: &[(String, i64)]) -> ChainEpoch {
    let mut start = wanted;
    while taken.iter().any(|(other, epoch)| other == miner && *epoch == start.get()) {
        start = start.plus(1);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deals_of_one_payload_with_one_miner_start_at_different_epochs() {
        let taken = [("a".to_owned(), 100), ("a".to_owned(), 101), ("b".to_owned(), 102)];
        assert_eq!(free_start(ChainEpoch::new(100), "a", &taken), ChainEpoch::new(102));
        assert_eq!(free_start(ChainEpoch::new(100), "b", &taken), ChainEpoch::new(100));
    }
}
