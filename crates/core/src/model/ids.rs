//! Identifiers of deals: proposal CID, number on chain, intent.

use std::fmt;
use std::str::FromStr;

use carferry_car::PayloadCid;

/// CID of a signed deal proposal, the deal's key at client and provider: always `CIDv1`, dag-cbor, sha2-256
/// (`bafyrei…`). Source: lotus-contract, go-fil-markets v1.28.3 `storagemarket/impl/client.go`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalCid(String);

/// A text that is not a proposal CID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a deal proposal CID (bafyrei…)")]
pub struct ParseProposalCidError {
    shown: String,
}

impl ProposalCid {
    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProposalCid {
    type Err = ParseProposalCidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The prototype stored whole stderr texts here, so what is shown is cut.
        let refuse = || ParseProposalCidError { shown: text.chars().take(80).collect() };
        let cid = PayloadCid::from_str(text).map_err(|_| refuse())?;
        let bytes = cid.to_bytes();
        // CIDv1, dag-cbor (0x71), sha2-256 (0x12) of 32 bytes.
        if bytes.get(..4) == Some(&[0x01, 0x71, 0x12, 0x20]) && bytes.len() == 36 {
            Ok(Self(cid.to_string()))
        } else {
            Err(refuse())
        }
    }
}

impl fmt::Display for ProposalCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of a deal on chain; a deal has one from the moment its publish message lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DealId(u64);

impl DealId {
    /// Lotus writes 0 for "not published yet".
    pub fn from_lotus(number: u64) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// As stored.
    pub fn stored(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for DealId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Key of an intent: the payload CID and the number of this proposal among all ever intended for it.
///
/// The number keeps two agents apart that plan at the same moment: each reads all intents of the payload,
/// decides, and inserts the next number, and the second insert fails on `_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IntentId(String);

impl IntentId {
    /// The id of the `number`-th proposal for this payload, counted from 1.
    pub fn new(payload_cid: &PayloadCid, number: u32) -> Self {
        Self(format!("{payload_cid}#{number}"))
    }

    /// As stored in `_id`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From a stored `_id`.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposal_cid_accepts_only_dag_cbor_sha2() {
        let good = "bafyreifb6bdckjoyblin6e4urbgnfvl5yykxoeo5odb5xmk53eo2xes4ta";
        assert_eq!(good.parse::<ProposalCid>().unwrap().to_string(), good);
        for bad in [
            "",
            "bafkqaaa",
            "bafykbzaceaj5kyurab6bohchm3ivyj27ixhpfg5nvrlrrwzlmvytkbitlbf3w",
            "ERROR: failed to start deal: actor not found",
        ] {
            assert!(bad.parse::<ProposalCid>().is_err(), "{bad}");
        }
    }
}
