//! The CARv1 header: writes the canonical form, reads every form that dag-cbor allows.
//!
//! ```text
//! a2 65 "roots" 81 d8 2a 58 <length> 00 <cid> 67 "version" 01
//! ```

use crate::carv1::varint;
use crate::cids::{CidError, PayloadCid};
use crate::dag_cbor;
use crate::dag_cbor::{ARRAY, BYTES, MAP, TAG, TAG_CID, TEXT, UINT};
use crate::units::len64;

/// dag-cbor null.
const NULL: u8 = 0xf6;

/// Why bytes are not the header of a CARv1 with one root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not the dag-cbor of a header.
    #[error("the header is not that of a CAR")]
    Malformed,
    /// Another version of the format.
    #[error("the CAR has version {0}, not 1")]
    Version(u64),
    /// None or several roots.
    #[error("the CAR has {0} roots, not one")]
    RootCount(u64),
    /// The root is not a CID.
    #[error("the root in the header is malformed")]
    Root(#[source] CidError),
}

/// Length of the header for a root CID of this length, frame length included.
pub(crate) fn header_len(root_len: u64) -> u64 {
    let body = body_len(root_len);
    varint::len(body) + body
}

fn body_len(root_len: u64) -> u64 {
    let bytes_len = root_len + 1;
    1 + 6 + 1 + 2 + cbor_head_len(bytes_len) + bytes_len + 8 + 1
}

fn cbor_head_len(number: u64) -> u64 {
    match number {
        0..24 => 1,
        24..256 => 2,
        _ => 3,
    }
}

/// Encodes a header, frame length included.
pub(crate) fn encode(root: &[u8]) -> Vec<u8> {
    let root_len = len64(root.len());
    let mut header = Vec::with_capacity(root.len() + 32);
    varint::push(&mut header, body_len(root_len));
    header.extend_from_slice(b"\xa2\x65roots\x81\xd8\x2a");
    let [.., high, low] = (root_len + 1).to_be_bytes();
    match cbor_head_len(root_len + 1) {
        1 => header.push(0x40 | low),
        2 => header.extend_from_slice(&[0x58, low]),
        _ => header.extend_from_slice(&[0x59, high, low]),
    }
    header.push(0);
    header.extend_from_slice(root);
    header.extend_from_slice(b"\x67version\x01");
    header
}

/// Reads a header without its frame length.
///
/// # Errors
///
/// [`HeaderError`], checked in this order: form, version, number of roots, root.
pub(crate) fn decode(body: &[u8]) -> Result<PayloadCid, HeaderError> {
    let mut cbor = Cbor(body);
    let mut version = None;
    let mut root_count = None;
    let mut first_root = None;
    for _ in 0..cbor.head(MAP)? {
        match cbor.text()? {
            b"version" if version.is_none() => version = Some(cbor.head(UINT)?),
            b"roots" if root_count.is_none() => {
                // go-car writes null for no roots.
                if cbor.0.first() == Some(&NULL) {
                    cbor.0 = &cbor.0[1..];
                    root_count = Some(0);
                    continue;
                }
                let count = cbor.head(ARRAY)?;
                for _ in 0..count {
                    let cid = cbor.link()?;
                    first_root.get_or_insert(cid);
                }
                root_count = Some(count);
            }
            _ => return Err(HeaderError::Malformed),
        }
    }
    match version {
        None => return Err(HeaderError::Malformed),
        Some(1) => {}
        Some(other) => return Err(HeaderError::Version(other)),
    }
    if !cbor.0.is_empty() {
        return Err(HeaderError::Malformed);
    }
    match (root_count, first_root) {
        (None, _) => Err(HeaderError::Malformed),
        (Some(1), Some(root)) => PayloadCid::from_bytes(root).map_err(HeaderError::Root),
        (Some(count), _) => Err(HeaderError::RootCount(count)),
    }
}

/// The unread rest of a dag-cbor value.
struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    /// The argument of a data item of this major type.
    fn head(&mut self, major: u8) -> Result<u64, HeaderError> {
        match dag_cbor::head(&mut self.0) {
            Some((found, argument)) if found == major => Ok(argument),
            _ => Err(HeaderError::Malformed),
        }
    }

    fn string(&mut self, major: u8) -> Result<&'a [u8], HeaderError> {
        let length = self.head(major)?;
        dag_cbor::take(&mut self.0, length).ok_or(HeaderError::Malformed)
    }

    fn text(&mut self) -> Result<&'a [u8], HeaderError> {
        self.string(TEXT)
    }

    /// A CID: tag 42 on bytes that start with the identity multibase.
    fn link(&mut self) -> Result<&'a [u8], HeaderError> {
        if self.head(TAG)? != TAG_CID {
            return Err(HeaderError::Malformed);
        }
        self.string(BYTES)?.strip_prefix(&[0]).ok_or(HeaderError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cids::cid_bytes;

    #[test]
    fn headers_have_the_length_that_was_foretold_and_are_read_back() {
        for digest_len in 0..=128 {
            let root = cid_bytes(0x55, 0, &vec![9; digest_len]);
            let header = encode(&root);
            let root_len = u64::try_from(root.len()).unwrap();
            assert_eq!(u64::try_from(header.len()).unwrap(), header_len(root_len), "{digest_len}");
            let (length, body) = varint::read(&header).unwrap();
            assert_eq!(usize::try_from(length).unwrap(), body.len(), "{digest_len}");
            assert_eq!(decode(body).unwrap().as_bytes(), root, "{digest_len}");
        }
    }

    #[test]
    fn each_defect_has_its_error() {
        for (body, error) in [
            (&b"\xa1\x67version\x02"[..], HeaderError::Version(2)),
            (b"\xa1\x67version\x01", HeaderError::Malformed),
            (b"\xa2\x65roots\x80\x67version\x01", HeaderError::RootCount(0)),
            (b"\xa2\x65roots\xf6\x67version\x01", HeaderError::RootCount(0)),
            (b"\xa2\x65roots\x80\x67version\x01\x00", HeaderError::Malformed),
            (b"\xa2\x65roots\x9b\xff\xff\xff\xff\xff\xff\xff\xff", HeaderError::Malformed),
            (b"\xa1\x65roots\x80", HeaderError::Malformed),
            (b"", HeaderError::Malformed),
        ] {
            assert_eq!(decode(body), Err(error), "{body:02x?}");
        }
    }
}
