//! Small real CARs.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bson::{Document, doc};
use carferry_car::{BuildOptions, NoProgress, ThreadBudget, build_car};

/// No block is larger.
const SPARSE_STEP: usize = 256 << 10;

/// A CAR on disk.
#[derive(Debug, Clone)]
pub struct Car {
    /// What it was made of.
    pub source: PathBuf,
    /// Where it is.
    pub path: PathBuf,
    /// Its root.
    pub payload_cid: String,
    /// Its piece commitment.
    pub piece_cid: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// Bytes of its UNPADDED piece.
    pub deal_size_bytes: u64,
}

impl Car {
    /// Its document in `cars`.
    pub fn document(&self) -> Document {
        let number = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        doc! {
            "inputpath": self.source.display().to_string(),
            "outputpath": self.path.display().to_string(),
            "filecid": &self.payload_cid,
            "piececid": &self.piece_cid,
            "group": "road",
            "carsizebytes": number(self.size_bytes),
            "dealsizebytes": number(self.deal_size_bytes),
            "createdtime": bson::DateTime::now(),
        }
    }
}

pub(super) fn make(source: &Path, content: &[u8]) -> anyhow::Result<Car> {
    fs::write(source, content)?;
    build(source)
}

/// Of a file with holes: so many bytes, of which each block has a few of its own, so that no two are alike.
pub(super) fn make_sparse(source: &Path, bytes: u64) -> anyhow::Result<Car> {
    let file = File::create_new(source)?;
    file.set_len(bytes)?;
    for at in (0..bytes).step_by(SPARSE_STEP) {
        file.write_all_at(&at.to_be_bytes(), at.min(bytes.saturating_sub(8)))?;
    }
    build(source)
}

fn build(source: &Path) -> anyhow::Result<Car> {
    let path = source.with_extension("car");
    let file = File::create_new(&path)?;
    let built = build_car(&ThreadBudget::alone(), source, &file, &BuildOptions::default(), &NoProgress)?;
    Ok(Car {
        source: source.to_owned(),
        path,
        payload_cid: built.payload_cid.to_string(),
        piece_cid: built.piece_cid.to_string(),
        size_bytes: built.payload_size.get(),
        deal_size_bytes: built.padded_piece_size.unpadded().get(),
    })
}
