//! Decodes dag-pb blocks with UnixFS in every form that other tools write.
//!
//! ```text
//! PBNode   12 <link>…  0a <data>                         or data before links, as older kubo wrote
//! PBLink   0a <cid>  12 <name>  18 <tsize>
//! Data     08 <type>  12 <bytes>  18 <file size>  20 <block size>…  28 <hash>  30 <fanout>  …
//! ```
//!
//! Sources: dag-pb specification; boxo v0.10.1 ipld/unixfs/pb/unixfs.proto. Unused fields, such as mode and
//! time of UnixFS 1.5, are skipped. Blocks that two readers could understand differently are refused.

use crate::carv1::varint;
use crate::dag_pb::{
    DATA, HASH_MURMUR3, LINK, LINK_HASH, LINK_NAME, TYPE_DIRECTORY, TYPE_FILE, TYPE_METADATA, TYPE_RAW,
    TYPE_SHARD, TYPE_SYMLINK,
};
use crate::units::len64;

/// Source: go-unixfsnode hamt/util.go, `maximumHamtWidth`.
const FANOUT_MAX: u64 = 1 << 10;

/// A decoded UnixFS block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node<'a> {
    File(FileNode<'a>),
    Directory(Vec<Link<'a>>),
    Shard(Shard<'a>),
    /// The target.
    Symlink(&'a [u8]),
}

/// A node of a file: its own bytes, then its children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileNode<'a> {
    pub(crate) data: &'a [u8],
    /// CIDs, and the bytes of content in and below each.
    pub(crate) children: Vec<(&'a [u8], u64)>,
    /// Bytes of content in and below the node.
    pub(crate) size: u64,
}

/// A part of a large folder (HAMT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard<'a> {
    /// Number of slots: a power of two.
    pub(crate) fanout: u64,
    pub(crate) links: Vec<ShardLink<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShardLink<'a> {
    /// A further shard.
    Shard(&'a [u8]),
    Entry(Link<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) cid: &'a [u8],
}

/// Why a block cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotUnixfs {
    /// Not the encoding of a node.
    #[error("not dag-pb")]
    NotDagPb,
    /// The node's data is not UnixFS.
    #[error("its data is not UnixFS")]
    NotUnixfs,
    /// A type without content and names.
    #[error("UnixFS metadata nodes are not supported")]
    Metadata,
    /// An undefined type.
    #[error("unknown UnixFS type {0}")]
    UnknownType(u64),
    /// The sizes in a file's node contradict each other, or those of the nodes below.
    #[error("the sizes in it contradict each other")]
    Sizes,
    /// A shard with invalid parameters or link names.
    #[error("a malformed shard of a folder (HAMT)")]
    Shard,
    /// The block's type differs from the type that the link to it expects.
    #[error("of another type than what links to it")]
    Misplaced,
    /// A block of a codec that UnixFS does not use.
    #[error("codec {0:#x} is neither dag-pb nor raw bytes")]
    Codec(u64),
}

/// Decodes a dag-pb block with UnixFS.
pub(crate) fn decode(block: &[u8]) -> Result<Node<'_>, NotUnixfs> {
    let (links, data) = decode_node(block).ok_or(NotUnixfs::NotDagPb)?;
    let data = Data::decode(data.ok_or(NotUnixfs::NotUnixfs)?).ok_or(NotUnixfs::NotUnixfs)?;
    match u8::try_from(data.kind) {
        // `Raw` is the older type of leaves of files.
        Ok(TYPE_RAW | TYPE_FILE) => data.into_file(&links).map(Node::File),
        Ok(TYPE_DIRECTORY) => Ok(Node::Directory(links)),
        Ok(TYPE_METADATA) => Err(NotUnixfs::Metadata),
        Ok(TYPE_SYMLINK) => Ok(Node::Symlink(data.bytes)),
        Ok(TYPE_SHARD) => data.into_shard(links).map(Node::Shard),
        _ => Err(NotUnixfs::UnknownType(data.kind)),
    }
}

/// Decodes links and data of a dag-pb node.
fn decode_node(block: &[u8]) -> Option<(Vec<Link<'_>>, Option<&[u8]>)> {
    const LINKS: u64 = (LINK >> 3) as u64;
    const NODE_DATA: u64 = (DATA >> 3) as u64;
    const HASH: u64 = (LINK_HASH >> 3) as u64;
    const NAME: u64 = (LINK_NAME >> 3) as u64;
    let (mut links, mut data) = (Vec::new(), None);
    let mut fields = Fields(block);
    while !fields.0.is_empty() {
        match fields.next()? {
            (LINKS, Value::Bytes(link)) => {
                let (mut cid, mut name) = (None, None);
                let mut fields = Fields(link);
                while !fields.0.is_empty() {
                    match fields.next()? {
                        (HASH, Value::Bytes(bytes)) if cid.is_none() => cid = Some(bytes),
                        (NAME, Value::Bytes(bytes)) if name.is_none() => name = Some(bytes),
                        (HASH | NAME, _) => return None,
                        _ => {}
                    }
                }
                links.push(Link { name: name.unwrap_or_default(), cid: cid? });
            }
            (NODE_DATA, Value::Bytes(bytes)) if data.is_none() => data = Some(bytes),
            _ => return None,
        }
    }
    Some((links, data))
}

/// The UnixFS message in a node.
#[derive(Default)]
struct Data<'a> {
    kind: u64,
    bytes: &'a [u8],
    file_size: Option<u64>,
    block_sizes: Vec<u64>,
    hash: Option<u64>,
    fanout: Option<u64>,
}

impl<'a> Data<'a> {
    fn decode(message: &'a [u8]) -> Option<Self> {
        let mut data = Self::default();
        let mut kind = None;
        let mut fields = Fields(message);
        while !fields.0.is_empty() {
            match fields.next()? {
                (1, Value::Number(number)) => kind = Some(number),
                (2, Value::Bytes(bytes)) => data.bytes = bytes,
                (3, Value::Number(number)) => data.file_size = Some(number),
                (4, Value::Number(number)) => data.block_sizes.push(number),
                // Packed: the other encoding of a repeated number.
                (4, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        let (number, rest) = varint::read(packed)?;
                        data.block_sizes.push(number);
                        packed = rest;
                    }
                }
                (5, Value::Number(number)) => data.hash = Some(number),
                (6, Value::Number(number)) => data.fanout = Some(number),
                (1..=6, _) => return None,
                _ => {}
            }
        }
        data.kind = kind?;
        Some(data)
    }

    fn into_file(self, links: &[Link<'a>]) -> Result<FileNode<'a>, NotUnixfs> {
        if links.len() != self.block_sizes.len() {
            return Err(NotUnixfs::Sizes);
        }
        let own = len64(self.bytes.len());
        let size = self.block_sizes.iter().try_fold(own, |sum, size| sum.checked_add(*size));
        let size = size.ok_or(NotUnixfs::Sizes)?;
        if self.file_size.is_some_and(|file_size| file_size != size) {
            return Err(NotUnixfs::Sizes);
        }
        let children = links.iter().map(|link| link.cid).zip(self.block_sizes).collect();
        Ok(FileNode { data: self.bytes, children, size })
    }

    fn into_shard(self, links: Vec<Link<'a>>) -> Result<Shard<'a>, NotUnixfs> {
        let fanout = self.fanout.filter(|fanout| fanout.is_power_of_two() && *fanout <= FANOUT_MAX);
        let fanout = fanout.filter(|fanout| *fanout > 1).ok_or(NotUnixfs::Shard)?;
        if self.hash != Some(HASH_MURMUR3.into()) {
            return Err(NotUnixfs::Shard);
        }
        let mut used = vec![false; usize::try_from(fanout).expect("at most 1024")];
        let links = links.into_iter().map(|link| {
            let (prefix, name) = link.name.split_at_checked(prefix_len(fanout)).ok_or(NotUnixfs::Shard)?;
            let slot = slot_of(prefix).and_then(|slot| used.get_mut(slot)).ok_or(NotUnixfs::Shard)?;
            if std::mem::replace(slot, true) {
                return Err(NotUnixfs::Shard);
            }
            Ok(match name {
                [] => ShardLink::Shard(link.cid),
                name => ShardLink::Entry(Link { name, cid: link.cid }),
            })
        });
        Ok(Shard { fanout, links: links.collect::<Result<_, _>>()? })
    }
}

impl Shard<'_> {
    /// Maximum HAMT depth for a 64-bit hash of a name.
    ///
    /// Source: boxo v0.10.1 ipld/unixfs/hamt/util.go, `hashBits.Next`.
    pub(crate) fn depth_max(&self) -> usize {
        let bits = usize::try_from(self.fanout.trailing_zeros()).expect("u32 fits in usize");
        64 / bits
    }
}

/// Hexadecimal digits before each name of a shard: those of its last slot.
///
/// Source: boxo v0.10.1 ipld/unixfs/hamt/hamt.go, `makeShard`.
fn prefix_len(fanout: u64) -> usize {
    match fanout {
        0..=16 => 1,
        17..=256 => 2,
        _ => 3,
    }
}

/// Parses the number of a slot in a shard, in upper case hexadecimal.
fn slot_of(prefix: &[u8]) -> Option<usize> {
    prefix.iter().try_fold(0, |slot, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        Some(slot * 16 + usize::from(value))
    })
}

/// The unread fields of a protobuf message.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes; no used field has them.
    Fixed,
}

impl<'a> Fields<'a> {
    /// The next field's number and value; `None` if no whole field follows.
    fn next(&mut self) -> Option<(u64, Value<'a>)> {
        let (tag, rest) = varint::read(self.0)?;
        let (value, rest) = match tag & 7 {
            0 => varint::read(rest).map(|(number, rest)| (Value::Number(number), rest))?,
            1 => (Value::Fixed, rest.get(8..)?),
            2 => {
                let (length, rest) = varint::read(rest)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Value::Bytes(bytes), rest)
            }
            5 => (Value::Fixed, rest.get(4..)?),
            _ => return None,
        };
        self.0 = rest;
        Some((tag >> 3, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag_pb::{Child, encode_directory, encode_file, encode_symlink};

    fn child(cid: &[u8], file_size: u64) -> Child {
        Child { cid: cid.into(), tsize: file_size, file_size }
    }

    /// A node with this data and links of these names.
    fn node(data: &[u8], names: &[&str]) -> Vec<u8> {
        let mut block = Vec::new();
        for name in names {
            let length = u8::try_from(5 + name.len()).unwrap();
            block.extend([0x12, length, 0x0a, 1, 7, 0x12, length - 5]);
            block.extend(name.as_bytes());
        }
        block.extend([0x0a, u8::try_from(data.len()).unwrap()]);
        block.extend(data);
        block
    }

    #[test]
    fn what_is_written_here_is_read_back() {
        let children = [child(b"one", 300), child(b"two", 5)];
        let file = encode_file(&children);
        let wanted = FileNode { data: &[], children: vec![(b"one", 300), (b"two", 5)], size: 305 };
        assert_eq!(decode(&file), Ok(Node::File(wanted)));
        let folder = encode_directory([("a", &children[0]), ("b", &children[1])].into_iter());
        let wanted = vec![Link { name: b"a", cid: b"one" }, Link { name: b"b", cid: b"two" }];
        assert_eq!(decode(&folder), Ok(Node::Directory(wanted)));
        assert_eq!(decode(&encode_symlink(b"to")), Ok(Node::Symlink(b"to")));
    }

    #[test]
    fn other_forms_are_understood() {
        let inline = FileNode { data: b"abc", children: vec![], size: 3 };
        for data in [
            &b"\x08\x02\x12\x03abc\x18\x03"[..],
            b"\x08\x00\x12\x03abc",
            // Mode and time of UnixFS 1.5.
            b"\x08\x02\x12\x03abc\x18\x03\x38\xa4\x03\x42\x07\x08\x01\x15\x01\x00\x00\x00",
            b"\x12\x03abc\x18\x03\x08\x02",
        ] {
            assert_eq!(decode(&node(data, &[])), Ok(Node::File(inline.clone())), "{data:x?}");
        }
        // Packed block sizes, links without names, data before links.
        let file = b"\x0a\x08\x08\x02\x18\x03\x22\x02\x01\x02\x12\x03\x0a\x01\x07\x12\x03\x0a\x01\x08";
        let wanted = FileNode { data: &[], children: vec![(&[7], 1), (&[8], 2)], size: 3 };
        assert_eq!(decode(file), Ok(Node::File(wanted)));
    }

    #[test]
    fn shards_lose_their_prefixes() {
        for (fanout, names) in
            [(&[8][..], ["0", "7x"]), (&[0x80, 2], ["00", "FFx"]), (&[0x80, 8], ["000", "3FFx"])]
        {
            let data = [&[8, 5, 0x28, 0x22, 0x30], fanout].concat();
            let block = node(&data, &names);
            let Ok(Node::Shard(shard)) = decode(&block) else { panic!("{fanout:?}") };
            let entry = ShardLink::Entry(Link { name: b"x", cid: &[7] });
            assert_eq!(shard.links, [ShardLink::Shard(&[7]), entry], "{fanout:?}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        const SHARD: &[u8] = &[8, 5, 0x28, 0x22, 0x30, 0x80, 2];
        for (data, names, wanted) in [
            (&b"\x08\x03"[..], &[][..], NotUnixfs::Metadata),
            (b"\x08\x09", &[], NotUnixfs::UnknownType(9)),
            (b"", &[], NotUnixfs::NotUnixfs),
            (b"\x12\x01a", &[], NotUnixfs::NotUnixfs),
            (b"\x08\x02\x12\x05a", &[], NotUnixfs::NotUnixfs),
            (b"\x08\x02\x12\x01a\x18\x02", &[], NotUnixfs::Sizes),
            (b"\x08\x02\x20\x01", &[], NotUnixfs::Sizes),
            (b"\x08\x02", &[""], NotUnixfs::Sizes),
            (b"\x08\x02\x12\x01a\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[""], NotUnixfs::Sizes),
            (SHARD, &["0"], NotUnixfs::Shard),
            (SHARD, &["0g"], NotUnixfs::Shard),
            (SHARD, &["0fx"], NotUnixfs::Shard),
            (SHARD, &["00a", "00b"], NotUnixfs::Shard),
            (&[8, 5, 0x28, 0x22, 0x30, 3], &[], NotUnixfs::Shard),
            (&[8, 5, 0x28, 0x22, 0x30, 1], &[], NotUnixfs::Shard),
            (&[8, 5, 0x28, 0x22, 0x30, 0x80, 16], &[], NotUnixfs::Shard),
            (&[8, 5, 0x28, 0x12, 0x30, 8], &[], NotUnixfs::Shard),
            (&[8, 5, 0x28, 0x22, 0x30, 8], &["8x"], NotUnixfs::Shard),
        ] {
            assert_eq!(decode(&node(data, names)), Err(wanted), "{data:x?} {names:?}");
        }
        for block in [&b"\x0a\x02\x08\x01\x0a\x02\x08\x01"[..], b"\x12\x02\x12\x00", b"\x12\x05", b"\x1a\x00"]
        {
            assert_eq!(decode(block), Err(NotUnixfs::NotDagPb), "{block:x?}");
        }
    }
}
