//! `regenerate`: makes a deleted CAR again from its sources, and accepts it only if it is the same piece.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use carferry_car::{
    BuildOptions, BuiltCar, PaddedPieceSize, PayloadCid, Profile, Progress, ThreadBudget, build_car,
    read_car_root,
};
use carferry_core::error_chain::Hint;
use carferry_core::fsx;
use carferry_core::fsx::TempGuard;
use carferry_core::model::stored::unsigned;
use carferry_core::model::{CarDoc, PlanDoc};
use carferry_core::printer::ExitStatus;
use carferry_core::store::Store;

use crate::blocking::in_background;
use crate::car_line::CarLine;
use crate::cli::RegenerateArgs;
use crate::config::Config;
use crate::console::Console;
use crate::exit::CommandError;
use crate::makecars::dataset::build_piece::{MakeError, PieceJob, SourceTimes, make};
use crate::makecars::dataset::rules::PlanRules;
use crate::makecars::dataset::{manifest, plan_store};
use crate::progress::Meter;

/// Why a CAR was not made again.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegenerateError {
    /// No record names it.
    #[error("no record in `cars` has the payload CID {0}")]
    Unknown(String),
    /// The record does not say how it was made.
    #[error("the record of {payload_cid} does not say {what}")]
    Incomplete {
        /// The CAR.
        payload_cid: String,
        /// What is missing.
        what: &'static str,
    },
    /// Its manifest, and those who look for CARs, go by the name.
    #[error("{} does not end in .car", path.display())]
    NoCarName {
        /// As given.
        path: PathBuf,
    },
    /// There is one.
    #[error("{} exists already", path.display())]
    Exists {
        /// The CAR.
        path: PathBuf,
    },
    /// What is there is left alone, whatever was asked for.
    #[error("{} is there already, and {reason}", path.display())]
    NotReplaced {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// The plan that it was a piece of is gone.
    #[error("piece {piece} of plan {plan} is not in the database any more")]
    NoPlan {
        /// The plan.
        plan: String,
        /// The piece.
        piece: i64,
    },
    /// The sources have another content.
    #[error("what the sources make now is piece {found}, not {recorded}: they are not what they were")]
    AnotherPiece {
        /// Of the CAR that was made, and removed.
        found: String,
        /// As recorded.
        recorded: String,
    },
    /// It could not be made.
    #[error("the CAR was not made")]
    Make(#[from] MakeError),
}

impl Hint for RegenerateError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unknown(_) => "the payload CID stands in `cars.filecid` and in the manifests",
            Self::Exists { .. } => "`verify-car` checks it; --force replaces it",
            Self::NotReplaced { .. } => {
                "--force replaces this very CAR alone; move the file away, or use --output"
            }
            Self::AnotherPiece { .. } => {
                "bring back the files as they were; a copy of the CAR may also be had from a provider"
            }
            Self::Make(_) => "the files must be where they were, and as long",
            Self::NoCarName { .. } => "give the CAR a name that does",
            Self::Incomplete { .. } | Self::NoPlan { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// How it is made.
enum Recipe {
    File { input: PathBuf },
    Piece(Box<PieceJob>),
}

/// Runs `regenerate`.
///
/// # Errors
///
/// [`RegenerateError`], or the database's.
pub(super) async fn regenerate(
    args: &RegenerateArgs,
    config: &Config,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let user = |error: RegenerateError| CommandError::user(&error);
    let store = Store::open(&config.store_options()?).await?;
    let wanted = args.filecid.to_string();
    let host = config.agent_name();
    let cars = store.cars_of_payload(&wanted).await?;
    // This box's own before others'.
    let car = cars.iter().find(|car| car.host.as_deref() == Some(&host)).or(cars.first());
    let car = car.ok_or_else(|| user(RegenerateError::Unknown(wanted.clone())))?;
    let missing = |what| user(RegenerateError::Incomplete { payload_cid: wanted.clone(), what });
    let recorded = car.piececid.clone().ok_or_else(|| missing("its piece CID"))?;
    let profile: Profile = car
        .profile
        .as_deref()
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| missing("the DAG profile that it was made with"))?;
    let path = args.output.clone().or_else(|| car.outputpath.clone().map(PathBuf::from));
    let path = path.ok_or_else(|| missing("where it was"))?;
    if path.extension().is_none_or(|extension| extension != "car") {
        return Err(user(RegenerateError::NoCarName { path }));
    }
    let is_recorded = cars.iter().any(|car| {
        car.host.as_deref() == Some(&host) && car.outputpath.as_deref().map(Path::new) == Some(&path)
    });
    check_place(&path, &wanted, is_recorded, args.force).map_err(user)?;
    if car.plan.is_some() {
        check_manifest(&path, &wanted, args.force).map_err(user)?;
    }
    let recipe = recipe(&store, car, &args.filecid, profile, &path).await?.map_err(user)?;
    let bytes = unsigned(car.filesizebytes.unwrap_or(0));
    let meter = Meter::new(bytes, 1, console.shutdown.token().clone());
    let shown = console.screen.show(&meter, args.work.no_progress);
    let budget = args.work.budget();
    let target = path.clone();
    let made =
        in_background(console.shutdown, move || run(recipe, profile, &target, &recorded, &budget, &meter))
            .await?;
    drop(shown);
    let made = made.map_err(user)?;
    let BuiltCar { payload_cid, piece_cid, .. } = &made;
    let words = format!("made again  {}  {payload_cid}  {piece_cid}", path.display());
    console.result(&CarLine::built(&made).at(&path), words)?;
    Ok(ExitStatus::Success)
}

/// Whether the CAR may go to its place: nothing is there, or with `--force` what is recorded as this CAR, or
/// is it.
fn check_place(path: &Path, wanted: &str, is_recorded: bool, force: bool) -> Result<(), RegenerateError> {
    let Ok(there) = path.symlink_metadata() else { return Ok(()) };
    let left_alone = |reason| RegenerateError::NotReplaced { path: path.to_owned(), reason };
    let is_it = || read_car_root(path).is_ok_and(|root| root.to_string() == wanted);
    match there {
        _ if !force => Err(RegenerateError::Exists { path: path.to_owned() }),
        there if !there.is_file() => Err(left_alone("no regular file")),
        _ if is_recorded || is_it() => Ok(()),
        _ => Err(left_alone("not recorded as this CAR")),
    }
}

/// Whether the manifest may go to its place: nothing is there, or a manifest of this CAR.
fn check_manifest(path: &Path, wanted: &str, force: bool) -> Result<(), RegenerateError> {
    let beside = manifest::path_of(path);
    let name = path.file_name().unwrap_or_default();
    let is_of_car = manifest::read_piece(&beside)
        .is_ok_and(|said| said.facts.payloadcid.as_deref() == Some(wanted) || force && name == &*said.car);
    if beside.symlink_metadata().is_err() || is_of_car {
        return Ok(());
    }
    Err(RegenerateError::NotReplaced { path: beside, reason: "not the manifest of this CAR" })
}

async fn recipe(
    store: &Store,
    car: &CarDoc,
    root: &PayloadCid,
    profile: Profile,
    path: &Path,
) -> Result<Result<Recipe, RegenerateError>, CommandError> {
    let incomplete =
        |what| RegenerateError::Incomplete { payload_cid: car.filecid.clone().unwrap_or_default(), what };
    let Some(input) = car.inputpath.clone().map(PathBuf::from) else {
        return Ok(Err(incomplete("what it was made of")));
    };
    let Some((id, index)) = car.plan.as_deref().zip(car.planpiece) else {
        return Ok(Ok(Recipe::File { input }));
    };
    let no_plan = || RegenerateError::NoPlan { plan: id.to_owned(), piece: index };
    let (Some(mut plan), Some(piece)) = (store.plan(id).await?, store.pack_piece_of(id, index).await?) else {
        return Ok(Err(no_plan()));
    };
    let entries = plan_store::entries(store, &piece).await?;
    if entries.is_empty() {
        return Ok(Err(no_plan()));
    }
    let piece_size = piece_size(&plan);
    // What counts is how this very CAR was made: a plan may be shared by versions.
    plan.rules = PlanRules::of_root(root).stored();
    let (car, verify, times) = (path.to_owned(), false, SourceTimes::AsFound);
    let changed_nanos = None;
    let job =
        PieceJob { plan, index, entries, input, car, profile, piece_size, verify, times, changed_nanos };
    Ok(Ok(Recipe::Piece(Box::new(job))))
}

fn piece_size(plan: &PlanDoc) -> PaddedPieceSize {
    let bytes = u64::try_from(plan.key.piecesizebytes).ok();
    bytes.and_then(|bytes| PaddedPieceSize::new(bytes).ok()).unwrap_or(PaddedPieceSize::GIB_64)
}

fn run(
    recipe: Recipe,
    profile: Profile,
    path: &Path,
    recorded: &str,
    budget: &ThreadBudget,
    meter: &Arc<Meter>,
) -> Result<BuiltCar, RegenerateError> {
    let output = |error| RegenerateError::Make(MakeError::Output(error));
    if let Some(folder) = path.parent() {
        fsx::create_folders(folder).map_err(output)?;
    }
    let (car, files) = match recipe {
        Recipe::Piece(job) => {
            let made = make(&job, budget, &**meter as &dyn Progress)?;
            (made.car, made.files)
        }
        Recipe::File { input } => {
            let (file, temp) = fsx::create_temp_beside(path).map_err(output)?;
            let options = BuildOptions { params: profile.params(), max_piece: PaddedPieceSize::GIB_64 };
            let car = build_car(budget, &input, &file, &options, &**meter).map_err(MakeError::Build)?;
            (car, vec![temp])
        }
    };
    let found = car.piece_cid.to_string();
    if found != recorded {
        // Dropped, and with them their files.
        drop(files);
        return Err(RegenerateError::AnotherPiece { found, recorded: recorded.to_owned() });
    }
    files.into_iter().try_for_each(TempGuard::publish).map_err(output)?;
    Ok(car)
}
