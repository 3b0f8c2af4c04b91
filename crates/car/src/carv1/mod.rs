//! The CARv1 format: a header with the root, then one section per block.
//!
//! ```text
//! header   varint length | dag-cbor {"roots": [cid], "version": 1}
//! section  varint length | cid | block
//! section  …
//! ```

pub(crate) mod header;
pub(crate) mod reader;
pub(crate) mod varint;
pub(crate) mod writer;
