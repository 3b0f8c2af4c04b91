//! Parses and prints addresses, CIDs, peer ids, labels and times as Go does.

use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A CID with digests of up to 128 bytes: Lotus inlines roots of up to 126 bytes, and the `cid` crate's own
/// type ends at 64.
pub(crate) type Cid = cid::CidGeneric<128>;

/// attoFIL in a FIL.
pub const ATTO_PER_FIL: u128 = 1_000_000_000_000_000_000;

/// SHA-256 in one call.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A random number, without cryptographic strength.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// A random UUID (version 4).
pub fn uuid() -> String {
    let high = random_u64() & 0xffff_ffff_ffff_0fff | 0x4000;
    let low = random_u64() & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// A well-formed libp2p peer id derived from a name: an ed25519 key (`12D3Koo…`) without a private key.
pub fn peer_id(name: &str) -> String {
    let mut bytes = vec![0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    bytes.extend_from_slice(&sha256(name.as_bytes()));
    base58(&bytes)
}

fn base58(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits: Vec<u32> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 58;
            carry /= 58;
        }
        while carry > 0 {
            digits.push(carry % 58);
            carry /= 58;
        }
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let letter =
        |digit: &u32| char::from(ALPHABET[usize::try_from(*digit).expect("a base58 digit is below 58")]);
    std::iter::repeat_n('1', zeros).chain(digits.iter().rev().map(letter)).collect()
}

/// An address of the Filecoin network, kept with the `f` prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address(String);

impl Address {
    /// Parses `f…` or `t…` without checking the checksum. Error texts are go-address's.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut letters = text.chars();
        if !matches!(letters.next(), Some('f' | 't')) {
            return Err("unknown address network");
        }
        let Some(protocol) = letters.next() else { return Err("invalid address length") };
        let rest = letters.as_str();
        match protocol {
            '0' if rest.is_empty() || rest.len() > 20 => Err("invalid address length"),
            '0' if !rest.bytes().all(|byte| byte.is_ascii_digit()) => Err("invalid address payload"),
            '0' => Ok(Self(format!("f0{rest}"))),
            '1'..='4' if rest.len() < 6 => Err("invalid address length"),
            '1'..='4' if !rest.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')) => {
                Err("invalid address payload")
            }
            '1'..='4' => Ok(Self(format!("f{protocol}{rest}"))),
            _ => Err("unknown address protocol"),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Prints the address with the prefix of a network.
    pub(crate) fn print(&self, network_prefix: char) -> String {
        format!("{network_prefix}{}", &self.0[1..])
    }

    pub(crate) fn protocol(&self) -> char {
        self.0.chars().nth(1).unwrap_or('0')
    }
}

/// `{"/": "bafy…"}`.
pub(crate) fn cid_json(cid: &Cid) -> Value {
    json!({ "/": cid.to_string() })
}

/// Reads `{"/": "bafy…"}`; `None` for `null`.
pub(crate) fn cid_from_json(value: &Value) -> Result<Option<Cid>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let Some(link) = value.as_object().and_then(|object| object.get("/")) else {
        return Err("cid was incorrectly formatted".to_owned());
    };
    match link.as_str() {
        None | Some("") => Err("cid was incorrectly formatted".to_owned()),
        Some(text) => Cid::from_str(text).map(Some).map_err(|error| format!("invalid cid: {error}")),
    }
}

/// The label of a deal: the root as multibase base64 (`m`, or `u` for stateless deals), base58 for version 0.
pub(crate) fn deal_label(root: &Cid, url_safe: bool) -> String {
    let bytes = root.to_bytes();
    if root.version() == cid::Version::V0 {
        root.to_string()
    } else if url_safe {
        format!("u{}", BASE64URL_NOPAD.encode(&bytes))
    } else {
        format!("m{}", BASE64_NOPAD.encode(&bytes))
    }
}

/// A CID derived from a name, for messages and tipsets that do not exist: `CIDv1`, dag-cbor, blake2b-256.
pub fn made_up_cid(name: &str) -> String {
    let mut bytes = vec![0x01, 0x71, 0xa0, 0xe4, 0x02, 0x20];
    bytes.extend_from_slice(&sha256(name.as_bytes()));
    format!("b{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// RFC 3339 with nanoseconds and the node's zone offset; Go drops trailing zeros of the fraction.
///
/// # Panics
///
/// Never: seconds since 1970 fit in 63 bits.
pub fn rfc3339(time: SystemTime, offset_minutes: i16) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let utc = i64::try_from(since.as_secs()).expect("seconds since 1970 fit in i64");
    let local = utc + i64::from(offset_minutes) * 60;
    let (days, seconds) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    // Days to civil date: Howard Hinnant's algorithm, in eras of 400 years counted from 1 March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let fraction = match since.subsec_nanos() {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    let zone = if offset_minutes == 0 {
        "Z".to_owned()
    } else {
        let sign = if offset_minutes < 0 { '-' } else { '+' };
        let minutes = offset_minutes.unsigned_abs();
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    };
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}{zone}",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_go_prints_them() {
        let time = UNIX_EPOCH + Duration::new(1_602_571_004, 459_562_122);
        assert_eq!(rfc3339(time, 480), "2020-10-13T14:36:44.459562122+08:00");
        assert_eq!(rfc3339(time, 0), "2020-10-13T06:36:44.459562122Z");
        assert_eq!(
            rfc3339(UNIX_EPOCH + Duration::new(951_782_400, 500_000_000), -90),
            "2000-02-28T22:30:00.5-01:30"
        );
    }

    #[test]
    fn addresses_of_both_networks_are_the_same() {
        assert_eq!(Address::parse("t01000"), Address::parse("f01000"));
        assert_eq!(Address::parse("f01000").unwrap().print('t'), "t01000");
        for (text, error) in [
            ("x01", "unknown address network"),
            ("f9abc", "unknown address protocol"),
            ("f0", "invalid address length"),
            ("f0x", "invalid address payload"),
            ("f1AAAAAAAA", "invalid address payload"),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn inlined_roots_are_cids() {
        // CIDv1, dag-pb, identity, 126 bytes: the longest root that Lotus inlines.
        let bytes = [[0x01, 0x70, 0x00, 126].as_slice(), &[7; 126]].concat();
        let text = format!("b{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase());
        let root = cid_from_json(&json!({ "/": text })).unwrap().unwrap();
        assert_eq!((cid_json(&root), root.to_bytes()), (json!({ "/": text }), bytes));
    }

    #[test]
    fn peer_ids_look_like_ed25519_keys() {
        let id = peer_id("f01000");
        assert!(id.starts_with("12D3KooW") && id.len() == 52, "{id}");
    }

    #[test]
    fn uuids_have_version_and_variant() {
        let uuid = uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
    }
}
