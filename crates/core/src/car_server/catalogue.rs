//! The catalogue of a CAR server: which pieces are offered, and the file of each.
//!
//! It is memory only. The agent that owns it offers CARs after it has checked them; the server withdraws one
//! whose file is gone or is another than the one that was checked.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use carferry_car::{CidError, PayloadSize, PieceCid, PieceCidV2};
use tokio::sync::mpsc;

/// Requests for unknown pieces that wait to be looked up. Beyond it they are forgotten: the reader asks
/// again.
const MISSES_MAX: usize = 64;

/// By what a file is recognised as the one that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Bytes on disk.
    pub bytes: u64,
    /// Modification time: seconds since 1970.
    pub modified_seconds: i64,
    /// Modification time: nanoseconds within that second.
    pub modified_nanos: i64,
}

impl FileStamp {
    /// The stamp of a file as it is now.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            modified_seconds: metadata.mtime(),
            modified_nanos: metadata.mtime_nsec(),
        }
    }
}

/// A CAR that was found to be a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedCar {
    /// The piece.
    pub piece_cid: PieceCid,
    /// The file.
    pub path: PathBuf,
    /// Bytes that are offered, from the start of the file. Fewer than the file has where zeros follow the
    /// CAR.
    pub size: PayloadSize,
    /// The file as it was when it was checked.
    pub stamp: FileStamp,
}

impl OfferedCar {
    /// The strong entity tag: piece and number of bytes decide every byte of the answer.
    pub(super) fn etag(&self) -> String {
        format!("\"{}-{}\"", self.piece_cid, self.size)
    }
}

/// A piece as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceId {
    /// The commitment alone (`baga…`).
    V1(PieceCid),
    /// The commitment with the number of bytes before the zeros (`bafkz…`, FRC-0069).
    V2(PieceCidV2),
}

impl PieceId {
    /// The commitment.
    pub fn piece_cid(&self) -> PieceCid {
        match self {
            Self::V1(piece_cid) => *piece_cid,
            Self::V2(with_size) => with_size.piece_cid(),
        }
    }

    /// Whether an offered CAR is what is asked for. Version 2 names the bytes as well.
    fn is_of(&self, car: &OfferedCar) -> bool {
        match self {
            Self::V1(piece_cid) => *piece_cid == car.piece_cid,
            Self::V2(with_size) => {
                with_size.piece_cid() == car.piece_cid && with_size.payload_size() == car.size
            }
        }
    }
}

impl FromStr for PieceId {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        text.parse().map(Self::V1).or_else(|_| text.parse().map(Self::V2))
    }
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The piece was not offered before, or in another file.
    New,
    /// It was offered as it is.
    Known,
}

/// The offered CARs by their pieces.
#[derive(Debug)]
pub struct Catalogue {
    cars: RwLock<HashMap<PieceCid, Vec<Arc<OfferedCar>>>>,
    misses: mpsc::Sender<PieceCid>,
}

/// The pieces that were asked for and are not offered, in order.
#[derive(Debug)]
pub struct Misses(mpsc::Receiver<PieceCid>);

impl Misses {
    /// The next one; waits for it. `None` after the end of the catalogue.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped loses no piece.
    pub async fn next(&mut self) -> Option<PieceCid> {
        self.0.recv().await
    }

    /// The next one, if one was asked for already.
    pub fn try_next(&mut self) -> Option<PieceCid> {
        self.0.try_recv().ok()
    }
}

impl Catalogue {
    /// An empty catalogue, and the pieces that will be asked for in vain.
    pub fn new() -> (Arc<Self>, Misses) {
        let (misses, missed) = mpsc::channel(MISSES_MAX);
        (Arc::new(Self { cars: RwLock::default(), misses }), Misses(missed))
    }

    /// Offers a CAR; one under the same path is replaced.
    pub fn offer(&self, car: OfferedCar) -> Offer {
        let mut cars = self.cars.write().unwrap_or_else(PoisonError::into_inner);
        let files = cars.entry(car.piece_cid).or_default();
        match files.iter_mut().find(|known| known.path == car.path) {
            Some(known) if **known == car => Offer::Known,
            Some(known) => {
                *known = Arc::new(car);
                Offer::New
            }
            None => {
                files.push(Arc::new(car));
                Offer::New
            }
        }
    }

    /// Withdraws this file. Another file of the same piece stays.
    pub fn withdraw(&self, car: &OfferedCar) {
        let mut cars = self.cars.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = cars.get_mut(&car.piece_cid) {
            files.retain(|known| **known != *car);
            if files.is_empty() {
                cars.remove(&car.piece_cid);
            }
        }
    }

    /// The files of a piece, the one that was offered first in front.
    pub fn find(&self, piece: &PieceId) -> Vec<Arc<OfferedCar>> {
        let cars = self.cars.read().unwrap_or_else(PoisonError::into_inner);
        let files = cars.get(&piece.piece_cid()).into_iter().flatten();
        files.filter(|car| piece.is_of(car)).cloned().collect()
    }

    /// All offered CARs, in no order.
    pub fn all(&self) -> Vec<Arc<OfferedCar>> {
        let cars = self.cars.read().unwrap_or_else(PoisonError::into_inner);
        cars.values().flatten().cloned().collect()
    }

    /// How many pieces are offered.
    pub fn pieces(&self) -> usize {
        self.cars.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Tells the owner that a piece was asked for and is not offered.
    pub(super) fn missed(&self, piece_cid: PieceCid) {
        // A full channel forgets: a reader that wants a piece asks again.
        let _full = self.misses.try_send(piece_cid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: &str = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";

    fn car(path: &str, size: u64) -> OfferedCar {
        let stamp = FileStamp { bytes: size, modified_seconds: 1, modified_nanos: 2 };
        OfferedCar {
            piece_cid: PIECE.parse().unwrap(),
            path: path.into(),
            size: PayloadSize::new(size),
            stamp,
        }
    }

    #[test]
    fn a_piece_is_found_by_both_versions_of_its_cid() {
        let (catalogue, _misses) = Catalogue::new();
        let v2 = |size| {
            let piece_cid: PieceCid = PIECE.parse().unwrap();
            piece_cid.v2(PayloadSize::new(size)).unwrap().to_string()
        };
        assert_eq!(catalogue.offer(car("/a", 1000)), Offer::New);
        for (id, is_there) in [(PIECE.to_owned(), true), (v2(1000), true), (v2(1001), false)] {
            let found = catalogue.find(&id.parse().unwrap());
            assert_eq!(!found.is_empty(), is_there, "{id}");
        }
        assert!("bafkqaaa".parse::<PieceId>().is_err(), "another CID");
    }

    #[test]
    fn one_file_of_a_piece_goes_and_the_other_stays() {
        let (catalogue, _misses) = Catalogue::new();
        assert_eq!(catalogue.offer(car("/a", 1000)), Offer::New);
        assert_eq!(catalogue.offer(car("/a", 1000)), Offer::Known);
        assert_eq!(catalogue.offer(car("/b", 1000)), Offer::New);
        catalogue.withdraw(&car("/a", 999));
        assert_eq!(catalogue.find(&PIECE.parse().unwrap()).len(), 2, "another state of the file");
        catalogue.withdraw(&car("/a", 1000));
        let left = catalogue.find(&PIECE.parse().unwrap());
        assert_eq!(left.iter().map(|car| car.path.clone()).collect::<Vec<_>>(), [PathBuf::from("/b")]);
        catalogue.withdraw(&car("/b", 1000));
        assert_eq!(catalogue.pieces(), 0);
    }

    #[tokio::test]
    async fn misses_beyond_the_capacity_are_forgotten() {
        let (catalogue, mut misses) = Catalogue::new();
        for _ in 0..MISSES_MAX * 2 {
            catalogue.missed(PIECE.parse().unwrap());
        }
        drop(catalogue);
        let mut told = 0;
        while misses.next().await.is_some() {
            told += 1;
        }
        assert_eq!(told, MISSES_MAX);
    }
}
