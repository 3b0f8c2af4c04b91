//! Lengths of the folders of a source tree, and which folders are sharded.

use crate::build_error::{BuildError, Unsupported};
use crate::dag_pb;
use crate::limits::SHARDING_BYTES;
use crate::profile::{CarOrder, DagParams, ShardRule};
use crate::source_tree::{Child, Folder, Node, SourceTree};
use crate::units::len64;
use crate::unixfs::dag::Shape;
use crate::unixfs::hamt::{SameHash, Shards};
use crate::unixfs::murmur3;

/// Lengths of all folders of a tree for one set of parameters. Lengths of files are calculated on demand.
#[derive(Debug)]
pub(crate) struct Shapes<'a> {
    params: DagParams,
    /// Indexed by the number of the folder.
    folders: Vec<FolderShape<'a>>,
}

#[derive(Debug)]
struct FolderShape<'a> {
    shape: Shape,
    sharded: Option<Box<ShardedFolder<'a>>>,
}

/// A folder that is a tree of shards (HAMT).
#[derive(Debug)]
pub(crate) struct ShardedFolder<'a> {
    pub(crate) shards: Shards,
    /// Entries in the order of their names' hashes.
    pub(crate) entries: Vec<&'a Child>,
}

impl<'a> Shapes<'a> {
    /// The shapes of all folders of a tree.
    ///
    /// # Errors
    ///
    /// [`Unsupported::SameHash`] with the path of the name.
    pub(crate) fn new(tree: &'a SourceTree, params: &DagParams) -> Result<Self, BuildError> {
        let mut folders = Vec::new();
        let none = || FolderShape { shape: Shape::NOTHING, sharded: None };
        folders.resize_with(usize::try_from(tree.folders).expect("u32 fits in usize"), none);
        let mut shapes = Self { params: *params, folders };
        if let Node::Folder(root) = &tree.root {
            let mut names = Vec::new();
            shapes.add(root, &mut names).map_err(|()| {
                let path = names.iter().rev().fold(tree.label.clone(), |path, name| path.join(name));
                BuildError::not_supported(&path, Unsupported::SameHash)
            })?;
        }
        Ok(shapes)
    }

    /// Lengths of an entry with everything below it.
    pub(crate) fn of(&self, node: &Node) -> Shape {
        match node {
            Node::File(_) | Node::Part(_) => self.params.file_shape(node.file_size()),
            Node::Folder(folder) => self.folders[index(folder)].shape,
            Node::Symlink(_) if self.params.order == CarOrder::LeavesFirst => Shape::NOTHING,
            Node::Symlink(block) => self.params.block_shape(len64(block.len()), 0),
        }
    }

    /// The shards of a folder, if it is sharded.
    pub(crate) fn sharded(&self, folder: &Folder) -> Option<&ShardedFolder<'a>> {
        self.folders[index(folder)].sharded.as_deref()
    }

    /// Calculates the shapes of a folder and of the folders below it. On an error `failed` has the names of
    /// the path in reverse order.
    fn add(&mut self, folder: &'a Folder, failed: &mut Vec<&'a str>) -> Result<(), ()> {
        for child in folder.children.iter() {
            if let Node::Folder(below) = &child.node {
                self.add(below, failed).map_err(|()| failed.push(&child.name))?;
            }
        }
        if self.params.order == CarOrder::LeavesFirst {
            let files = folder.children.iter().map(|child| self.of(&child.node));
            self.folders[index(folder)].shape = files.fold(Shape::NOTHING, |all, file| file.above(all));
            return Ok(());
        }
        let plain = self.plain(folder);
        self.folders[index(folder)] = if self.is_sharded(folder, plain) {
            let (sharded, shape) = self.shard(folder).map_err(|name| failed.push(name))?;
            FolderShape { shape, sharded: Some(Box::new(sharded)) }
        } else {
            FolderShape { shape: plain, sharded: None }
        };
        Ok(())
    }

    /// Lengths of a folder that is one block.
    fn plain(&self, folder: &Folder) -> Shape {
        let mut block_len = dag_pb::DIRECTORY_DATA_LEN;
        let mut below = Shape::NOTHING;
        for Child { name, node } in folder.children.iter() {
            let shape = self.of(node);
            block_len +=
                dag_pb::link_len(self.params.cid_len(shape.block_len), len64(name.len()), shape.tsize);
            below = shape.above(below);
        }
        self.params.block_shape(block_len, 0).above(below)
    }

    fn is_sharded(&self, folder: &Folder, plain: Shape) -> bool {
        match self.params.shard_rule {
            ShardRule::LinksBytes => {
                let link = |child: &Child| {
                    len64(child.name.len()) + self.params.cid_len(self.of(&child.node).block_len)
                };
                // The block has more bytes than its names and CIDs, so the cheap check comes first.
                plain.block_len >= SHARDING_BYTES
                    && folder.children.iter().map(link).sum::<u64>() >= SHARDING_BYTES
            }
            ShardRule::BlockBytes => plain.block_len > SHARDING_BYTES,
        }
    }

    /// The shards of a folder and its lengths. The error is a name with the hash of another one.
    fn shard(&self, folder: &'a Folder) -> Result<(ShardedFolder<'a>, Shape), &'a str> {
        let mut hashed: Vec<(u64, &Child)> = Vec::with_capacity(folder.children.len());
        hashed.extend(folder.children.iter().map(|child| (murmur3::hash(child.name.as_bytes()), child)));
        hashed.sort_by_key(|(hash, _)| *hash);
        let (hashes, entries): (Vec<u64>, Vec<&Child>) = hashed.into_iter().unzip();
        let entry = |index: usize| (len64(entries[index].name.len()), self.of(&entries[index].node));
        match Shards::new(&self.params, &hashes, entry) {
            Ok((shards, shape)) => Ok((ShardedFolder { shards, entries }, shape)),
            Err(SameHash(index)) => Err(&entries[index].name),
        }
    }
}

fn index(folder: &Folder) -> usize {
    usize::try_from(folder.number).expect("u32 fits in usize")
}
