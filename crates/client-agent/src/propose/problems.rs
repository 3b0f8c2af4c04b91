//! Problems that keep CARs from deals: equal reasons are one line, with the number of CARs and their cost.

use std::collections::BTreeMap;

use carferry_core::model::AttoFil;
use serde::{Serialize, Serializer};

/// Lines that are kept; what is beyond is counted.
const LINES_MAX: usize = 50;

/// A reason, the same for every CAR that meets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Of this CAR alone.
    OfCar(String),
    /// Of every CAR like this with this provider.
    WithMiner {
        /// Storage provider.
        miner: String,
        /// A sentence without the CAR's name.
        why: String,
    },
    /// The wallet has not enough for a deal with this provider.
    Funds {
        /// Storage provider.
        miner: String,
    },
    /// The wallet has not enough datacap for a deal with this provider.
    Datacap {
        /// Storage provider.
        miner: String,
    },
}

/// What the CARs of one reason have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sum {
    cars: u64,
    /// The first CAR of them.
    example: String,
    cost: AttoFil,
    datacap_bytes: u128,
    /// Money, or bytes of datacap, that were left when the first of them was looked at.
    left: u128,
}

/// What else is known of a problem.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lack {
    /// What a deal would cost.
    pub cost: AttoFil,
    /// What it would take of datacap.
    pub datacap_bytes: u128,
    /// What was left of the one that does not suffice.
    pub left: u128,
}

/// The problems of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    sums: BTreeMap<Reason, Sum>,
    beyond: u64,
}

impl Problems {
    /// Notes a CAR that gets no deal.
    pub fn add(&mut self, reason: Reason, car: &str, lack: Lack) {
        let Lack { cost, datacap_bytes, left } = lack;
        self.merge(reason, Sum { cars: 1, example: car.to_owned(), cost, datacap_bytes, left });
    }

    /// Adds what another pass met.
    pub fn absorb(&mut self, other: Self) {
        self.beyond += other.beyond;
        for (reason, more) in other.sums {
            self.merge(reason, more);
        }
    }

    fn merge(&mut self, reason: Reason, more: Sum) {
        if self.sums.len() >= LINES_MAX && !self.sums.contains_key(&reason) {
            self.beyond += more.cars;
            return;
        }
        let sum = self.sums.entry(reason).or_default();
        if sum.cars == 0 {
            (sum.example, sum.left) = (more.example, more.left);
        }
        sum.cars += more.cars;
        sum.cost = sum.cost.plus(more.cost);
        sum.datacap_bytes = sum.datacap_bytes.saturating_add(more.datacap_bytes);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty() && self.beyond == 0
    }

    /// Lines.
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// CARs of reasons beyond the lines.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// A sentence for each reason.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        self.sums.iter().map(|(reason, sum)| sentence(reason, sum))
    }

    /// The reasons, by which a problem that stays is known.
    pub fn reasons(&self) -> impl Iterator<Item = (&Reason, String)> {
        self.sums.iter().map(|(reason, sum)| (reason, sentence(reason, sum)))
    }

    /// Whether this reason is among them.
    pub fn contains(&self, reason: &Reason) -> bool {
        self.sums.contains_key(reason)
    }
}

impl Serialize for Problems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

fn sentence(reason: &Reason, sum: &Sum) -> String {
    match reason {
        Reason::OfCar(words) => words.clone(),
        Reason::WithMiner { miner, why } => format!("{} with {miner}: {why}", cars(sum)),
        Reason::Funds { miner } => format!(
            "{} with {miner}: needs {}, the wallet has {} left for deals",
            cars(sum),
            sum.cost,
            AttoFil::new(sum.left)
        ),
        Reason::Datacap { miner } => format!(
            "{} with {miner}: needs {} bytes of datacap, {} are left",
            cars(sum),
            sum.datacap_bytes,
            sum.left
        ),
    }
}

/// The CARs of a line: the name of a single one, else how many.
fn cars(sum: &Sum) -> String {
    match sum.cars {
        1 => sum.example.clone(),
        many => format!("{many} CARs ({} is the first)", sum.example),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_one_line_with_their_sum() {
        let mut problems = Problems::default();
        let lack = Lack { cost: AttoFil::new(1_059_838_000_000_000_000), left: 375, ..Lack::default() };
        for number in 0..244 {
            problems.add(Reason::Funds { miner: "f01000".into() }, &format!("bafy{number}"), lack);
        }
        problems.add(Reason::Funds { miner: "f01001".into() }, "bafy1", lack);
        let small = Reason::WithMiner { miner: "f01000".into(), why: "the piece is too small".into() };
        problems.add(small, "bafy7", Lack::default());
        let lines: Vec<String> = problems.iter().collect();
        assert_eq!(
            lines,
            [
                "bafy7 with f01000: the piece is too small",
                "244 CARs (bafy0 is the first) with f01000: needs 258.600472 FIL, the wallet has \
                 0.000000000000000375 FIL left for deals",
                "bafy1 with f01001: needs 1.059838 FIL, the wallet has 0.000000000000000375 FIL left for deals",
            ]
        );
        let mut twice = problems.clone();
        twice.absorb(problems);
        assert!(twice.iter().any(|line| line.starts_with("488 CARs")), "{twice:?}");
    }

    #[test]
    fn reasons_beyond_a_screen_are_counted() {
        let mut problems = Problems::default();
        for number in 0..200 {
            problems.add(Reason::OfCar(format!("document {number}")), "", Lack::default());
        }
        assert_eq!((problems.len(), problems.beyond()), (50, 150));
    }
}
