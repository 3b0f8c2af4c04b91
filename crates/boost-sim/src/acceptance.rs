//! Proposals: validation, uniqueness, and the record of an accepted deal.
//!
//! Source: boost v2.5.2 `storagemarket/deal_acceptance.go` and `provider_loop.go`, in their order. Not
//! checked here: signatures, collateral bounds, the client's escrow and `DataCap`.

use std::sync::Arc;
use std::time::SystemTime;

use carferry_car::{PaddedPieceSize, PieceCid};

use crate::address::Address;
use crate::proposal::{Proposal, Proposed, Signature, Terms};
use crate::record::{Checkpoint, ClientPeer, Record, Retry, SectorPlace, client_peer_id, go_time_text};
use crate::version::BoostVersion;
use crate::world::World;

/// Source: boost v2.5.2 `storagemarket/deal_acceptance.go` `DealMaxLabelSize`.
const LABEL_BYTES_MAX: usize = 256;
/// Source: go-state-types `builtin/v9/market/policy.go`: 180 days.
const DURATION_MIN: i64 = 518_400;

/// Accepts a proposal, or returns the reason of its rejection.
pub(crate) fn accept(world: &mut World, proposal: &Proposal, peer: ClientPeer) -> Result<Proposed, String> {
    let terms = validated(world, proposal).map_err(|reason| format!("failed validation: {reason}"))?;
    if let Some(reason) = not_unique(world, &terms.names) {
        // The rejection closes the handler of the proposal's UUID, whose deal may be running.
        let running = world.store.by_uuid(&terms.names.uuid).map(|deal| deal.index);
        if let Some(index) = running.filter(|_index| proposal.is_offline) {
            world.close_handler(index);
        }
        return Err(reason);
    }
    let names = terms.names.clone();
    let now = SystemTime::now();
    let prefix = world.config.network_prefix;
    let searchable = [
        names.uuid.clone(),
        names.signed_proposal_cid.clone(),
        terms.piece_cid.to_string(),
        terms.client.print(prefix),
        terms.provider.print(prefix),
        client_peer_id(),
        terms.payload_cid.clone(),
        terms.label.clone(),
    ];
    let record = Record {
        index: world.store.len(),
        terms: Arc::new(terms),
        created_at: now,
        is_offline: proposal.is_offline,
        cleanup_data: !proposal.is_offline,
        fast_retrieval: proposal.fast_retrieval,
        announce: proposal.announce,
        client_peer: peer,
        inbound_file_path: String::new(),
        chain_deal_id: 0,
        publish_cid: None,
        place: SectorPlace::default(),
        checkpoint: Checkpoint::Accepted,
        checkpoint_at: now,
        err: String::new(),
        retry: Retry::Auto,
    };
    world.store.insert(record, searchable);
    Ok(names)
}

fn not_unique(world: &World, names: &Proposed) -> Option<String> {
    if let Some(deal) = world.store.by_signed_cid(&names.signed_proposal_cid) {
        let at = go_time_text(deal.created_at);
        return Some(format!("deal proposal is identical to deal {} (proposed at {at})", deal.uuid()));
    }
    let deal = world.store.by_uuid(&names.uuid)?;
    let at = go_time_text(deal.created_at);
    Some(format!("deal has the same uuid as deal {} (proposed at {at})", deal.uuid()))
}

fn validated(world: &World, proposal: &Proposal) -> Result<Terms, String> {
    if proposal.piece_cid.is_empty() {
        return Err("proposal PieceCID undefined".to_owned());
    }
    let client = Address::parse(&proposal.client).map_err(str::to_owned)?;
    let provider = match &proposal.provider {
        Some(text) => Address::parse(text).map_err(str::to_owned)?,
        None => world.miner.clone(),
    };
    if provider != world.miner {
        let prefix = world.config.network_prefix;
        return Err(format!(
            "incorrect provider for deal; proposal.Provider: {}; provider.Address: {}",
            provider.print(prefix),
            world.miner.print(prefix)
        ));
    }
    if proposal.label.len() > LABEL_BYTES_MAX {
        let length = proposal.label.len();
        return Err(format!("deal label can be at most {LABEL_BYTES_MAX} bytes, is {length}"));
    }
    let piece_size = PaddedPieceSize::new(proposal.piece_size).map_err(|_error| {
        let rule = if proposal.piece_size < 128 {
            "minimum piece size is 128 bytes"
        } else {
            "padded piece size must be a power of 2"
        };
        format!("proposal piece size is invalid: {rule}")
    })?;
    let piece_cid: PieceCid =
        proposal.piece_cid.parse().map_err(|_error| "proposal PieceCID had wrong prefix".to_owned())?;
    check_epochs(world, proposal)?;
    check_ask(world, proposal)?;
    let uuid = proposal.uuid.clone().unwrap_or_else(lotus_sim::uuid);
    let signature = match &proposal.signature {
        Some(data) => Signature::of(&client, data.clone()),
        None => Signature::made_up(&client, &uuid),
    };
    let terms = Terms {
        names: Proposed { uuid, signed_proposal_cid: String::new(), proposal_cid: String::new() },
        piece_cid,
        piece_size,
        payload_cid: proposal.payload_cid.clone(),
        car_size: proposal.car_size,
        label: proposal.label.clone(),
        client,
        provider,
        start_epoch: proposal.start_epoch,
        end_epoch: proposal.end_epoch,
        verified: proposal.verified,
        price_per_epoch: proposal.price_per_epoch,
        provider_collateral: proposal.provider_collateral,
        client_collateral: 0,
        signature,
    };
    Ok(terms.named())
}

fn check_epochs(world: &World, proposal: &Proposal) -> Result<(), String> {
    let (start, end, height) = (proposal.start_epoch, proposal.end_epoch, world.head());
    if end <= start {
        return Err(format!("proposal end {end} before proposal start {start}"));
    }
    if height > start {
        return Err(format!("deal start epoch {start} has already elapsed (current epoch: {height})"));
    }
    // Source: go-state-types policies of builtin v9 (540 days) and v12 (1278 days);
    // MaxSectorExpirationExtension.
    let max = if world.config.version >= BoostVersion::V2_1_2 { 3_680_640 } else { 1_555_200 };
    let duration = end - start;
    if !(DURATION_MIN..=max).contains(&duration) {
        return Err(format!(
            "deal duration out of bounds (min, max, provided): {DURATION_MIN}, {max}, {duration}"
        ));
    }
    if end > height + max {
        return Err(format!(
            "invalid deal end epoch {end}: cannot be more than {max} past current epoch {height}"
        ));
    }
    Ok(())
}

fn check_ask(world: &World, proposal: &Proposal) -> Result<(), String> {
    let ask = &world.config.ask;
    let per_gib = if proposal.verified { ask.verified_price } else { ask.price };
    let (price, least) = (proposal.price_per_epoch, (per_gib * u128::from(proposal.piece_size)) >> 30);
    if price < least {
        return Err(format!("storage price per epoch less than asking price: {price} < {least}"));
    }
    let (size, min, max) = (proposal.piece_size, ask.min_piece_size, ask.max_piece_size);
    if size < min {
        return Err(format!("piece size less than minimum required size: {size} < {min}"));
    }
    if size > max {
        return Err(format!("piece size more than maximum allowed size: {size} > {max}"));
    }
    Ok(())
}
