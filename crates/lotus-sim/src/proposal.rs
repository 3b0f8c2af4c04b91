//! Deal proposals and the encoding whose hash is the proposal CID.
//!
//! What does not live here: how parameters of a call become a proposal (`start_deal`).

use serde_json::{Value, json};

use crate::ids::{Address, Cid, cid_json, sha256};

/// The terms of a deal, and its data reference.
#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) piece_cid: Cid,
    pub(crate) padded_piece_size: u64,
    pub(crate) verified: bool,
    pub(crate) client: Address,
    pub(crate) provider: Address,
    pub(crate) label: String,
    pub(crate) start_epoch: i64,
    pub(crate) end_epoch: i64,
    pub(crate) epoch_price: i128,
    pub(crate) provider_collateral: i128,
    pub(crate) root: Cid,
    pub(crate) unpadded_piece_size: u64,
    pub(crate) raw_block_size: u64,
    pub(crate) fast_retrieval: bool,
}

impl Proposal {
    /// `CIDv1`, dag-cbor, sha2-256 of `[proposal, signature]`: equal terms have equal CIDs.
    pub(crate) fn cid(&self) -> String {
        let mut bytes = vec![0x82, 0x8b];
        cbor_cid(&mut bytes, &self.piece_cid);
        cbor_head(&mut bytes, 0, self.padded_piece_size);
        bytes.push(if self.verified { 0xf5 } else { 0xf4 });
        cbor_bytes(&mut bytes, self.client.as_str().as_bytes());
        cbor_bytes(&mut bytes, self.provider.as_str().as_bytes());
        cbor_head(&mut bytes, 3, length(self.label.as_bytes()));
        bytes.extend_from_slice(self.label.as_bytes());
        cbor_int(&mut bytes, self.start_epoch);
        cbor_int(&mut bytes, self.end_epoch);
        cbor_amount(&mut bytes, self.epoch_price);
        cbor_amount(&mut bytes, self.provider_collateral);
        cbor_amount(&mut bytes, 0);
        cbor_bytes(&mut bytes, &self.signature());
        let hash = cid::multihash::Multihash::wrap(0x12, &sha256(&bytes)).expect("32 bytes fit");
        Cid::new_v1(0x71, hash).to_string()
    }

    /// Placeholder of a signature; the same for the same terms, as BLS signatures are.
    pub(crate) fn signature(&self) -> Vec<u8> {
        let seed = format!("{} {} {}", self.client.as_str(), self.label, self.start_epoch);
        [sha256(seed.as_bytes()), sha256(&sha256(seed.as_bytes())), [1; 32]].concat()[..65].to_vec()
    }

    /// `DataRef`.
    pub(crate) fn data_ref(&self) -> Value {
        json!({
            "TransferType": "manual",
            "Root": cid_json(&self.root),
            "PieceCid": cid_json(&self.piece_cid),
            "PieceSize": self.unpadded_piece_size,
            "RawBlockSize": self.raw_block_size,
        })
    }

    /// Price for the whole duration.
    pub(crate) fn total_price(&self) -> i128 {
        self.epoch_price * i128::from(self.end_epoch - self.start_epoch)
    }
}

/// `PieceSize.Padded()`: no check, as in Lotus.
pub(crate) fn padded_of(unpadded: u64) -> u64 {
    unpadded.saturating_add(unpadded / 127)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("usize fits in u64")
}

fn cbor_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    let bytes = value.to_be_bytes();
    match value {
        0..=23 => out.push(major | bytes[7]),
        24..=0xff => out.extend_from_slice(&[major | 0x18, bytes[7]]),
        0x100..=0xffff => {
            out.push(major | 0x19);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 0x1a);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 0x1b);
            out.extend_from_slice(&bytes);
        }
    }
}

fn cbor_int(out: &mut Vec<u8>, value: i64) {
    match u64::try_from(value) {
        Ok(value) => cbor_head(out, 0, value),
        Err(_negative) => cbor_head(out, 1, value.unsigned_abs() - 1),
    }
}

fn cbor_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    cbor_head(out, 2, length(bytes));
    out.extend_from_slice(bytes);
}

fn cbor_cid(out: &mut Vec<u8>, cid: &Cid) {
    out.extend_from_slice(&[0xd8, 0x2a]);
    cbor_bytes(out, &[&[0][..], &cid.to_bytes()].concat());
}

/// A big integer: sign byte and magnitude, nothing for zero.
fn cbor_amount(out: &mut Vec<u8>, amount: i128) {
    let magnitude: Vec<u8> =
        amount.unsigned_abs().to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    if magnitude.is_empty() {
        cbor_bytes(out, &[]);
    } else {
        cbor_bytes(out, &[&[u8::from(amount < 0)][..], &magnitude].concat());
    }
}

#[cfg(test)]
mod tests {
    use super::{cbor_head, cbor_int, padded_of};

    #[test]
    fn paddings_are_those_of_the_contract() {
        for (unpadded, padded) in [(2032, 2048), (34_091_302_912, 34_359_738_368), (2048, 2064), (127, 128)] {
            assert_eq!(padded_of(unpadded), padded, "{unpadded}");
        }
    }

    #[test]
    fn numbers_encode_shortest() {
        for (value, expected) in [
            (23, vec![0x17]),
            (24, vec![0x18, 24]),
            (256, vec![0x19, 1, 0]),
            (65_536, vec![0x1a, 0, 1, 0, 0]),
        ] {
            let mut bytes = Vec::new();
            cbor_head(&mut bytes, 0, value);
            assert_eq!(bytes, expected, "{value}");
        }
        let mut bytes = Vec::new();
        cbor_int(&mut bytes, -1);
        assert_eq!(bytes, [0x20]);
    }
}
