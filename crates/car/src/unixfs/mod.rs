//! UnixFS: how files and folders become blocks.
//!
//! What lives here: the encoding of nodes ([`pb`]) and their decoding ([`decode`]), the shape of a file's
//! balanced tree ([`dag`]), folders ([`folder`]), also large ones ([`hamt`]). What does not: reading files,
//! CARs.

mod bounds;
pub(crate) mod dag;
pub(crate) mod decode;
pub(crate) mod folder;
pub(crate) mod hamt;
pub(crate) mod murmur3;
