//! UnixFS: how files and folders become blocks.
//!
//! What lives here: the encoding of nodes ([`pb`]) and their decoding ([`decode`]), the shape of a file's balanced
//! tree ([`dag`]), folders and links ([`dir`]). What does not: reading files, CARs.

pub(crate) mod dag;
pub(crate) mod decode;
pub(crate) mod dir;
pub(crate) mod pb;
