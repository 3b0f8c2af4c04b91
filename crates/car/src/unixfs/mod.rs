//! UnixFS: how files and folders become blocks.
//!
//! What lives here: the encoding of nodes ([`pb`]), the shape of a file's balanced tree ([`dag`]), folders and
//! links ([`dir`]), and large folders ([`hamt`]). What does not: reading files, CARs.

pub(crate) mod dag;
pub(crate) mod dir;
pub(crate) mod hamt;
pub(crate) mod murmur3;
pub(crate) mod pb;
