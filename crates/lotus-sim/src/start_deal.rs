//! `ClientStartDeal` and `ClientStatelessDeal`: from their parameters to a deal proposal.
//!
//! What lives here: reading the parameters, the client's checks of §2.4. What does not: the proposal CID
//! (`proposal`), the states of the deal afterwards (`client`, `provider`).

use serde_json::{Value, json};

use crate::config::LotusVersion;
use crate::ids::{Address, Cid, deal_label};
use crate::json;
use crate::json::Fields;
use crate::proposal::{Proposal, padded_of};
use crate::states::DealState;
use crate::world::{EPOCHS_PER_DAY, World};

/// Parameters of `ClientStartDeal` and `ClientStatelessDeal`.
#[derive(Debug, Clone)]
pub(crate) struct StartDeal {
    pub(crate) transfer_type: String,
    pub(crate) root: Option<Cid>,
    pub(crate) piece_cid: Option<Cid>,
    /// `Data.PieceSize`: unpadded.
    pub(crate) unpadded_piece_size: u64,
    pub(crate) raw_block_size: u64,
    pub(crate) wallet: String,
    pub(crate) miner: String,
    pub(crate) epoch_price: i128,
    pub(crate) duration: i64,
    pub(crate) provider_collateral: i128,
    pub(crate) start_epoch: i64,
    pub(crate) fast_retrieval: bool,
    pub(crate) verified: bool,
}

/// Whether the client node keeps the deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publication {
    /// `ClientStartDeal`.
    Tracked,
    /// `ClientStatelessDeal`.
    Stateless,
}

/// How a proposal attempt fails.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// An application error with this text.
    Application(String),
    /// Lotus dereferences a nil pointer here.
    Panic,
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self::Application(text)
    }
}

impl StartDeal {
    /// Reads the parameters as Go would: names in any case, missing ones zero, `FastRetrieval` true if
    /// missing.
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let fields = Fields::of(value)?;
        let no_data = json!({});
        let data = Fields::of(fields.get("Data").filter(|data| !data.is_null()).unwrap_or(&no_data))?;
        Ok(Self {
            transfer_type: data.text("TransferType")?,
            root: data.cid("Root")?,
            piece_cid: data.cid("PieceCid")?,
            unpadded_piece_size: data.unsigned("PieceSize")?,
            raw_block_size: data.unsigned("RawBlockSize")?,
            wallet: fields.text("Wallet")?,
            miner: fields.text("Miner")?,
            epoch_price: fields.amount("EpochPrice")?,
            duration: json::signed(fields.unsigned("MinBlocksDuration")?)?,
            provider_collateral: fields.amount("ProviderCollateral")?,
            start_epoch: fields.epoch("DealStartEpoch")?,
            fast_retrieval: fields.flag("FastRetrieval", true)?,
            verified: fields.flag("VerifiedDeal", false)?,
        })
    }
}

impl World {
    /// Builds the proposal in the order of §2.4, steps 1 to 9, without keeping it.
    pub(crate) fn build_proposal(
        &self,
        deal: &StartDeal,
        publication: Publication,
    ) -> Result<Proposal, Refusal> {
        let version = self.config.version;
        if publication == Publication::Stateless {
            if deal.transfer_type != "manual" {
                return Err(format!(
                    "invalid transfer type {} for stateless storage deal",
                    deal.transfer_type
                )
                .into());
            }
            if deal.epoch_price != 0 {
                return Err("stateless storage deals can only be initiated with storage price of 0"
                    .to_owned()
                    .into());
            }
        }
        let client = self.resolve_wallet(&deal.wallet)?;
        let unknown = || "failed getting peer ID: failed to load miner actor: actor not found".to_owned();
        let provider = Address::parse(&deal.miner).map_err(str::to_owned)?;
        let miner = self.miners.get(provider.as_str()).ok_or_else(unknown)?;
        let padded = padded_of(deal.unpadded_piece_size);
        if padded > miner.config.sector_size {
            return Err("data doesn't fit in a sector".to_owned().into());
        }
        let default_delay = if version == LotusVersion::V1_5 { 5880 } else { 8 * EPOCHS_PER_DAY };
        let start_epoch = if deal.start_epoch > 0 { deal.start_epoch } else { self.head() + default_delay };
        let end_epoch = end_epoch(version, start_epoch + deal.duration, miner.config.period_start());
        if miner.config.peer_id.is_none() {
            return Err(Refusal::Panic);
        }

        let prefixed = |text: String| Refusal::Application(format!("failed to start deal: {text}"));
        let Some(root) = deal.root else {
            return Err(prefixed("computing commP failed: data root must be set".to_owned()));
        };
        if publication == Publication::Tracked {
            if self.config.wants_imported_root()
                && !self.client_imports.iter().any(|import| import.root == root)
            {
                return Err(prefixed(format!(
                    "failed to get blockstore for imported root {root}: no client blockstore for root {root}"
                )));
            }
            if deal.transfer_type != "manual" {
                return Err(prefixed(
                    "computing commP failed: this stand-in knows manual transfers only".to_owned(),
                ));
            }
        }
        let Some(piece_cid) = deal.piece_cid.filter(|_cid| deal.unpadded_piece_size > 0) else {
            return Err(prefixed(
                "computing commP failed: Piece CID and size must be set for manual transfer".to_owned(),
            ));
        };
        let provider_collateral = if deal.provider_collateral == 0 {
            let min = self.collateral_min(padded);
            match (publication, version) {
                (Publication::Stateless, _) => min,
                (Publication::Tracked, LotusVersion::V1_5) => min * 2,
                (Publication::Tracked, _) => min * 12 / 10,
            }
        } else {
            deal.provider_collateral
        };
        Ok(Proposal {
            piece_cid,
            padded_piece_size: padded,
            verified: deal.verified,
            client,
            provider,
            label: deal_label(&root, publication == Publication::Stateless),
            start_epoch,
            end_epoch,
            epoch_price: deal.epoch_price,
            provider_collateral,
            root,
            unpadded_piece_size: deal.unpadded_piece_size,
            raw_block_size: deal.raw_block_size,
            fast_retrieval: deal.fast_retrieval,
        })
    }

    /// `StateAccountKey`, then `WalletHas`.
    fn resolve_wallet(&self, wallet: &str) -> Result<Address, String> {
        let failed = |error: &str| {
            if self.config.version == LotusVersion::V1_5 {
                format!("failed resolving params.Wallet addr: %!w({error})")
            } else {
                format!("failed resolving params.Wallet addr ({wallet}): {error}")
            }
        };
        let address = Address::parse(wallet).map_err(failed)?;
        match address.protocol() {
            '1' | '3' => {
                let known = self.wallet(&address).map(|wallet| wallet.address.clone());
                known.ok_or_else(|| "provided address doesn't exist in wallet".to_owned())
            }
            '0' => {
                let known = self.wallet(&address).map(|wallet| wallet.address.clone());
                known.ok_or_else(|| failed("failed to get account actor state: actor not found"))
            }
            _ => Err(failed("address is not a key address")),
        }
    }
}

/// The end epoch of a deal, moved to the last epoch before a proving period (§2.4 step 7).
fn end_epoch(version: LotusVersion, min_expiration: i64, period_start: i64) -> i64 {
    let day = EPOCHS_PER_DAY;
    let mut end = min_expiration + day - min_expiration % day + period_start % day - 1;
    if version != LotusVersion::V1_5 {
        while end < min_expiration {
            end += day;
        }
    }
    end
}

/// The error text for a CID that the client tracks already (§2.4 step 9).
pub(crate) fn already_tracking(cid: &str, state: DealState) -> String {
    let text = if state.is_final() {
        format!("cannot initiate a state for identifier `{cid}` that already exists")
    } else {
        format!("already tracking identifier `{cid}`")
    };
    format!("failed to start deal: setting up deal tracking: Begin: {text}")
}

#[cfg(test)]
mod tests {
    use super::{LotusVersion, end_epoch};

    #[test]
    fn ends_lie_just_before_a_proving_period() {
        for (duration, period) in [(518_400, 0), (518_400, 2879), (518_401, 17), (1_000_000, 1440)] {
            let asked = 993_237 + duration;
            let end = end_epoch(LotusVersion::V1_23, asked, period);
            assert!((0..=5758).contains(&(end - asked)), "{end} for {asked}");
            assert_eq!((end + 1) % 2880, period % 2880);
        }
    }
}
