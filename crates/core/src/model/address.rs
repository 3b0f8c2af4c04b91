//! Filecoin addresses: f0 (actor number), f1, f2, f3 (hashes and keys), f4 (delegated).
//!
//! ```text
//! text   network  protocol  payload
//!        f | t    0         decimal actor number below 2^63
//!        f | t    1 | 2     base32(20 bytes ‖ checksum)
//!        f | t    3         base32(48 bytes ‖ checksum)
//!        f | t    4         decimal namespace ‖ f ‖ base32(≤ 54 bytes ‖ checksum)
//! bytes  protocol ‖ payload, where numbers are LEB128
//! ```
//!
//! The checksum is blake2b with 4 bytes over the byte form; base32 is lower case without padding.
//! Accepts what go-address v1.1.0 accepts (the one of lotus v1.23.3), except the empty address, which
//! go-address takes for "undefined". Whether an address exists on chain is the node's to say.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use blake2::digest::consts::U4;
use blake2::{Blake2b, Digest};
use data_encoding::BASE32_NOPAD;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// Source: go-address v1.1.0 `constants.go`, as all limits here.
const TEXT_LENGTH_MAX: usize = 115;
const HASH_BYTES: usize = 20;
const BLS_KEY_BYTES: usize = 48;
const SUBADDRESS_BYTES_MAX: usize = 54;
const CHECKSUM_BYTES: usize = 4;
const NUMBER_DIGITS_MAX: usize = 19;

/// The first letter of an address. Main and test networks share addresses; only their texts differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// `f`
    Main,
    /// `t`
    Test,
}

impl Network {
    /// The letter.
    pub fn prefix(self) -> char {
        match self {
            Self::Main => 'f',
            Self::Test => 't',
        }
    }
}

/// Why text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a Filecoin address: {problem}")]
pub struct AddressError {
    text: String,
    problem: AddressProblem,
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressProblem {
    /// Too short or too long.
    #[error("wrong length")]
    Length,
    /// The first letter.
    #[error("it begins with neither f nor t")]
    Network,
    /// The second letter.
    #[error("the second character is none of 0 to 4")]
    Protocol,
    /// The number of an f0 address or the namespace of an f4 address.
    #[error("bad number")]
    Number,
    /// Not base32.
    #[error("bad characters or a cut end")]
    Encoding,
    /// A payload of the wrong size for its protocol.
    #[error("wrong length of the payload")]
    Payload,
    /// A mistyped address.
    #[error("the checksum does not match")]
    Checksum,
    /// Any other address where an actor number is needed.
    #[error("a miner is written with its number, such as f01000")]
    NotAMiner,
}

impl AddressError {
    /// What is wrong.
    pub fn problem(&self) -> AddressProblem {
        self.problem
    }

    fn new(text: &str, problem: AddressProblem) -> Self {
        // A long text that was pasted instead of an address must not fill the screen.
        let text = text.chars().take(TEXT_LENGTH_MAX).collect();
        Self { text, problem }
    }
}

/// A wallet (or any other) address in its canonical text. Equal are those of equal bytes, whatever the
/// network's letter.
#[derive(Clone, Debug)]
pub struct WalletAddress {
    network: Network,
    bytes: Vec<u8>,
}

impl WalletAddress {
    /// The number after the network's letter: 0 to 4.
    pub fn protocol(&self) -> u8 {
        self.bytes.first().copied().unwrap_or_default()
    }

    /// The network's letter as written.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Protocol and payload, as on chain.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl FromStr for WalletAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|problem| AddressError::new(text, problem))
    }
}

impl fmt::Display for WalletAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.network.prefix(), self.protocol())?;
        let payload = self.bytes.get(1..).unwrap_or_default();
        let mut encoded = match self.protocol() {
            0 => return write!(f, "{}", read_leb128(payload).map_or(0, |(number, _)| number)),
            4 => {
                let (namespace, subaddress) = read_leb128(payload).unwrap_or((0, payload));
                write!(f, "{namespace}f")?;
                subaddress.to_vec()
            }
            _ => payload.to_vec(),
        };
        encoded.extend_from_slice(&checksum(&self.bytes));
        f.write_str(&BASE32_NOPAD.encode(&encoded).to_ascii_lowercase())
    }
}

impl PartialEq for WalletAddress {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for WalletAddress {}

impl PartialOrd for WalletAddress {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WalletAddress {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl Hash for WalletAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

/// A storage provider by its actor number. Its one text is `f0<number>`: nodes of test networks print
/// `t01000`, people write either and sometimes leading zeros, and all of them mean the same actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MinerId {
    actor: u64,
}

impl MinerId {
    /// Leading zeros that queries look for: what people have typed, not all that an address may carry.
    const LEADING_ZEROS_MAX: usize = 2;

    /// The actor number.
    pub fn actor(self) -> u64 {
        self.actor
    }

    /// Every text by which records may name this miner, the canonical one first.
    pub fn spellings(self) -> Vec<String> {
        let zeros = (0..=Self::LEADING_ZEROS_MAX).map(|count| "0".repeat(count));
        zeros.flat_map(|zeros| ["f", "t"].map(|letter| format!("{letter}0{zeros}{}", self.actor))).collect()
    }

    /// A stored text in its canonical form; what is no miner's ID stays as it is.
    pub fn canonical(text: &str) -> String {
        text.trim().parse::<Self>().map_or_else(|_| text.to_owned(), |miner| miner.to_string())
    }
}

impl FromStr for MinerId {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address: WalletAddress = text.parse()?;
        match (address.protocol(), address.bytes.get(1..).and_then(read_leb128)) {
            (0, Some((actor, _))) => Ok(Self { actor }),
            _ => Err(AddressError::new(text, AddressProblem::NotAMiner)),
        }
    }
}

impl From<MinerId> for WalletAddress {
    fn from(miner: MinerId) -> Self {
        Self { network: Network::Main, bytes: numbered(0, miner.actor) }
    }
}

impl fmt::Display for MinerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f0{}", self.actor)
    }
}

impl Serialize for WalletAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WalletAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for MinerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MinerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn parse(text: &str) -> Result<WalletAddress, AddressProblem> {
    if text.len() < 3 || text.len() > TEXT_LENGTH_MAX {
        return Err(AddressProblem::Length);
    }
    let network = match text.as_bytes().first() {
        Some(b'f') => Network::Main,
        Some(b't') => Network::Test,
        _ => return Err(AddressProblem::Network),
    };
    let rest = text.get(2..).ok_or(AddressProblem::Protocol)?;
    let bytes = match text.as_bytes().get(1) {
        Some(b'0') => numbered(0, number(rest)?),
        Some(b'1') => checked(vec![1], rest, |payload| payload == HASH_BYTES)?,
        Some(b'2') => checked(vec![2], rest, |payload| payload == HASH_BYTES)?,
        Some(b'3') => checked(vec![3], rest, |payload| payload == BLS_KEY_BYTES)?,
        Some(b'4') => {
            let (namespace, subaddress) = rest.split_once('f').ok_or(AddressProblem::Payload)?;
            checked(numbered(4, number(namespace)?), subaddress, |payload| payload <= SUBADDRESS_BYTES_MAX)?
        }
        _ => return Err(AddressProblem::Protocol),
    };
    Ok(WalletAddress { network, bytes })
}

/// Decodes payload and checksum, appends the payload to `head` and checks the whole.
fn checked(
    mut head: Vec<u8>,
    encoded: &str,
    right_length: impl Fn(usize) -> bool,
) -> Result<Vec<u8>, AddressProblem> {
    if encoded.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err(AddressProblem::Encoding);
    }
    let decoded =
        BASE32_NOPAD.decode(encoded.to_ascii_uppercase().as_bytes()).map_err(|_| AddressProblem::Encoding)?;
    let payload_bytes = decoded.len().checked_sub(CHECKSUM_BYTES).ok_or(AddressProblem::Length)?;
    let (payload, written_checksum) = decoded.split_at(payload_bytes);
    if !right_length(payload_bytes) {
        return Err(AddressProblem::Payload);
    }
    head.extend_from_slice(payload);
    if checksum(&head) == written_checksum { Ok(head) } else { Err(AddressProblem::Checksum) }
}

/// Decimal digits below 2^63; leading zeros count as none.
fn number(text: &str) -> Result<u64, AddressProblem> {
    let all_digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !all_digits || text.len() > NUMBER_DIGITS_MAX {
        return Err(AddressProblem::Number);
    }
    text.parse().ok().filter(|number| i64::try_from(*number).is_ok()).ok_or(AddressProblem::Number)
}

fn numbered(protocol: u8, mut number: u64) -> Vec<u8> {
    let mut bytes = vec![protocol];
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// The number and what follows it.
fn read_leb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate() {
        let shift = u32::try_from(index).ok()?.checked_mul(7)?;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(index + 1..)?));
        }
    }
    None
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    Blake2b::<U4>::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        r#in: String,
        valid: bool,
        bytes: Option<String>,
        protocol: Option<u8>,
    }

    #[test]
    fn published_addresses_are_read_as_go_address_reads_them() {
        let text = include_str!("../../tests/vectors/addresses.json");
        let vectors = serde_json::from_str::<Vectors>(text).unwrap().vectors;
        assert_eq!(vectors.len(), 72);
        for vector in vectors {
            let parsed = vector.r#in.parse::<WalletAddress>();
            assert_eq!(parsed.is_ok(), vector.valid, "{:?}: {parsed:?}", vector.r#in);
            if let Ok(address) = parsed {
                assert_eq!(Some(HEXLOWER.encode(address.as_bytes())), vector.bytes, "{}", vector.r#in);
                assert_eq!(Some(address.protocol()), vector.protocol, "{}", vector.r#in);
                let printed = address.to_string();
                // Only leading zeros of an actor number are not printed again.
                let leading_zeros = address.protocol() == 0 && vector.r#in.len() > printed.len();
                assert!(printed == vector.r#in || leading_zeros, "{} {printed}", vector.r#in);
                assert_eq!(printed.parse::<WalletAddress>().unwrap(), address);
            }
        }
    }

    #[test]
    fn a_miner_has_one_text_however_it_was_written() {
        let miner: MinerId = "f010035".parse().unwrap();
        for written in ["f010035", "t010035", "f0010035", "t00010035"] {
            let read: MinerId = written.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (miner, "f010035"), "{written}");
            assert_eq!(MinerId::canonical(written), "f010035");
            assert!(miner.spellings().iter().any(|spelling| spelling == written), "{written}");
        }
        assert_eq!(MinerId::canonical(" t010035 "), "f010035");
        for other in ["", "miner", "f0", "t410fmjq"] {
            assert_eq!(MinerId::canonical(other), other);
        }
        assert!(miner > "f09999".parse().unwrap());
        assert_eq!(WalletAddress::from(miner).to_string(), "f010035");
        assert_eq!(serde_json::to_string(&miner).unwrap(), "\"f010035\"");
        assert_eq!(serde_json::from_str::<MinerId>("\"t010035\"").unwrap(), miner);
    }

    #[test]
    fn refusals_name_the_text_and_the_problem() {
        let cases = [
            ("f15ihq5ibzwki2b4ep2f46avlkrqzhpqgtga7pdrq", AddressProblem::NotAMiner),
            ("1000", AddressProblem::Network),
            ("f0", AddressProblem::Length),
            ("f9000", AddressProblem::Protocol),
            ("f0+1", AddressProblem::Number),
            ("f24vg6ut43yw2h2jqydgbg2xq7x6f4kub3bg6as6j", AddressProblem::Encoding),
            ("f2ä00", AddressProblem::Encoding),
            ("fä00", AddressProblem::Protocol),
        ];
        for (text, problem) in cases {
            assert_eq!(text.parse::<MinerId>().unwrap_err().problem(), problem, "{text}");
        }
        let error = "f15ihq5ibzwki2b4ep2f46avlkrqzhpqgtga7pdra".parse::<WalletAddress>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"f15ihq5ibzwki2b4ep2f46avlkrqzhpqgtga7pdra\" is not a Filecoin address: the checksum does not match"
        );
    }
}
