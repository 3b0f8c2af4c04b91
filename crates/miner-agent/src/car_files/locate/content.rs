//! Checks of one file against the deal: size, root, padding with zeros, and on request its piece CID.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use carferry_car::{PayloadSize, PieceCid, UnpaddedPieceSize};
use carferry_core::error_chain::ErrorChain;

use crate::car_files::folder_guard::Heartbeat;
use crate::car_files::locate::candidates::Candidate;
use crate::car_files::locate::{Examined, Wanted};
use crate::car_files::piece_check::{NOT_THE_PIECE, PieceChecker, PieceVerdict};

/// How long a file without a recorded size must have been left alone. Source: an estimate; tools that copy
/// write at least once a second.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// By this machine's clock; a time that lies ahead of it tells nothing.
fn was_just_written(metadata: &Metadata) -> bool {
    metadata.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age < SETTLED_AFTER)
}

/// What speaks against a file, without reading all of it.
pub(super) fn look(candidate: &Candidate, metadata: &Metadata, wanted: &Wanted) -> Option<Examined> {
    let size = PayloadSize::new(metadata.len());
    if let Some(recorded) = candidate.car_size {
        if size < recorded {
            return Some(Examined::Arriving(format!("has {size} of {recorded} bytes")));
        }
        if size > recorded {
            match (padding(&candidate.path, size, recorded, wanted.piece_size), wanted.piece_size) {
                (Padding::Whole, _) => {}
                (Padding::Growing, Some(piece)) => {
                    return Some(Examined::Arriving(format!(
                        "has {size} of {piece} bytes of the padded piece"
                    )));
                }
                _ => return Some(Examined::Wrong(format!("has {size} bytes, `cars` says {recorded}"))),
            }
        }
    }
    if let Some(piece_size) = wanted.piece_size
        && size.get() > piece_size.get()
    {
        return Some(Examined::Wrong(format!("has {size} bytes, the deal's piece holds {piece_size}")));
    }
    if let (Some(deal), Some(recorded)) = (wanted.piece_cid, candidate.piece_cid)
        && deal != recorded
    {
        return Some(Examined::Wrong(format!("is piece {recorded} by `cars`, the deal is about {deal}")));
    }
    if size == PayloadSize::default() {
        return Some(Examined::Arriving("is empty".to_owned()));
    }
    let root = match carferry_car::read_car_root(&candidate.path) {
        Ok(root) => root,
        Err(error) => return Some(Examined::Wrong(format!("is no CAR: {}", ErrorChain(&error)))),
    };
    match &wanted.payload_cid {
        Some(payload_cid) if root != *payload_cid => {
            Some(Examined::Wrong(format!("has the root {root}, the deal is about {payload_cid}")))
        }
        _ if candidate.car_size.is_none() && was_just_written(metadata) => {
            let seconds = SETTLED_AFTER.as_secs();
            Some(Examined::Arriving(format!(
                "was written to within the last {seconds} s, and `cars` does not say how large it is"
            )))
        }
        _ => None,
    }
}

/// What follows the bytes of a CAR in a longer file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Padding {
    /// Zeros up to the UNPADDED size of the deal's piece: the file is the piece, as providers serve it and
    /// some tools write it.
    Whole,
    /// Zeros, and fewer of them.
    Growing,
    /// Something else.
    Other,
}

/// Looks at what follows the bytes of a CAR. Of many zeros, only the first and the last are looked at;
/// whether all of the file is the piece, the piece CID says.
fn padding(
    path: &Path,
    size: PayloadSize,
    car_size: PayloadSize,
    piece_size: Option<UnpaddedPieceSize>,
) -> Padding {
    let Some(piece_size) = piece_size else { return Padding::Other };
    let (start, end) = (car_size.get(), size.get());
    let is_zero = |from: u64, to: u64| {
        let mut bytes = vec![1; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        let file = carferry_car::open_regular(path);
        file.and_then(|file| file.read_exact_at(&mut bytes, from)).is_ok()
            && bytes.iter().all(|byte| *byte == 0)
    };
    let last = end.saturating_sub(ZEROS_LOOKED_AT).max(start);
    if end > piece_size.get() || !is_zero(start, end.min(start + ZEROS_LOOKED_AT)) || !is_zero(last, end) {
        return Padding::Other;
    }
    if end == piece_size.get() { Padding::Whole } else { Padding::Growing }
}

/// Bytes at either end of the zeros behind a CAR that are looked at. Chosen: enough to tell zeros from data.
const ZEROS_LOOKED_AT: u64 = 1 << 20;

/// Compares the piece CID of a file with the deal's.
pub(super) fn check_piece(
    checker: &PieceChecker,
    heartbeat: &Heartbeat,
    path: &Path,
    metadata: &Metadata,
    deal: PieceCid,
    wanted: &Wanted,
) -> io::Result<Examined> {
    Ok(match checker.check(path, metadata, wanted.piece_size, heartbeat)? {
        PieceVerdict::Piece(piece_cid) if piece_cid == deal => {
            Examined::Good(PayloadSize::new(metadata.len()))
        }
        PieceVerdict::Piece(piece_cid) => Examined::Wrong(format!(
            "{NOT_THE_PIECE}: its piece CID is {piece_cid}, the deal is about {deal}"
        )),
        PieceVerdict::Changed => Examined::Arriving("changed while it was read".to_owned()),
        PieceVerdict::Busy => Examined::Arriving("is being read for its piece CID already".to_owned()),
    })
}
