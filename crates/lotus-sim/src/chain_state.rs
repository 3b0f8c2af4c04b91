//! Answers about the chain, actors, the network, and the state of the sync.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::config::LotusVersion;
use crate::ids::Address;
use crate::reply::RpcError;
use crate::world::{Miner, World};

impl World {
    /// `SyncState`: the state of each sync worker. An idle worker has neither base nor target.
    pub(crate) fn sync_state(&self) -> Value {
        const NEVER: &str = "0001-01-01T00:00:00Z";
        let head = self.tipset();
        let now = self.time(SystemTime::now());
        // Stages: 0 is idle, 3 is messages (still working), 4 is complete.
        let stage = if self.sync_lag.is_zero() { 4 } else { 3 };
        json!({
            "ActiveSyncs": [
                {
                    "WorkerID": 1, "Base": head, "Target": head, "Stage": stage, "Height": self.head(),
                    "Start": now, "End": now, "Message": "",
                },
                {
                    "WorkerID": 2, "Base": null, "Target": null, "Stage": 0, "Height": 0,
                    "Start": NEVER, "End": NEVER, "Message": "",
                },
            ],
            "VMApplied": 42,
        })
    }

    /// `NetworkParams`, with the upgrade heights that callers use.
    pub(crate) fn network_params(&self) -> Value {
        json!({
            "NetworkName": self.config.network_name,
            "BlockDelaySecs": self.config.block_delay_seconds,
            "ConsensusMinerMinPower": "10995116277760",
            "SupportedProofTypes": [8, 9],
            "PreCommitChallengeDelay": 150,
            "ForkUpgradeParams": { "UpgradeSmokeHeight": 51_000, "UpgradeLightningHeight": 2_809_800 },
        })
    }

    /// The network version at the time of this release.
    pub(crate) fn network_version(&self) -> u64 {
        match self.config.version {
            LotusVersion::V1_5 => 10,
            LotusVersion::V1_11 => 13,
            LotusVersion::V1_23 => 20,
            LotusVersion::V1_27_1 => 22,
        }
    }

    pub(crate) fn chain_miner(&self, id: &Address) -> Result<&Miner, RpcError> {
        self.miners
            .get(id.as_str())
            .ok_or_else(|| RpcError::application("failed to load miner actor: actor not found"))
    }

    pub(crate) fn proving_deadline(&self, id: &Address) -> Result<Value, RpcError> {
        let miner = self.chain_miner(id)?;
        let head = self.head();
        let offset = miner.config.period_start();
        let start = head - (head - offset).rem_euclid(2880);
        let index = (head - start) / 60;
        let open = start + index * 60;
        Ok(json!({
            "CurrentEpoch": head, "PeriodStart": start, "Index": index, "Open": open, "Close": open + 60,
            "Challenge": open - 20, "FaultCutoff": open - 70, "WPoStPeriodDeadlines": 48,
            "WPoStProvingPeriod": 2880, "WPoStChallengeWindow": 60, "WPoStChallengeLookback": 20,
            "FaultDeclarationCutoff": 70,
        }))
    }

    pub(crate) fn lookup_id(&self, wanted: &Address) -> Result<Value, RpcError> {
        let prefix = self.config.network_prefix;
        if wanted.protocol() == '0' {
            return Ok(json!(wanted.print(prefix)));
        }
        let wallet = self.wallet(wanted);
        wallet.map(|wallet| json!(wallet.id.print(prefix))).ok_or_else(|| self.actor_not_found())
    }

    pub(crate) fn account_key(&self, wanted: &Address) -> Result<Value, RpcError> {
        let prefix = self.config.network_prefix;
        match (self.wallet(wanted), wanted.protocol()) {
            (Some(wallet), _) => Ok(json!(wallet.address.print(prefix))),
            (None, '1' | '3') => Ok(json!(wanted.print(prefix))),
            (None, _) => Err(self.actor_not_found()),
        }
    }

    /// The error for a missing actor: code 3 and a `meta` in v1.23, an ordinary error before.
    fn actor_not_found(&self) -> RpcError {
        let mut error = RpcError::application("actor not found");
        if self.config.version.has_newer_jsonrpc() {
            error.code = 3;
            error.meta = Some(json!({}));
        }
        error
    }

    pub(crate) fn chain_deal(&self, id: u64) -> Result<Value, RpcError> {
        let found = self.chain.get(&id).and_then(|chain| Some((self.deals.get(&chain.cid)?, chain)));
        found.map(|(deal, chain)| self.market_deal(deal, chain)).ok_or_else(|| {
            RpcError::application(format!(
                "deal {id} not found - deal may not have completed sealing before deal proposal start epoch, or \
                 deal may have been slashed"
            ))
        })
    }
}
