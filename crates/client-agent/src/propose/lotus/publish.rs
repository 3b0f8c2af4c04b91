//! Publishes one intent through a Lotus node: called, or recognised as made already.

use std::sync::atomic::{AtomicBool, Ordering};

use carferry_core::lotus::FullNode;
use carferry_core::lotus::wire::{CidLink, DataRef, StartDealParams};
use carferry_core::model::stored::unsigned;
use carferry_core::model::{IntentDoc, PublishMethod};
use carferry_core::path_mapping::PathMapping;
use carferry_core::rpc::{BootInstant, RpcError};
use carferry_core::runtime::fail_point;
use tracing::info;

use crate::propose::lotus::answers::{Outcome, classify, wants_import};
use crate::propose::lotus::node_imports::{Imports, Known};

/// Calls the node for one intent; shared by the queues of all providers, which call at the same time.
#[derive(Debug)]
pub(in crate::propose) struct Publisher {
    node: FullNode,
    /// Learnt from the first refusal: this node wants roots imported, as Lotus v1.11.2 and later do.
    wants_imports: AtomicBool,
    imports: Imports,
}

impl Publisher {
    /// Publishes through this node; `car_paths` turns this host's paths into the node's.
    pub(in crate::propose) fn new(node: FullNode, car_paths: Vec<PathMapping>) -> Self {
        Self { node, wants_imports: AtomicBool::new(false), imports: Imports::new(car_paths) }
    }

    /// A short call that says whether the node is there at all.
    pub(in crate::propose) async fn is_there(&self) -> Result<(), RpcError> {
        self.node.chain_head().await.map(drop)
    }

    /// Makes the deal of this intent, or finds out that it is made. Repeating it makes no second deal: the
    /// parameters, start epoch and collateral included, are the intent's, and they decide the proposal CID.
    ///
    /// No proposal is sent after `send_before`: by then another agent may have taken the intent for
    /// abandoned.
    pub(in crate::propose) async fn publish(&self, intent: &IntentDoc, send_before: BootInstant) -> Outcome {
        let is_imported = intent.method == PublishMethod::Start && self.wants_imports.load(Ordering::Relaxed);
        if is_imported && let Err(outcome) = self.imports.ensure(&self.node, intent, Known::Readable).await {
            return outcome;
        }
        let first = self.call(intent, send_before).await;
        if intent.method != PublishMethod::Start || !wants_import(&first) {
            return classify(intent, first);
        }
        if !self.wants_imports.swap(true, Ordering::Relaxed) {
            info!(
                endpoint = self.node.endpoint(),
                "the node makes manual deals only for roots it has imported: importing CARs before proposing"
            );
        }
        let known = if is_imported { Known::Missing } else { Known::Readable };
        match self.imports.ensure(&self.node, intent, known).await {
            Ok(()) => classify(intent, self.call(intent, send_before).await),
            Err(outcome) => outcome,
        }
    }

    async fn call(&self, intent: &IntentDoc, send_before: BootInstant) -> Result<CidLink, RpcError> {
        fail_point("publish.calling");
        let answer = self.node.publish(intent.method, &params_of(intent), send_before).await;
        fail_point("publish.called");
        answer
    }
}

fn params_of(intent: &IntentDoc) -> StartDealParams {
    StartDealParams {
        data: DataRef {
            transfer_type: "manual".to_owned(),
            root: CidLink::new(&intent.filecid),
            piece_cid: Some(CidLink::new(&intent.piececid)),
            piece_size: unsigned(intent.dealsizebytes),
            raw_block_size: 0,
        },
        wallet: intent.wallet.clone(),
        miner: intent.miner.clone(),
        epoch_price: intent.priceattofil.clone(),
        min_blocks_duration: intent.duration,
        provider_collateral: intent.providercollateral.clone(),
        deal_start_epoch: intent.startepoch,
        fast_retrieval: intent.fastretrieval,
        verified_deal: intent.verified,
    }
}
