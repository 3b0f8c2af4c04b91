//! Reading dag-cbor: heads of data items, and the links of a block.
//!
//! Source: the DAG-CBOR specification of IPLD; only tag 42 is a link.

pub(crate) const UINT: u8 = 0;
pub(crate) const BYTES: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const ARRAY: u8 = 4;
pub(crate) const MAP: u8 = 5;
pub(crate) const TAG: u8 = 6;
const OTHER: u8 = 7;
/// Tag of a link: bytes that start with the identity multibase, then a binary CID.
pub(crate) const TAG_CID: u64 = 42;

/// The binary CIDs of a block's links; `None` if the block is not dag-cbor.
pub(crate) fn links(block: &[u8]) -> Option<Vec<&[u8]>> {
    let mut links = Vec::new();
    let mut rest = block;
    // Items that follow. Each takes a byte, so there are never more of them than bytes.
    let mut items = 1_u64;
    while items > 0 {
        items -= 1;
        let (major, argument) = head(&mut rest)?;
        match major {
            BYTES | TEXT => drop(take(&mut rest, argument)?),
            ARRAY => items = items.checked_add(argument)?,
            MAP => items = items.checked_add(argument.checked_mul(2)?)?,
            TAG if argument == TAG_CID => {
                let (BYTES, length) = head(&mut rest)? else { return None };
                links.push(take(&mut rest, length)?.strip_prefix(&[0])?);
            }
            TAG => return None,
            _ => {}
        }
        if items > u64::try_from(rest.len()).ok()? {
            return None;
        }
    }
    rest.is_empty().then_some(links)
}

/// Major type and argument of the next item.
pub(crate) fn head(rest: &mut &[u8]) -> Option<(u8, u64)> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    let (major, short) = (first >> 5, first & 0x1f);
    let length = match short {
        0..24 => return Some((major, u64::from(short))),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        // dag-cbor has no indefinite lengths.
        _ => return None,
    };
    let number = take(rest, length)?;
    // A floating point number is longer than its head, and its argument is not a count.
    let argument =
        if major == OTHER { 0 } else { number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) };
    Some((major, argument))
}

/// Takes the next bytes.
pub(crate) fn take<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_wherever_they_are() {
        // {"a": [1, -2, 1.5, null, 42(h'00aabb')], "b": {"c": 42(h'00cc')}, "d": h'd82a'}
        let block = b"\xa3\x61a\x85\x01\x21\xfb\x3f\xf8\0\0\0\0\0\0\xf6\xd8\x2a\x43\0\xaa\xbb\x61b\xa1\x61c\xd8\x2a\x42\0\xcc\x61d\x42\xd8\x2a";
        assert_eq!(links(block), Some(vec![&b"\xaa\xbb"[..], b"\xcc"]));
        for length in 0..block.len() {
            assert_eq!(links(&block[..length]), None, "cut at {length}");
        }
        for (bad, what) in [
            (&b"\xa1\x61a\x01\x00"[..], "bytes behind it"),
            (b"\x9f\xff", "a length that is not known"),
            (b"\xc1\x01", "another tag"),
            (b"\xd8\x2a\x42\x01\xcc", "another multibase"),
            (b"\xd8\x2a\x61a", "a link that is text"),
            (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "more items than bytes"),
            (b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", "more entries than bytes"),
        ] {
            assert_eq!(links(bad), None, "{what}");
        }
        assert_eq!(links(b"\x18\x2a"), Some(vec![]));
    }
}
