//! Four CARs that are not what their deals are about: the provider's agent names each, and imports the right
//! one once it is there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use harness::eventually;

use crate::setup::{Car, Setup};

/// What is wrong, and the words of `import.reason` that say so. Client and provider share a machine here, so
/// the CAR that is missing in the provider's folder is seen where it was made.
const FAULTS: [(Fault, &str); 4] = [
    (Fault::Missing, "lies outside of the folders"),
    (Fault::OtherRoot, "has the root"),
    (Fault::CutShort, "was cut short"),
    (Fault::OneBit, "is not the deal's piece"),
];

#[derive(Debug, Clone, Copy)]
enum Fault {
    Missing,
    OtherRoot,
    CutShort,
    OneBit,
}

pub(crate) struct WrongCars {
    cars: Vec<(Car, &'static str)>,
}

impl WrongCars {
    /// Puts them into the provider's folder in the place of the first CARs.
    pub(crate) fn lay(setup: &Setup, cars: &[Car], rng: &mut fastrand::Rng) -> Self {
        let mut laid = Vec::new();
        for (car, (fault, words)) in cars.iter().zip(FAULTS) {
            let path = setup.provider_folder.join(car.name());
            let mut bytes = fs::read(&path).unwrap();
            match fault {
                Fault::Missing => fs::remove_file(&path).unwrap(),
                Fault::OtherRoot => fs::copy(&cars.last().unwrap().path, &path).map(drop).unwrap(),
                Fault::CutShort => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                Fault::OneBit => {
                    // In the content of a block: the last tenth holds the nodes above them.
                    let place = rng.usize(bytes.len() / 10..bytes.len() / 2);
                    bytes[place] ^= 1;
                    fs::write(&path, bytes).unwrap();
                }
            }
            laid.push((car.clone(), words));
        }
        Self { cars: laid }
    }

    pub(crate) fn count(&self) -> usize {
        self.cars.len()
    }

    /// Waits until each deal's record says what is wrong.
    pub(crate) async fn are_named(&self, setup: &Setup, within: Duration) {
        for (car, words) in &self.cars {
            eventually!(
                within within,
                {
                    let deal = setup.deal_of(car).await;
                    let import = deal.get_document("import").cloned().unwrap_or_default();
                    let reason = import.get_str("reason").unwrap_or_default().to_owned();
                    if reason.contains(words) { Ok(()) } else { Err(reason) }
                },
                "the deal of {} says that its CAR {words}", car.name()
            );
        }
    }

    /// Brings the right ones, each whole at once.
    pub(crate) fn mend(&self, setup: &Setup) {
        for (car, _) in &self.cars {
            let arriving: PathBuf = setup.provider_folder.join(format!("{}.part", car.name()));
            fs::copy(&car.path, &arriving).unwrap();
            harness::test_env::move_file(&arriving, &setup.provider_folder.join(car.name())).unwrap();
        }
    }
}
