//! A client's deal proposal: its terms, its CBOR, its CIDs and its JSON.
//!
//! ```text
//! ClientDealProposal = [ DealProposal, signature: type byte ‖ data ]
//! DealProposal       = [ PieceCID, PieceSize, VerifiedDeal, Client, Provider, Label, StartEpoch, EndEpoch,
//!                        StoragePricePerEpoch, ProviderCollateral, ClientCollateral ]
//! ```
//!
//! Source: go-state-types `builtin/v9/market/cbor_gen.go`; CIDs: `deal.go` (unsigned, blake2b-256) and boost
//! v2.5.2 `storagemarket/types/deal_state.go` (signed, sha2-256). The signed CID is not that of the bytes on
//! the wire: go-ipld-cbor `node.go` (`Decode`) decodes and encodes them again, which turns empty byte
//! strings, amounts of zero, into null.

use blake2::Blake2b;
use blake2::digest::consts::U32;
use carferry_car::{PaddedPieceSize, PieceCid};
use cid::multihash::Multihash;
use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::address::Address;

/// Codec of CBOR objects. Source: multicodec table, `dag-cbor`.
const DAG_CBOR: u64 = 0x71;
/// Source: multicodec table, `sha2-256`.
const SHA2_256: u64 = 0x12;
/// Source: multicodec table, `blake2b-256`.
const BLAKE2B_256: u64 = 0xb220;
/// An amount of zero on the wire: an empty byte string.
const ZERO_ON_THE_WIRE: u8 = 0x40;
/// An amount of zero below the signed CID: null.
const ZERO_ENCODED_AGAIN: u8 = 0xf6;
/// Wallet of the default client, a well-formed address without a known key.
const CLIENT: &str = "f1nslxql4pck5pq7hddlzym3orxlx35wkepzjkm3i";

/// An offline deal that a client proposes; see [`BoostSim::propose`](crate::BoostSim::propose).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, as in Boost's own parameters")]
pub struct Proposal {
    /// Piece CID, `baga…`.
    pub piece_cid: String,
    /// Padded piece size in bytes.
    pub piece_size: u64,
    /// Root of the CAR (`DealDataRoot`).
    pub payload_cid: String,
    /// Bytes of the CAR (`Transfer.Size`), which nothing checks.
    pub car_size: u64,
    /// The label; every client writes the root's text.
    pub label: String,
    /// Client's wallet, `f0…`, `f1…` or `f3…`.
    pub client: String,
    /// Provider's address; `None` is the simulator's.
    pub provider: Option<String>,
    /// Start epoch.
    pub start_epoch: i64,
    /// End epoch.
    pub end_epoch: i64,
    /// Whether it is paid with `DataCap`.
    pub verified: bool,
    /// Price per epoch of the whole piece in attoFIL.
    pub price_per_epoch: u128,
    /// Provider's collateral in attoFIL.
    pub provider_collateral: u128,
    /// Whether the data comes by import. `false` is an online deal, whose transfer never starts here.
    pub is_offline: bool,
    /// `!RemoveUnsealedCopy`.
    pub fast_retrieval: bool,
    /// `!SkipIPNIAnnounce`.
    pub announce: bool,
    /// The deal's UUID; `None` makes one.
    pub uuid: Option<String>,
    /// The signature's bytes; `None` makes some up. The type follows from `client`.
    pub signature: Option<Vec<u8>>,
}

impl Proposal {
    /// A free, unverified offline deal that starts at epoch 1010000 and ends 180 days later.
    pub fn new(piece_cid: impl Into<String>, piece_size: u64, payload_cid: impl Into<String>) -> Self {
        let payload_cid = payload_cid.into();
        Self {
            piece_cid: piece_cid.into(),
            piece_size,
            label: payload_cid.clone(),
            payload_cid,
            car_size: 0,
            client: CLIENT.to_owned(),
            provider: None,
            start_epoch: 1_010_000,
            end_epoch: 1_010_000 + 518_400,
            verified: false,
            price_per_epoch: 0,
            provider_collateral: 0,
            is_offline: true,
            fast_retrieval: true,
            announce: true,
            uuid: None,
            signature: None,
        }
    }

    /// Sets start and end: `start`, and 180 days later.
    #[must_use]
    pub fn starting(self, start: i64) -> Self {
        Self { start_epoch: start, end_epoch: start + 518_400, ..self }
    }
}

/// Names of an accepted deal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposed {
    /// The deal's UUID.
    pub uuid: String,
    /// CID of the signed proposal, `bafyrei…`.
    pub signed_proposal_cid: String,
    /// CID of the unsigned proposal, `bafy2bza…`.
    pub proposal_cid: String,
}

/// Parsed terms with their encodings. Nothing here changes after the proposal.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) names: Proposed,
    pub(crate) piece_cid: PieceCid,
    pub(crate) piece_size: PaddedPieceSize,
    pub(crate) payload_cid: String,
    pub(crate) car_size: u64,
    pub(crate) label: String,
    pub(crate) client: Address,
    pub(crate) provider: Address,
    pub(crate) start_epoch: i64,
    pub(crate) end_epoch: i64,
    pub(crate) verified: bool,
    pub(crate) price_per_epoch: u128,
    pub(crate) provider_collateral: u128,
    pub(crate) client_collateral: u128,
    pub(crate) signature: Signature,
}

/// A signature, which nothing checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) kind: u8,
    pub(crate) data: Vec<u8>,
}

impl Signature {
    /// A well-formed signature of a client's key: 65 bytes of type 1 (secp256k1) or 96 bytes of type 2 (BLS).
    pub(crate) fn made_up(client: &Address, seed: &str) -> Self {
        let (kind, length) = if client.is_bls() { (2, 96) } else { (1, 65) };
        let mut data = Vec::with_capacity(length + 32);
        let mut block: [u8; 32] = Sha256::digest(seed.as_bytes()).into();
        while data.len() < length {
            data.extend_from_slice(&block);
            block = Sha256::digest(block).into();
        }
        data.truncate(length);
        // Recovery ids are 0 or 1; compressed points of BLS have their highest bit set.
        if kind == 1 {
            data[64] &= 1;
        } else {
            data[0] |= 0x80;
        }
        Self { kind, data }
    }

    /// The signature of a client's key with these bytes.
    pub(crate) fn of(client: &Address, data: Vec<u8>) -> Self {
        Self { kind: if client.is_bls() { 2 } else { 1 }, data }
    }
}

impl Terms {
    /// Encodes the terms and names them. `names` holds the UUID.
    pub(crate) fn named(mut self) -> Self {
        let unsigned: [u8; 32] = Blake2b::<U32>::digest(self.proposal_cbor(ZERO_ON_THE_WIRE)).into();
        let again = self.proposal_cbor(ZERO_ENCODED_AGAIN);
        let signed: [u8; 32] = Sha256::digest(self.signed_cbor(&again)).into();
        self.names.proposal_cid = cid_text(BLAKE2B_256, &unsigned);
        self.names.signed_proposal_cid = cid_text(SHA2_256, &signed);
        self
    }

    fn proposal_cbor(&self, zero: u8) -> Vec<u8> {
        let mut cbor = Vec::with_capacity(256);
        head(&mut cbor, 4, 11);
        // Tag 42, a byte string with the multibase identity prefix.
        head(&mut cbor, 6, 42);
        let mut link = vec![0];
        link.extend_from_slice(&self.piece_cid.to_bytes());
        bytes(&mut cbor, &link);
        head(&mut cbor, 0, self.piece_size.get());
        cbor.push(if self.verified { 0xf5 } else { 0xf4 });
        bytes(&mut cbor, self.client.bytes());
        bytes(&mut cbor, self.provider.bytes());
        head(&mut cbor, 3, len64(self.label.len()));
        cbor.extend_from_slice(self.label.as_bytes());
        epoch(&mut cbor, self.start_epoch);
        epoch(&mut cbor, self.end_epoch);
        amount(&mut cbor, self.price_per_epoch, zero);
        amount(&mut cbor, self.provider_collateral, zero);
        amount(&mut cbor, self.client_collateral, zero);
        cbor
    }

    fn signed_cbor(&self, proposal: &[u8]) -> Vec<u8> {
        let mut cbor = Vec::with_capacity(proposal.len() + 104);
        head(&mut cbor, 4, 2);
        cbor.extend_from_slice(proposal);
        let mut signature = vec![self.signature.kind];
        signature.extend_from_slice(&self.signature.data);
        bytes(&mut cbor, &signature);
        cbor
    }

    /// `ClientDealProposal` as Go writes it.
    pub(crate) fn json(&self, network_prefix: char) -> Value {
        json!({
            "Proposal": {
                "PieceCID": { "/": self.piece_cid.to_string() },
                "PieceSize": self.piece_size.get(),
                "VerifiedDeal": self.verified,
                "Client": self.client.print(network_prefix),
                "Provider": self.provider.print(network_prefix),
                "Label": self.label,
                "StartEpoch": self.start_epoch,
                "EndEpoch": self.end_epoch,
                "StoragePricePerEpoch": self.price_per_epoch.to_string(),
                "ProviderCollateral": self.provider_collateral.to_string(),
                "ClientCollateral": self.client_collateral.to_string(),
            },
            "ClientSignature": { "Type": self.signature.kind, "Data": BASE64.encode(&self.signature.data) },
        })
    }
}

fn cid_text(hash_code: u64, digest: &[u8; 32]) -> String {
    let hash = Multihash::<64>::wrap(hash_code, digest).expect("32 bytes fit in a multihash of 64");
    cid::Cid::new_v1(DAG_CBOR, hash).to_string()
}

fn len64(length: usize) -> u64 {
    u64::try_from(length).expect("usize fits in u64")
}

/// Major type and number of a CBOR item, in the shortest form.
fn head(cbor: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    let bytes = number.to_be_bytes();
    match number {
        0..24 => cbor.push(major | bytes[7]),
        24..0x100 => cbor.extend_from_slice(&[major | 0x18, bytes[7]]),
        0x100..0x1_0000 => {
            cbor.push(major | 0x19);
            cbor.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            cbor.push(major | 0x1a);
            cbor.extend_from_slice(&bytes[4..]);
        }
        _ => {
            cbor.push(major | 0x1b);
            cbor.extend_from_slice(&bytes);
        }
    }
}

fn bytes(cbor: &mut Vec<u8>, content: &[u8]) {
    head(cbor, 2, len64(content.len()));
    cbor.extend_from_slice(content);
}

/// A signed integer: negative numbers are major type 1 of `-1 - n`.
fn epoch(cbor: &mut Vec<u8>, epoch: i64) {
    match u64::try_from(epoch) {
        Ok(number) => head(cbor, 0, number),
        Err(_negative) => head(cbor, 1, (-1 - epoch).unsigned_abs()),
    }
}

/// A big integer: `zero`, or a sign byte and the big-endian bytes without leading zeros.
fn amount(cbor: &mut Vec<u8>, amount: u128, zero: u8) {
    if amount == 0 {
        return cbor.push(zero);
    }
    let big_endian = amount.to_be_bytes();
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let mut content = vec![0];
    content.extend_from_slice(&big_endian[zeros..]);
    bytes(cbor, &content);
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};

    use super::*;

    fn terms(client: &str, signature: Signature) -> Terms {
        Terms {
            names: Proposed {
                uuid: String::new(),
                signed_proposal_cid: String::new(),
                proposal_cid: String::new(),
            },
            piece_cid: "baga6ea4seaqljpr2zka2grts5daj5yetmo7qzaoirs2qg6uvasniwndhncheicq".parse().unwrap(),
            piece_size: PaddedPieceSize::new(1_048_576).unwrap(),
            payload_cid: String::new(),
            car_size: 0,
            label: "bafk2bzacecl5kkvujj4tsanzmqbwkhhe7fntltv3zkm5zv2c3x6gsarj47n5a".to_owned(),
            client: Address::parse(client).unwrap(),
            provider: Address::parse("f01000").unwrap(),
            start_epoch: 5000,
            end_epoch: 523_400,
            verified: false,
            price_per_epoch: 0,
            provider_collateral: 0,
            client_collateral: 0,
            signature,
        }
    }

    /// A deal that Boost v2.5.2 accepted from its own client.
    #[test]
    fn encoding_and_signed_cid_agree_with_boost() {
        let data = BASE64
            .decode(
                b"pSoTJs+T0J+WyhcxSaW3vO6n5MG645c8XPySteW8fc9GD7Ad+nNUxrcoY+YKC5/zDp9L+AG+6eY3yyig+IBD8CkDB7ofl2HO\
                  tYPk6JSglgf3bvis3GzE5Rs7QZQ02zaS",
            )
            .unwrap();
        let client = "f3wnkkjtd2mhkrsahyn7b3ikm67hrnwjtheqbfahlfvezujja3m64srznf4ordef33moa4c5ju7qymgvja2sea";
        let terms = terms(client, Signature { kind: 2, data }).named();
        assert_eq!(
            HEXLOWER.encode(&terms.proposal_cbor(ZERO_ON_THE_WIRE)),
            "8bd82a5828000181e203922020b4be3aca81a34672e8c09ee09363bf0c81c88cb5037a95049a8b3467688e440a1a00100000f4\
             583103b354a4cc7a61d51900f86fc3b4299ef9e2db26672402501d65a93344a41b67b928e5a5e3a232177b6381c17534fc30c34\
             300e807783e6261666b32627a616365636c356b6b76756a6a347473616e7a6d7162776b68686537666e746c7476337a6b6d357a\
             763263337836677361726a34376e35611913881a0007fc88404040"
        );
        assert_eq!(
            terms.names.signed_proposal_cid,
            "bafyreifaup5ife46gv6xse2yi4wlqwvo7dam62huz5m5xgxxfgabzl5huq"
        );
    }

    #[test]
    fn amounts_have_a_sign_byte_and_no_leading_zeros() {
        for (number, expected) in [(0, "40"), (1, "420001"), (255, "4200ff"), (256, "43000100")] {
            let mut cbor = Vec::new();
            amount(&mut cbor, number, ZERO_ON_THE_WIRE);
            assert_eq!(HEXLOWER.encode(&cbor), expected, "{number}");
        }
        let mut cbor = Vec::new();
        epoch(&mut cbor, -1);
        assert_eq!(cbor, [0x20]);
    }

    #[test]
    fn made_up_signatures_are_well_formed() {
        for (client, kind, length) in [("f01000", 1, 65), (CLIENT, 1, 65)] {
            let signature = Signature::made_up(&Address::parse(client).unwrap(), "seed");
            assert_eq!((signature.kind, signature.data.len()), (kind, length));
            assert!(signature.data[64] < 2);
        }
    }
}
