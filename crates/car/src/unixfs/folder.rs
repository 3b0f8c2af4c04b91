//! Lengths of folders' nodes, and which of them are sharded, from a tree alone.

use crate::build_error::{BuildError, Unsupported};
use crate::dag_pb;
use crate::limits::SHARDING_BYTES;
use crate::profile::{CarOrder, DagParams, ShardRule};
use crate::source_tree::{Child, Folder, Node, SourceTree};
use crate::units::len64;
use crate::unixfs::dag::Shape;
use crate::unixfs::hamt::{SameHash, Shards};
use crate::unixfs::murmur3;

/// Lengths of everything in a tree with one set of parameters: those of folders are kept, those of files
/// follow from their sizes at once.
#[derive(Debug)]
pub(crate) struct Shapes<'a> {
    params: DagParams,
    /// By the numbers of the folders.
    folders: Vec<FolderShape<'a>>,
}

#[derive(Debug)]
struct FolderShape<'a> {
    shape: Shape,
    sharded: Option<Box<ShardedFolder<'a>>>,
}

/// A folder that is a tree of shards.
#[derive(Debug)]
pub(crate) struct ShardedFolder<'a> {
    pub(crate) shards: Shards,
    /// In the order of their hashes.
    pub(crate) entries: Vec<&'a Child>,
}

impl<'a> Shapes<'a> {
    /// The shapes of all folders of a tree.
    ///
    /// # Errors
    ///
    /// [`Unsupported::SameHash`] with the name.
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

    /// The lengths of an entry and all below it.
    pub(crate) fn of(&self, node: &Node) -> Shape {
        match node {
            Node::File(_) | Node::Part(_) => self.params.file_shape(node.file_size()),
            Node::Folder(folder) => self.folders[index(folder)].shape,
            Node::Symlink(_) if self.params.order == CarOrder::LeavesFirst => Shape::NOTHING,
            Node::Symlink(block) => self.params.block_shape(len64(block.len()), 0),
        }
    }

    /// The shards of a folder, if it has any.
    pub(crate) fn sharded(&self, folder: &Folder) -> Option<&ShardedFolder<'a>> {
        self.folders[index(folder)].sharded.as_deref()
    }

    /// Finds the shape of a folder and those below it. An error leaves in `failed` what it is about, the last
    /// name first.
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
                // A block has more bytes than the names and CIDs in it.
                plain.block_len >= SHARDING_BYTES
                    && folder.children.iter().map(link).sum::<u64>() >= SHARDING_BYTES
            }
            ShardRule::BlockBytes => plain.block_len > SHARDING_BYTES,
        }
    }

    /// The shards of a folder and its lengths, or a name that has the hash of another one.
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
