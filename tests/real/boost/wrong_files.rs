//! What may lie at the provider in the place of a CAR.

use std::fs;

use crate::boost::node::Node;
use crate::setup::{Car, Setup};

/// A file that is not the deal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Missing,
    Folder,
    Empty,
    OtherRoot,
    CutShort,
    /// Another piece: nothing but the piece commitment tells.
    OneBit,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Missing, Self::Folder, Self::Empty, Self::OtherRoot, Self::CutShort, Self::OneBit];

    /// The words of `import.reason` that say so. Client and provider share a machine here, so a CAR that is
    /// missing in the provider's folder is seen where it was made.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Missing => "lies outside of the folders",
            Self::Folder => "is not a regular file",
            Self::Empty => "has 0 of",
            Self::OtherRoot => "has the root",
            Self::CutShort => "was cut short",
            Self::OneBit => "is not the deal's piece",
        }
    }
}

/// Puts it into the provider's folder in the place of a CAR.
pub(crate) fn lay(setup: &Setup<Node>, car: &Car, fault: Fault) {
    let path = setup.provider_folder.join(car.name());
    let mut bytes = fs::read(&path).unwrap();
    match fault {
        Fault::Missing => fs::remove_file(&path).unwrap(),
        Fault::Folder => {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
        Fault::Empty => fs::write(&path, "").unwrap(),
        Fault::OtherRoot => {
            // Within the root's digest, in the header of the CAR.
            bytes[50] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
        Fault::CutShort => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
        Fault::OneBit => {
            // In the content of a block: the last tenth holds the nodes above them.
            let place = bytes.len() / 4;
            bytes[place] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
}

/// Brings the right one, whole at once.
pub(crate) fn mend(setup: &Setup<Node>, car: &Car) {
    let path = setup.provider_folder.join(car.name());
    if path.is_dir() {
        fs::remove_dir(&path).unwrap();
    }
    let arriving = setup.provider_folder.join(format!("{}.part", car.name()));
    fs::copy(&car.path, &arriving).unwrap();
    harness::test_env::move_file(&arriving, &path).unwrap();
}
