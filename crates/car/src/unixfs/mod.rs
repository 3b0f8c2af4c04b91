//! UnixFS: the blocks of files and folders.
//!
//! What lives here: the lengths of a file's balanced DAG ([`dag`]), of folders ([`folder`]) and of sharded
//! folders ([`hamt`]), and the decoding of blocks ([`decode`]). What does not: the encoding of single blocks
//! (`dag_pb`), reading files, CARs.

mod bounds;
pub(crate) mod dag;
pub(crate) mod decode;
pub(crate) mod folder;
pub(crate) mod hamt;
pub(crate) mod murmur3;
