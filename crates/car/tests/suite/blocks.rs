//! Builds blocks and CARs as other tools write them, and malformed ones.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub(crate) const RAW: u8 = 0x55;
pub(crate) const DAG_PB: u8 = 0x70;

/// Sections, in the order in which they were added.
#[derive(Default)]
pub(crate) struct Blocks(pub(crate) Vec<Vec<u8>>);

impl Blocks {
    /// Adds a section; returns its CID.
    pub(crate) fn add(&mut self, codec: u8, block: &[u8]) -> Vec<u8> {
        let cid = cid(codec, block);
        self.0.push(section(&cid, block));
        cid
    }

    pub(crate) fn raw(&mut self, block: &[u8]) -> Vec<u8> {
        self.add(RAW, block)
    }

    pub(crate) fn node(&mut self, links: &[(&[u8], &[u8])], data: &[u8]) -> Vec<u8> {
        self.add(DAG_PB, &node(links, data))
    }

    pub(crate) fn folder(&mut self, links: &[(&[u8], &[u8])]) -> Vec<u8> {
        self.node(links, &[8, 1])
    }

    /// A file of parts with these sizes.
    pub(crate) fn file(&mut self, parts: &[(&[u8], u64)]) -> Vec<u8> {
        let links: Vec<_> = parts.iter().map(|(cid, _)| (&b""[..], *cid)).collect();
        let sizes: Vec<u64> = parts.iter().map(|(_, size)| *size).collect();
        let data = file_data(sizes.iter().sum(), &sizes);
        self.node(&links, &data)
    }

    pub(crate) fn symlink(&mut self, target: &[u8]) -> Vec<u8> {
        let data = [&[8, 4][..], &field(0x12, target)].concat();
        self.node(&[], &data)
    }

    /// A shard whose names include their prefixes.
    pub(crate) fn shard(&mut self, fanout: u64, links: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut data = vec![8, 5, 0x12, 1, 0, 0x28, 0x22, 0x30];
        push_varint(&mut data, fanout);
        self.node(links, &data)
    }

    /// A CAR with this root.
    pub(crate) fn car(&self, root: &[u8]) -> Vec<u8> {
        let tagged = [&[0xd8, 0x2a, 0x58, u8::try_from(root.len() + 1).unwrap(), 0][..], root].concat();
        let header = [b"\xa2\x65roots\x81", &tagged[..], b"\x67version\x01"].concat();
        let mut car = Vec::new();
        push_varint(&mut car, header.len().try_into().unwrap());
        car.extend(header);
        car.extend(self.0.concat());
        car
    }

    pub(crate) fn write(&self, folder: &Path, name: &str, root: &[u8]) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, self.car(root)).unwrap();
        path
    }
}

/// A CID by sha2-256.
pub(crate) fn cid(codec: u8, block: &[u8]) -> Vec<u8> {
    [&[1, codec, 0x12, 0x20][..], &Sha256::digest(block)].concat()
}

/// A CID with the block in it.
pub(crate) fn identity(codec: u8, block: &[u8]) -> Vec<u8> {
    [&[1, codec, 0, u8::try_from(block.len()).unwrap()][..], block].concat()
}

pub(crate) fn section(cid: &[u8], block: &[u8]) -> Vec<u8> {
    let mut section = Vec::new();
    push_varint(&mut section, (cid.len() + block.len()).try_into().unwrap());
    section.extend(cid);
    section.extend(block);
    section
}

/// A dag-pb block.
pub(crate) fn node(links: &[(&[u8], &[u8])], data: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, cid) in links {
        let link = [field(0x0a, cid), field(0x12, name), vec![0x18, 0]].concat();
        block.extend(field(0x12, &link));
    }
    block.extend(field(0x0a, data));
    block
}

/// UnixFS data of a file's node.
pub(crate) fn file_data(size: u64, block_sizes: &[u64]) -> Vec<u8> {
    let mut data = vec![8, 2, 0x18];
    push_varint(&mut data, size);
    for size in block_sizes {
        data.push(0x20);
        push_varint(&mut data, *size);
    }
    data
}

pub(crate) fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![tag];
    push_varint(&mut field, value.len().try_into().unwrap());
    field.extend(value);
    field
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}
