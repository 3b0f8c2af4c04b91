//! What came of it, for people and as JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use carferry_core::model::{CarDoc, OfflineDealDoc};
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::watching::{is_active, is_in_sector, is_large_enough};

/// CARs beyond these are in the JSON only.
const ROWS_MAX: usize = 60;
const FILE_COLUMNS: usize = 36;

/// Where the road of a deal ends in the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// Active on chain.
    Active,
    /// In a sector of the provider.
    InSector,
}

impl Goal {
    fn column(self) -> &'static str {
        match self {
            Self::Active => "active deals",
            Self::InSector => "deals in a sector",
        }
    }

    fn is_reached_by(self, deal: &OfflineDealDoc) -> bool {
        match self {
            Self::Active => is_active(deal),
            Self::InSector => is_in_sector(deal),
        }
    }
}

/// The whole summary.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    goal: Goal,
    cars: Vec<CarLine>,
    miners: Vec<MinerLine>,
    stages: Vec<Stage>,
    total_seconds: f64,
}

#[derive(Debug, Serialize)]
struct CarLine {
    file: String,
    file_bytes: i64,
    payload_cid: String,
    piece_cid: String,
    padded_piece_bytes: i64,
    deals: usize,
    deals_at_goal: usize,
    /// Its piece is smaller than the miners take.
    too_small: bool,
}

#[derive(Debug, Serialize)]
struct MinerLine {
    miner: String,
    deals: usize,
    deals_at_goal: usize,
    padded_piece_bytes: i64,
    import_latency: Latency,
}

/// From the record with isdeal 0 to the import call, in seconds.
#[derive(Debug, Default, Serialize)]
struct Latency {
    min: Option<f64>,
    median: Option<f64>,
    max: Option<f64>,
}

/// A step of the demo and how long it took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) seconds: f64,
}

impl Summary {
    /// From the documents as they are in the end.
    pub(crate) fn new(
        input: &Path,
        cars: &[CarDoc],
        deals: &[OfflineDealDoc],
        goal: Goal,
        stages: Vec<Stage>,
        total: Duration,
    ) -> Self {
        let mut cars: Vec<CarLine> = cars.iter().map(|car| CarLine::new(input, car, deals, goal)).collect();
        cars.sort_by(|a, b| a.file.cmp(&b.file));
        let mut of_miners: BTreeMap<String, Vec<&OfflineDealDoc>> = BTreeMap::new();
        for deal in deals {
            of_miners.entry(deal.miner.clone().unwrap_or_default()).or_default().push(deal);
        }
        let miners =
            of_miners.into_iter().map(|(miner, deals)| MinerLine::new(miner, &deals, goal)).collect();
        Self { goal, cars, miners, stages, total_seconds: total.as_secs_f64() }
    }

    /// Tables.
    pub(crate) fn text(&self) -> String {
        let more = self.cars.len().saturating_sub(ROWS_MAX);
        let more = if more > 0 { format!("and {more} more (--json has all)\n") } else { String::new() };
        let stages: Vec<String> =
            self.stages.iter().map(|stage| format!("{} {:.1} s", stage.name, stage.seconds)).collect();
        format!(
            "\n{cars}\n{more}\n{miners}\n\
             latency: from the record with isdeal 0 to the import call; a miner imports one CAR at a time\n\n\
             times: {stages}; all in all {total:.1} s",
            cars = self.cars_table(),
            miners = self.miners_table(),
            stages = stages.join(", "),
            total = self.total_seconds,
        )
    }

    fn cars_table(&self) -> Table {
        let mut table = table(
            &["file", "size", "payload CID", "piece CID", "padded piece", self.goal.column()],
            &[1, 4, 5],
        );
        for car in self.cars.iter().take(ROWS_MAX) {
            table.add_row([
                shortened(&car.file, FILE_COLUMNS / 2, FILE_COLUMNS / 2 - 1),
                size(car.file_bytes),
                shortened(&car.payload_cid, 7, 6),
                shortened(&car.piece_cid, 7, 6),
                size(car.padded_piece_bytes),
                if car.too_small {
                    "too small".to_owned()
                } else {
                    format!("{} of {}", car.deals_at_goal, car.deals)
                },
            ]);
        }
        let sum = |part: fn(&CarLine) -> i64| size(self.cars.iter().map(part).sum());
        // Not the sum of the column: files with the same bytes share their deals.
        let deals: usize = self.miners.iter().map(|miner| miner.deals).sum();
        let active: usize = self.miners.iter().map(|miner| miner.deals_at_goal).sum();
        table.add_row([
            format!("{} CARs", self.cars.len()),
            sum(|car| car.file_bytes),
            String::new(),
            String::new(),
            sum(|car| car.padded_piece_bytes),
            format!("{active} of {deals}"),
        ]);
        table
    }

    fn miners_table(&self) -> Table {
        let mut table = table(
            &["miner", self.goal.column(), "padded pieces", "latency min", "median", "max"],
            &[1, 2, 3, 4, 5],
        );
        let seconds = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.2} s"));
        for miner in &self.miners {
            table.add_row([
                miner.miner.clone(),
                format!("{} of {}", miner.deals_at_goal, miner.deals),
                size(miner.padded_piece_bytes),
                seconds(miner.import_latency.min),
                seconds(miner.import_latency.median),
                seconds(miner.import_latency.max),
            ]);
        }
        table
    }
}

impl CarLine {
    fn new(input: &Path, car: &CarDoc, deals: &[OfflineDealDoc], goal: Goal) -> Self {
        let path = car.inputpath.clone().unwrap_or_default();
        let file =
            Path::new(&path).strip_prefix(input).map_or(path.clone(), |file| file.display().to_string());
        let own: Vec<_> = deals.iter().filter(|deal| deal.filecid == car.filecid).collect();
        Self {
            file,
            file_bytes: car.filesizebytes.unwrap_or(0),
            payload_cid: car.filecid.clone().unwrap_or_default(),
            piece_cid: car.piececid.clone().unwrap_or_default(),
            padded_piece_bytes: car.piecesizebytes.unwrap_or(0),
            deals: own.len(),
            deals_at_goal: own.iter().filter(|deal| goal.is_reached_by(deal)).count(),
            too_small: !is_large_enough(car),
        }
    }
}

impl MinerLine {
    fn new(miner: String, deals: &[&OfflineDealDoc], goal: Goal) -> Self {
        let mut milliseconds: Vec<i64> = deals
            .iter()
            .filter_map(|deal| {
                let called = deal.import.as_ref()?.calledtime?;
                Some(called.timestamp_millis() - deal.createdtime?.timestamp_millis())
            })
            .collect();
        milliseconds.sort_unstable();
        let seconds = |index: usize| {
            let time = u64::try_from(*milliseconds.get(index)?).unwrap_or(0);
            Some(Duration::from_millis(time).as_secs_f64())
        };
        let unpadded: i64 = deals.iter().filter_map(|deal| deal.dealsizebytes).sum();
        Self {
            miner,
            deals: deals.len(),
            deals_at_goal: deals.iter().filter(|deal| goal.is_reached_by(deal)).count(),
            padded_piece_bytes: unpadded / 127 * 128,
            import_latency: Latency {
                min: seconds(0),
                median: seconds(milliseconds.len() / 2),
                max: milliseconds.len().checked_sub(1).and_then(seconds),
            },
        }
    }
}

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(Cell::new));
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn size(bytes: i64) -> String {
    BinaryBytes(u64::try_from(bytes).unwrap_or(0)).to_string()
}

/// The beginning and the end, where the middle tells nothing.
fn shortened(text: &str, head: usize, tail: usize) -> String {
    let length = text.chars().count();
    if length <= head + tail + 1 {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{beginning}…{end}")
}

#[cfg(test)]
mod tests {
    use bson::DateTime;
    use carferry_core::model::ImportDoc;

    use super::*;

    fn deal(miner: &str, created: i64, called: i64, status: i64) -> OfflineDealDoc {
        OfflineDealDoc {
            filecid: Some("bafk".into()),
            miner: Some(miner.into()),
            status: Some(status),
            dealsizebytes: Some(127),
            createdtime: Some(DateTime::from_millis(created)),
            import: Some(ImportDoc {
                calledtime: Some(DateTime::from_millis(called)),
                ..ImportDoc::default()
            }),
            ..OfflineDealDoc::default()
        }
    }

    #[test]
    fn latencies_and_sums_are_those_of_the_documents() {
        let car = CarDoc {
            inputpath: Some("/in/sub/a.bin".into()),
            filecid: Some("bafk".into()),
            filesizebytes: Some(100),
            piecesizebytes: Some(256),
            ..CarDoc::default()
        };
        let deals = [
            deal("f01000", 0, 300, 7),
            deal("f01000", 0, 100, 7),
            deal("f01000", 0, 2000, 29),
            deal("f01001", 500, 900, 7),
        ];
        let summary =
            Summary::new(Path::new("/in"), &[car], &deals, Goal::Active, Vec::new(), Duration::from_secs(1));
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["cars"][0]["file"], "sub/a.bin");
        assert_eq!((&json["cars"][0]["deals"], &json["cars"][0]["deals_at_goal"]), (&4.into(), &3.into()));
        let first = &json["miners"][0];
        assert_eq!(first["padded_piece_bytes"], 384);
        assert_eq!(first["import_latency"], serde_json::json!({"min": 0.1, "median": 0.3, "max": 2.0}));
        assert!(summary.text().contains("3 of 4"));
    }

    #[test]
    fn long_names_keep_beginning_and_end() {
        assert_eq!(shortened("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3", 7, 6), "bafybei…y26nf3");
        assert_eq!(shortened("short.txt", 7, 6), "short.txt");
    }
}
