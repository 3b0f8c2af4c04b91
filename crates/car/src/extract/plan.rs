//! Plans an extraction: counts files, folders and bytes from the nodes, before anything is written.
//!
//! Every node is read once, regardless of the number of links to it, so that a few blocks with a million
//! links to each other take no time. All errors of folders, names and sizes are found here. Only the hashes
//! of leaves are checked later.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::vec;

use crate::cids::{CODEC_DAG_PB, CODEC_RAW, HASH_IDENTITY};
use crate::extract::name::{check_name, check_target};
use crate::extract::store::{Store, whole};
use crate::extract::{BadName, ExtractError, name};
use crate::limits::{DIRECTORY_DEPTH_MAX, FILE_DEPTH_MAX};
use crate::progress::Progress;
use crate::units::len64;
use crate::unixfs::decode::{FileNode, Link, Node, NotUnixfs, Shard, ShardLink, decode};

/// Counts of what the CARs hold below their roots. Each entry counts once per link to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtractPlan {
    /// Files.
    pub files: u64,
    /// Folders, without the roots.
    pub folders: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of files that are known to be holes, and take no space on the disk.
    pub hole_bytes: u64,
}

/// Counts nodes into a plan.
pub(super) struct Planner<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    known: HashMap<Key, Known>,
    stack: Vec<Frame>,
    path: PathBuf,
    names: Vec<Names>,
}

/// Digest of a node. Inlined nodes have no key; they are read again.
type Key = [u8; 32];

/// Counts of a node with everything below it.
#[derive(Debug, Clone, Copy)]
struct Known {
    kind: Kind,
    /// Longest chain of a file's nodes, or of folders, below it.
    height: usize,
    below: ExtractPlan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file, or a part of a file.
    File,
    Folder,
    /// A shard: the root shard of a folder, or one below it.
    Shard,
    Symlink,
}

/// A node whose children are being counted.
#[derive(Debug)]
struct Frame {
    cid: Box<[u8]>,
    role: Role,
    children: vec::IntoIter<Child>,
    /// Whether the node is a root shard, which owns the folder's names.
    owns_names: bool,
    /// Number of shards above it in its folder.
    level: usize,
    known: Known,
}

/// Nodes of files that hold only zeros, and the number of zeros.
#[derive(Debug, Default)]
pub(super) struct Holes(HashMap<Key, u64>);

impl Holes {
    /// Whether a node holds exactly this number of zeros.
    pub(super) fn contains(&self, cid: &[u8], bytes: u64) -> bool {
        !self.0.is_empty() && key(cid).is_some_and(|key| self.0.get(&key) == Some(&bytes))
    }
}

/// The role of a block by the link to it.
#[derive(Debug, Clone)]
enum Role {
    Root,
    Entry(Box<[u8]>),
    /// A shard below the root shard of a folder, and its fanout.
    Shard(u64),
    /// A part of a file with this number of bytes.
    Part(u64),
}

/// A link: CID and role.
type Child = (Box<[u8]>, Role);

/// Names of one folder by their hashes, 16 bytes per name.
#[derive(Debug, Default)]
struct Names {
    seen: HashSet<(u64, u64)>,
    states: [RandomState; 2],
}

impl Names {
    /// Adds a name. Returns `false` if the folder has it already.
    fn insert(&mut self, name: &[u8]) -> bool {
        self.seen.insert((self.states[0].hash_one(name), self.states[1].hash_one(name)))
    }
}

impl ExtractPlan {
    pub(super) fn add(&mut self, other: &Self) {
        self.files = self.files.saturating_add(other.files);
        self.folders = self.folders.saturating_add(other.folders);
        self.symlinks = self.symlinks.saturating_add(other.symlinks);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.hole_bytes = self.hole_bytes.saturating_add(other.hole_bytes);
    }

    /// Files, folders and links together.
    pub fn entries(&self) -> u64 {
        self.files.saturating_add(self.folders).saturating_add(self.symlinks)
    }
}

impl Known {
    fn new(kind: Kind) -> Self {
        Self { kind, height: 0, below: ExtractPlan::default() }
    }

    fn file(bytes: u64, hole_bytes: u64) -> Self {
        Self { below: ExtractPlan { bytes, hole_bytes, ..ExtractPlan::default() }, ..Self::new(Kind::File) }
    }

    /// The counts that a link to the node adds to the node with the link.
    fn linked(mut self, role: &Role) -> Self {
        let Self { kind, height, below } = &mut self;
        match (role, kind) {
            (Role::Root | Role::Shard(_), _) => {}
            (Role::Part(_), _) => *height += 1,
            (Role::Entry(_), Kind::Folder | Kind::Shard) => {
                *height += 1;
                below.folders = below.folders.saturating_add(1);
            }
            (Role::Entry(_), Kind::File) => {
                *height = 0;
                below.files += 1;
            }
            (Role::Entry(_), Kind::Symlink) => below.symlinks += 1,
        }
        self
    }

    fn add(&mut self, child: &Self) {
        self.below.add(&child.below);
        self.height = self.height.max(child.height);
    }
}

impl<'a> Planner<'a> {
    pub(super) fn new(store: &'a Store, progress: &'a dyn Progress) -> Self {
        let (known, stack, path, names) = (HashMap::new(), Vec::new(), PathBuf::new(), Vec::new());
        Self { store, progress, known, stack, path, names }
    }

    /// Counts a root and everything below it. Returns `true` if the root is a folder.
    pub(super) fn count(&mut self, root: &[u8]) -> Result<(ExtractPlan, bool), ExtractError> {
        let mut found = self.visit(root, Role::Root)?;
        loop {
            if let Some(child) = found.take() {
                let Some(parent) = self.stack.last_mut() else {
                    let mut plan = child.below;
                    plan.files += u64::from(child.kind == Kind::File);
                    plan.symlinks += u64::from(child.kind == Kind::Symlink);
                    return Ok((plan, matches!(child.kind, Kind::Folder | Kind::Shard)));
                };
                parent.known.add(&child);
            }
            if self.progress.is_cancelled() {
                return Err(ExtractError::Cancelled);
            }
            let frame = self.stack.last_mut().expect("what is not known yet has a frame");
            found = match frame.children.next() {
                Some((cid, role)) => self.visit(&cid, role)?,
                None => Some(self.leave()?),
            };
        }
    }

    /// The nodes of zeros, after everything was counted.
    pub(super) fn into_holes(self) -> Holes {
        let is_hole = |known: &Known| known.kind == Kind::File && known.below.bytes == known.below.hole_bytes;
        let holes = self.known.into_iter().filter(|(_, known)| is_hole(known));
        Holes(holes.map(|(key, known)| (key, known.below.bytes)).collect())
    }

    /// Visits a block. Returns the counts that a link to it adds, or `None` if its children must be visited
    /// first.
    fn visit(&mut self, cid: &[u8], role: Role) -> Result<Option<Known>, ExtractError> {
        if let Role::Entry(name) = &role {
            self.path.push(name::as_path(name));
        }
        let known = match self.leaf(cid, &role)? {
            Some(leaf) => leaf,
            // Shards below the root shard are not cached, because their names belong to their folder.
            None if matches!(role, Role::Shard(_)) => return self.enter(cid, role).map(|()| None),
            None => match key(cid).and_then(|key| self.known.get(&key)) {
                Some(known) => *known,
                None => return self.enter(cid, role).map(|()| None),
            },
        };
        self.check_kind(cid, &role, known.kind)?;
        self.check_size(cid, &role, &known)?;
        if matches!(role, Role::Entry(_)) {
            self.path.pop();
        }
        Ok(Some(known.linked(&role)))
    }

    /// The counts of a block that need not be read.
    fn leaf(&self, cid: &[u8], role: &Role) -> Result<Option<Known>, ExtractError> {
        let of_block = |error| self.store.error(cid, &self.path, error);
        let codec = whole(cid).map_err(of_block)?.codec;
        let place = self.store.find(cid).map_err(of_block)?;
        let len = Store::len_of(cid, place).map_err(of_block)?;
        match (codec, role) {
            (CODEC_RAW, _) => {
                let is_zero = self.store.is_known_zero(cid);
                Ok(Some(Known::file(len, if is_zero { len } else { 0 })))
            }
            // A node that is at least as long as its content is a leaf. Older kubo writes all leaves as
            // nodes; reading them here would read the CAR twice.
            (CODEC_DAG_PB, Role::Part(bytes)) if len >= *bytes => Ok(Some(Known::file(*bytes, 0))),
            (CODEC_DAG_PB, _) => Ok(None),
            (codec, _) => Err(self.not_unixfs(cid, NotUnixfs::Codec(codec))),
        }
    }

    /// Reads a node and pushes a frame for its children.
    fn enter(&mut self, cid: &[u8], role: Role) -> Result<(), ExtractError> {
        let block = self.store.block(cid).map_err(|error| self.store.error(cid, &self.path, error))?;
        let node = decode(&block).map_err(|source| self.not_unixfs(cid, source))?;
        let kind = match node {
            Node::File(_) => Kind::File,
            Node::Directory(_) => Kind::Folder,
            Node::Shard(_) => Kind::Shard,
            Node::Symlink(_) => Kind::Symlink,
        };
        self.check_kind(cid, &role, kind)?;
        let mut known = Known::new(kind);
        let is_further = matches!(role, Role::Shard(_));
        let level = if is_further { self.stack.last().map_or(0, |frame| frame.level) + 1 } else { 0 };
        let owns_names = kind == Kind::Shard && !is_further;
        let children = match node {
            Node::File(file) => {
                known.below.bytes = len64(file.data.len());
                self.detect_holes(&file);
                file.children.iter().map(|(cid, bytes)| ((*cid).into(), Role::Part(*bytes))).collect()
            }
            Node::Symlink(target) => {
                check_target(target).map_err(|reason| self.bad_name(target, reason))?;
                Vec::new()
            }
            Node::Directory(links) => {
                let mut names = Names::default();
                let child = |link: Link<'_>| self.entry(&mut names, link);
                links.into_iter().map(child).collect::<Result<_, _>>()?
            }
            Node::Shard(shard) => {
                if owns_names {
                    self.names.push(Names::default());
                }
                self.shard_children(cid, &shard, &role, level)?
            }
        };
        let (cid, children) = (cid.into(), children.into_iter());
        self.stack.push(Frame { cid, role, children, owns_names, level, known });
        Ok(())
    }

    /// The links of a shard. Its names are added to those of its folder.
    fn shard_children(
        &mut self,
        cid: &[u8],
        shard: &Shard<'_>,
        role: &Role,
        level: usize,
    ) -> Result<Vec<Child>, ExtractError> {
        if level >= shard.depth_max() || matches!(role, Role::Shard(fanout) if *fanout != shard.fanout) {
            return Err(self.not_unixfs(cid, NotUnixfs::Shard));
        }
        let mut names = self.names.pop().expect("a shard has the names of its folder");
        let child = |link: &ShardLink<'_>| match link {
            ShardLink::Entry(link) => self.entry(&mut names, *link),
            // The slash keeps shards apart from names. A shard that is linked twice would repeat its names.
            ShardLink::Shard(further) if names.insert(&[b"/", *further].concat()) => {
                Ok(((*further).into(), Role::Shard(shard.fanout)))
            }
            ShardLink::Shard(_) => Err(self.not_unixfs(cid, NotUnixfs::Shard)),
        };
        let children = shard.links.iter().map(child).collect();
        self.names.push(names);
        children
    }

    /// Checks a link of a folder.
    fn entry(&self, names: &mut Names, link: Link<'_>) -> Result<Child, ExtractError> {
        check_name(link.name).map_err(|reason| self.bad_name(link.name, reason))?;
        if names.insert(link.name) {
            Ok((link.cid.into(), Role::Entry(link.name.into())))
        } else {
            Err(self.bad_name(link.name, BadName::Twice))
        }
    }

    /// Pops the topmost frame; returns the counts that a link to its node adds.
    fn leave(&mut self) -> Result<Known, ExtractError> {
        let frame = self.stack.pop().expect("the caller looked at it");
        if frame.owns_names {
            self.names.pop();
        }
        let known = frame.known;
        let height_max = if known.kind == Kind::File { FILE_DEPTH_MAX } else { DIRECTORY_DEPTH_MAX };
        if known.height > height_max {
            return Err(ExtractError::TooDeep { inside: self.path.clone() });
        }
        self.check_size(&frame.cid, &frame.role, &known)?;
        if let Some(key) = key(&frame.cid) {
            self.known.insert(key, known);
        }
        if matches!(frame.role, Role::Entry(_)) {
            self.path.pop();
        }
        Ok(known.linked(&frame.role))
    }

    fn check_kind(&self, cid: &[u8], role: &Role, kind: Kind) -> Result<(), ExtractError> {
        let fits = match role {
            Role::Part(_) => kind == Kind::File,
            Role::Shard(_) => kind == Kind::Shard,
            Role::Root | Role::Entry(_) => true,
        };
        if fits { Ok(()) } else { Err(self.not_unixfs(cid, NotUnixfs::Misplaced)) }
    }

    fn check_size(&self, cid: &[u8], role: &Role, known: &Known) -> Result<(), ExtractError> {
        match role {
            Role::Part(bytes) if *bytes != known.below.bytes => Err(self.not_unixfs(cid, NotUnixfs::Sizes)),
            _ => Ok(()),
        }
    }

    /// Checks leaves that are repeated in a row for zeros.
    fn detect_holes(&self, file: &FileNode<'_>) {
        for pair in file.children.windows(2) {
            if pair[0] == pair[1] && whole(pair[0].0).is_ok_and(|parts| parts.codec == CODEC_RAW) {
                self.store.detect_zeros(pair[0].0);
            }
        }
    }

    fn not_unixfs(&self, cid: &[u8], source: NotUnixfs) -> ExtractError {
        self.store.not_unixfs(cid, &self.path, source)
    }

    fn bad_name(&self, name: &[u8], reason: BadName) -> ExtractError {
        let name = String::from_utf8_lossy(name).into_owned();
        ExtractError::Name { folder: self.path.clone(), name, reason }
    }
}

fn key(cid: &[u8]) -> Option<Key> {
    let parts = whole(cid).ok()?;
    if parts.hash == HASH_IDENTITY { None } else { parts.digest.last_chunk().copied() }
}
