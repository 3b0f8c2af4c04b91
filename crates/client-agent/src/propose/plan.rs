//! Which CARs get deals in a pass: all of them are gone through, a page at a time, as long as there is room.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bson::oid::ObjectId;
use carferry_core::{
    error_chain::ErrorChain,
    model::CarDoc,
    runtime::fail_point,
    store::{NewIntent, StoreError},
};
use tokio::time::Instant;
use tracing::info;

use super::{
    Begin, DealState, Mode, Pass, Proposable, ProposeError, Proposer, free_start, line_of, number_of,
    policy::{self, Decision, Held, Picture, Target},
    preflight, proposable, report,
};

/// CARs read from the database at a time.
const PAGE: i64 = 200;
/// How long CARs that had all they wanted are passed over while others wait for their lanes.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// How far a pass came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Through these CARs.
    End,
    /// To where nothing more can be done now.
    Full,
}

impl Proposer {
    /// Goes through the CARs, beginning with the first that had to wait in the pass before: what comes before it has
    /// what it wants. A pass that reached the end is followed by one through all of them, and so is an hour that did not
    /// come so far: what failed meanwhile is to be replaced.
    pub(super) async fn plan(&mut self, pass: &mut Pass) -> Result<(), ProposeError> {
        if self.swept.is_none_or(|last| last.elapsed() >= SWEEP_EVERY) {
            self.begin = Begin::default();
        }
        let Begin { mut after, found } = self.begin.clone();
        pass.report.absorb(found);
        if after.is_none() {
            self.swept = Some(Instant::now());
        }
        while !self.stop.is_cancelled() {
            let page = self.store.cars_page(after, PAGE).await?;
            let is_last = i64::try_from(page.len()).is_ok_and(|length| length < PAGE);
            // Ids of another type sort before these; documents that have such cannot be read.
            let last = page.iter().rev().find_map(|(id, _)| *id).unwrap_or(ObjectId::from_bytes([0; 12]));
            let reach = self.plan_page(pass, after, page).await?;
            if reach == Reach::Full {
                self.begin = pass.busy.take().unwrap_or_default();
                return Ok(());
            }
            if is_last || after == Some(last) {
                self.begin = Begin::default();
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
    ) -> Result<Reach, ProposeError> {
        let readable = page.iter().filter_map(|(_, car)| car.as_ref().ok());
        let payloads: Vec<String> = readable.filter_map(|car| car.filecid.clone()).collect();
        let mut pictures: HashMap<String, Picture> = HashMap::new();
        // Intents first: one that is confirmed by now has its deal in what is read after it. The other way
        // round a deal confirmed in between would be in neither, and be made again.
        let (intents, unreadable) = self.store.intents_of_payloads(&payloads).await?;
        for intent in intents {
            pictures.entry(intent.filecid.clone()).or_default().intents.push(intent);
        }
        for deal in self.store.deals_of_payloads(&payloads).await? {
            pictures.entry(deal.payload_cid.clone()).or_default().deals.push(deal);
        }
        pictures.values_mut().for_each(Picture::by_intents);
        let mut planned: HashSet<String> = HashSet::new();
        for (id, car) in page {
            if self.stop.is_cancelled() {
                return Ok(Reach::Full);
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
            let here = || Begin { after: before, found: pass.report.scanned() };
            if let Some(reason) = self.is_full(pass) {
                pass.busy = pass.busy.take().or_else(|| Some(here()));
                *pass.report.held.entry(reason).or_insert(0) += 1;
                return Ok(Reach::Full);
            }
            match proposable(&car) {
                // The same bytes may lie under two paths: one payload, one set of replicas.
                Ok(car) if unreadable.contains(&car.payload_cid.to_string()) => {
                    let problem = "one of its documents in `dealintents` cannot be read";
                    pass.report.car_problem(format!("{}: {problem}", car.payload_cid));
                }
                Ok(car) if planned.insert(car.payload_cid.to_string()) => {
                    let picture = pictures.remove(&car.payload_cid.to_string()).unwrap_or_default();
                    if self.has_to_wait(pass, &car, &picture) {
                        pass.busy = pass.busy.take().or_else(|| Some(here()));
                        *pass.report.held.entry(report::BUSY).or_insert(0) += 1;
                    }
                    self.plan_payload(pass, &car, &picture).await?;
                }
                Ok(_) => {}
                Err(problem) => pass.report.car_problem(problem),
            }
            pass.report.cars += 1;
            before = id.or(before);
        }
        Ok(Reach::End)
    }

    /// Why no CAR can get anything more in this pass.
    fn is_full(&self, pass: &Pass) -> Option<&'static str> {
        if self.limits.deals_per_pass_max.is_some_and(|max| pass.ledger.planned() >= max) {
            return Some(Held::RunIsFull.as_str());
        }
        let mut asked =
            self.targets.iter().filter(|target| pass.miners.contains_key(&target.miner)).peekable();
        (asked.peek().is_some() && asked.all(|target| self.is_busy(target))).then_some(report::BUSY)
    }

    fn is_busy(&self, target: &Target) -> bool {
        self.lanes.is_full(&target.miner, self.limits.deals_per_payload_and_miner_max)
    }

    /// Whether a CAR would get a deal if the lanes of all its providers had room.
    fn has_to_wait(&self, pass: &Pass, car: &Proposable, picture: &Picture) -> bool {
        let fits = |target: &&Target| {
            let facts = pass.miners.get(&target.miner);
            facts.is_some_and(|facts| preflight::fits(facts, target, car.padded, self.terms.verified).is_ok())
                && !self.is_out_of_reach(&pass.node, car, target)
        };
        let busy: Vec<Target> =
            self.targets.iter().filter(|target| self.is_busy(target)).filter(fits).cloned().collect();
        if busy.is_empty() {
            return false;
        }
        let mut ledger = pass.ledger.clone();
        let decision = policy::decide(picture, &busy, &self.limits, &mut ledger, pass.now, pass.node.head);
        !decision.wanted.is_empty()
    }

    async fn plan_payload(
        &mut self,
        pass: &mut Pass,
        car: &Proposable,
        picture: &Picture,
    ) -> Result<(), ProposeError> {
        let mut eligible = Vec::new();
        for target in &self.targets {
            let Some(facts) = pass.miners.get(&target.miner) else { continue };
            if self.is_out_of_reach(&pass.node, car, target) {
                *pass.report.held.entry(report::OUT_OF_REACH).or_insert(0) += 1;
            } else if let Err(problem) = preflight::fits(facts, target, car.padded, self.terms.verified) {
                pass.report.car_problem(format!("{} with {}: {problem}", car.payload_cid, target.miner));
            } else if !self.is_busy(target) {
                eligible.push(target.clone());
            }
        }
        let Decision { wanted, held } =
            policy::decide(picture, &eligible, &self.limits, &mut pass.ledger, pass.now, pass.node.head);
        for (_miner, reason) in held {
            *pass.report.held.entry(reason.as_str()).or_insert(0) += 1;
        }
        let mut number = picture.intents.iter().filter_map(|intent| number_of(&intent.id)).max().unwrap_or(0);
        let mut starts: Vec<(String, i64)> =
            picture.intents.iter().map(|intent| (intent.miner.clone(), intent.startepoch)).collect();
        for target in wanted {
            // After a stop the lanes send nothing more: what is written now would only be settled by the next start.
            if self.stop.is_cancelled() {
                break;
            }
            let method = match preflight::method_for(&pass.node, self.terms.method, target.price) {
                Ok(method) => method,
                Err(problem) => {
                    pass.report.miner_problems.insert(target.miner.clone(), problem);
                    continue;
                }
            };
            // Before anything is spent: without it there is no deal.
            let collateral = match self.collateral(pass, car.padded).await? {
                Ok(collateral) => collateral,
                Err(problem) => {
                    pass.report.car_problem(format!("{}: {problem}", car.payload_cid));
                    break;
                }
            };
            if let Some(problem) = self.spend(pass, car, &target) {
                pass.report.car_problem(problem);
                continue;
            }
            let start =
                free_start(pass.node.head.plus(self.terms.start_delay_epochs), &target.miner, &starts);
            starts.push((target.miner.clone(), start.get()));
            number = number.saturating_add(1);
            let intent = self.intent(car, &target, number, start, collateral, method);
            self.tally(pass, car, &target, method);
            if pass.mode == Mode::DryRun {
                pass.report.deals.push(line_of(&intent, DealState::Planned, None));
                continue;
            }
            if !self.store.insert_intent(&NewIntent(intent.clone())).await? {
                // Another agent decided about this payload at the same moment: look again in the next pass.
                info!(payload_cid = %car.payload_cid, "another agent plans this payload too");
                break;
            }
            fail_point("publish.intended");
            if !self.lanes.push(intent.clone()) {
                pass.report.deals.push(line_of(
                    &intent,
                    DealState::Unsettled,
                    Some("its lane is full".to_owned()),
                ));
            }
        }
        Ok(())
    }
}
