//! Encodes dag-pb blocks with UnixFS in canonical form; reads the links of any dag-pb block.
//!
//! ```text
//! PBNode   12 <link>…  0a <data>                     links before data
//! PBLink   0a <cid>  12 <name>  18 <tsize>           an empty name is written as well
//! file     08 02  18 <file size>  20 <block size>…
//! folder   08 01
//! shard    08 05  12 <bit field>  28 22  30 80 02    hash murmur3, 256 places
//! symlink  08 04  12 <target>
//! ```
//!
//! Sources: dag-pb specification "Canonical DAG-PB"; boxo v0.10.1 ipld/unixfs/pb. The length of a block
//! follows from the lengths of its parts, so that a CAR is written in one pass.

use crate::carv1::varint;
use crate::units::len64;

pub(super) const LINK: u8 = 0x12;
pub(super) const DATA: u8 = 0x0a;
pub(super) const LINK_HASH: u8 = 0x0a;
pub(super) const LINK_NAME: u8 = 0x12;
const LINK_TSIZE: u8 = 0x18;
const UNIXFS_TYPE: u8 = 0x08;
const UNIXFS_DATA: u8 = 0x12;
const UNIXFS_FILE_SIZE: u8 = 0x18;
const UNIXFS_BLOCK_SIZE: u8 = 0x20;
pub(crate) const TYPE_RAW: u8 = 0;
pub(crate) const TYPE_DIRECTORY: u8 = 1;
pub(crate) const TYPE_FILE: u8 = 2;
pub(crate) const TYPE_METADATA: u8 = 3;
pub(crate) const TYPE_SYMLINK: u8 = 4;
pub(crate) const TYPE_SHARD: u8 = 5;
/// murmur3-x64-64. Source: multicodec table; boxo v0.10.1 ipld/unixfs/hamt/hamt.go, `HashMurmur3`.
pub(crate) const HASH_MURMUR3: u8 = 0x22;
/// Fields `hashType` and `fanout` of every shard: [`HASH_MURMUR3`], 256.
///
/// Source: boxo v0.10.1 ipld/unixfs/io/directory.go, `DefaultShardWidth`.
const SHARD_HASH_AND_FANOUT: [u8; 5] = [0x28, HASH_MURMUR3, 0x30, 0x80, 0x02];

/// A link to a finished block.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) cid: Box<[u8]>,
    /// Bytes of the block and of all blocks below it, repeated blocks included.
    pub(crate) tsize: u64,
    /// Bytes of file content in and below the block.
    pub(crate) file_size: u64,
}

/// Encodes a node of a file above its leaves.
pub(crate) fn encode_file(children: &[Child]) -> Vec<u8> {
    let mut node = Vec::with_capacity(children.len() * 56 + 16);
    for child in children {
        push_link(&mut node, child, "");
    }
    let mut data = vec![UNIXFS_TYPE, TYPE_FILE, UNIXFS_FILE_SIZE];
    varint::push(&mut data, children.iter().map(|child| child.file_size).sum());
    for child in children {
        data.push(UNIXFS_BLOCK_SIZE);
        varint::push(&mut data, child.file_size);
    }
    push_bytes(&mut node, DATA, &data);
    node
}

/// Encodes a folder of one block. The children are in byte order of their names.
pub(crate) fn encode_directory<'a>(children: impl Iterator<Item = (&'a str, &'a Child)>) -> Vec<u8> {
    let mut node = Vec::new();
    for (name, child) in children {
        push_link(&mut node, child, name);
    }
    push_bytes(&mut node, DATA, &[UNIXFS_TYPE, TYPE_DIRECTORY]);
    node
}

/// Encodes a shard of a folder from slot, name and child of each link. A link to another shard has no name.
pub(crate) fn encode_shard<'a>(links: impl Iterator<Item = (u8, &'a str, &'a Child)>) -> Vec<u8> {
    let mut node = Vec::new();
    let mut places = [0u8; 32];
    let mut last_slot = 0;
    for (slot, name, child) in links {
        push_link(&mut node, child, &format!("{slot:02X}{name}"));
        places[31 - usize::from(slot / 8)] |= 1 << (slot % 8);
        last_slot = slot;
    }
    let mut data = vec![UNIXFS_TYPE, TYPE_SHARD];
    push_bytes(&mut data, UNIXFS_DATA, &places[32 - bit_field_len(last_slot)..]);
    data.extend_from_slice(&SHARD_HASH_AND_FANOUT);
    push_bytes(&mut node, DATA, &data);
    node
}

/// Encodes a symbolic link.
pub(crate) fn encode_symlink(target: &[u8]) -> Vec<u8> {
    let mut data = vec![UNIXFS_TYPE, TYPE_SYMLINK];
    push_bytes(&mut data, UNIXFS_DATA, target);
    let mut node = Vec::with_capacity(data.len() + 4);
    push_bytes(&mut node, DATA, &data);
    node
}

/// Length of a link with a CID and a name of these lengths.
pub(crate) fn link_len(cid_len: u64, name_len: u64, tsize: u64) -> u64 {
    field_len(field_len(cid_len) + field_len(name_len) + 1 + varint::len(tsize))
}

/// Length of a file node's data and its frame, without the block sizes.
pub(crate) fn file_data_len(file_size: u64, block_sizes_len: u64) -> u64 {
    field_len(2 + 1 + varint::len(file_size) + block_sizes_len)
}

/// Length of one block size in a file node's data.
pub(crate) fn block_size_len(file_size: u64) -> u64 {
    1 + varint::len(file_size)
}

/// Length of a folder's data and its frame.
pub(crate) const DIRECTORY_DATA_LEN: u64 = 4;

/// Length of a shard's data and its frame.
pub(crate) fn shard_data_len(last_slot: u8) -> u64 {
    field_len(2 + field_len(len64(bit_field_len(last_slot))) + len64(SHARD_HASH_AND_FANOUT.len()))
}

/// Bytes of the bit field of a shard. Bytes after the last used slot are cut off.
///
/// Source: go-bitfield v1.1.0, `Bytes`.
fn bit_field_len(last_slot: u8) -> usize {
    usize::from(last_slot / 8) + 1
}

/// Length of tag, length and value of a field.
fn field_len(value_len: u64) -> u64 {
    1 + varint::len(value_len) + value_len
}

fn push_link(node: &mut Vec<u8>, child: &Child, name: &str) {
    let length = field_len(len(&child.cid)) + field_len(len(name.as_bytes())) + 1 + varint::len(child.tsize);
    node.push(LINK);
    varint::push(node, length);
    push_bytes(node, LINK_HASH, &child.cid);
    push_bytes(node, LINK_NAME, name.as_bytes());
    node.push(LINK_TSIZE);
    varint::push(node, child.tsize);
}

fn push_bytes(message: &mut Vec<u8>, tag: u8, value: &[u8]) {
    message.push(tag);
    varint::push(message, len(value));
    message.extend_from_slice(value);
}

fn len(bytes: &[u8]) -> u64 {
    len64(bytes.len())
}

/// The bytes are not a dag-pb block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a dag-pb block")]
pub(crate) struct NotDagPb;

/// The binary CIDs of a dag-pb block's links, in order.
pub(crate) fn links(block: &[u8]) -> Result<Vec<&[u8]>, NotDagPb> {
    let mut links = Vec::new();
    let mut fields = Fields(block);
    while let Some((tag, value)) = fields.next_bytes()? {
        match tag {
            LINK => {
                let mut link = Fields(value);
                let mut cid = None;
                while let Some((tag, value)) = link.next()? {
                    if let (LINK_HASH, Value::Bytes(bytes)) = (tag, value) {
                        cid = Some(bytes);
                    }
                }
                links.push(cid.ok_or(NotDagPb)?);
            }
            DATA => {}
            _ => return Err(NotDagPb),
        }
    }
    Ok(links)
}

/// The unread fields of a protobuf message.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Bytes(&'a [u8]),
    Number,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u8, Value<'a>)>, NotDagPb> {
        let Some((&tag, rest)) = self.0.split_first() else { return Ok(None) };
        let (number, rest) = varint::read(rest).ok_or(NotDagPb)?;
        match tag & 7 {
            0 => {
                self.0 = rest;
                Ok(Some((tag, Value::Number)))
            }
            2 => {
                let length = usize::try_from(number).map_err(|_| NotDagPb)?;
                let (value, rest) = rest.split_at_checked(length).ok_or(NotDagPb)?;
                self.0 = rest;
                Ok(Some((tag, Value::Bytes(value))))
            }
            _ => Err(NotDagPb),
        }
    }

    fn next_bytes(&mut self) -> Result<Option<(u8, &'a [u8])>, NotDagPb> {
        match self.next()? {
            None => Ok(None),
            Some((tag, Value::Bytes(bytes))) => Ok(Some((tag, bytes))),
            Some((_, Value::Number)) => Err(NotDagPb),
        }
    }
}
