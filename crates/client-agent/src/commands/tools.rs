//! `generate-car`, `commp`, `verify-car`: CARs and commitments without database or node.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carferry_car::{
    BuildError, BuildOptions, BuiltCar, HeaderError, PaddedPieceSize, PieceError, ThreadBudget, VerifyError,
    build_car, open_regular, piece_of_file, plan_car, read_car_root, verify_car,
};
use carferry_core::error_chain::{ErrorChain, Hint};
use carferry_core::fsx;
use carferry_core::printer::{Escaped, ExitStatus, Printer};
use serde::Serialize;

use crate::blocking::in_background;
use crate::car_line::CarLine;
use crate::cli::{FilesArgs, GenerateCarArgs};
use crate::console::Console;
use crate::exit::CommandError;
use crate::progress::Meter;

/// Why `generate-car` made no CAR.
#[derive(Debug, thiserror::Error)]
pub(super) enum GenerateError {
    /// Nothing is overwritten by accident.
    #[error("{} exists already", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// What stands there is left alone, whatever was asked for.
    #[error("{} {reason}", path.display())]
    NotReplaced {
        /// The output.
        path: PathBuf,
        /// Why it is left alone.
        reason: &'static str,
    },
    /// A CAR of a folder cannot hold itself.
    #[error("the CAR {} would lie inside the folder it is made of", path.display())]
    Inside {
        /// The output.
        path: PathBuf,
    },
    /// The source.
    #[error("no CAR was made")]
    Build(#[from] BuildError),
    /// The output.
    #[error("cannot write the CAR")]
    Output(#[from] io::Error),
}

impl Hint for GenerateError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Exists { .. } => "--force replaces it",
            Self::NotReplaced { .. } => "name another output; --force replaces CARs alone",
            Self::Inside { .. } => "write it elsewhere",
            Self::Build(BuildError::TooLarge { max_piece, .. }) if *max_piece < PaddedPieceSize::GIB_64 => {
                "--max-piece 64GiB allows more, where the provider has such sectors"
            }
            Self::Build(BuildError::SourceChanged { .. }) => "run it again once nobody writes there",
            Self::Build(_) | Self::Output(_) => return None,
        };
        Some(hint.to_owned())
    }
}

/// One result, as JSON. Field names are those of `cars` where they mean the same.
#[derive(Debug, Default, Serialize)]
struct Line {
    file: String,
    #[serde(flatten)]
    car: CarLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    piececidv2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payloadsizebytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachableblocks: Option<u64>,
    /// Zeros behind the CAR, up to the size of its piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    paddingbytes: Option<u64>,
    /// Blocks whose links were not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfollowedblocks: Option<u64>,
    /// Of the files, where the root is not theirs: profile singularity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filecids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl Line {
    fn new(file: &Path) -> Self {
        Self { file: file.to_string_lossy().into_owned(), ..Self::default() }
    }

    fn print(&self, console: &mut Console<'_>) -> io::Result<()> {
        let Console { out, screen, json, .. } = console;
        screen.print(|| if *json { out.json(self) } else { self.print_facts(out) })
    }

    /// For people: one fact a line.
    fn print_facts(&self, out: &mut Printer) -> io::Result<()> {
        let facts = [
            ("payload CID", self.car.payloadcid.clone()),
            ("CAR size", self.car.carsizebytes.map(|bytes| bytes.to_string())),
            ("piece CID", self.car.piececid.clone()),
            ("piece CID v2", self.piececidv2.clone()),
            ("payload size", self.payloadsizebytes.map(|bytes| bytes.to_string())),
            ("unpadded piece size", self.car.dealsizebytes.map(|bytes| bytes.to_string())),
            ("padded piece size", self.car.piecesizebytes.map(|bytes| bytes.to_string())),
            ("blocks", self.blocks.map(|blocks| blocks.to_string())),
            (
                "unreachable blocks",
                self.unreachableblocks.filter(|&blocks| blocks > 0).map(|blocks| blocks.to_string()),
            ),
            (
                "zeros behind it",
                self.paddingbytes
                    .filter(|&bytes| bytes > 0)
                    .map(|bytes| format!("{bytes}, up to the size of the piece: this is the padded piece")),
            ),
            (
                "links not followed",
                self.unfollowedblocks
                    .filter(|&blocks| blocks > 0)
                    .map(|blocks| format!("of {blocks} blocks, neither dag-pb nor dag-cbor")),
            ),
        ];
        if let Some(error) = &self.error {
            use io::Write as _;
            let named =
                if error.contains(&self.file) { error.clone() } else { format!("{}: {error}", self.file) };
            let hint = self.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            return writeln!(io::stderr(), "{}", Escaped(format!("error: {named}{hint}")));
        }
        out.line(&self.file)?;
        for (name, value) in facts {
            if let Some(value) = value {
                out.line(format_args!("  {name:<20} {value}"))?;
            }
        }
        for cid in &self.filecids {
            out.line(format_args!("  {:<20} {cid}", "file CID"))?;
        }
        Ok(())
    }
}

/// Runs `generate-car`.
///
/// # Errors
///
/// When no CAR was made.
pub(super) async fn generate_car(
    args: &GenerateCarArgs,
    mut console: Console<'_>,
) -> Result<ExitStatus, CommandError> {
    let plan = plan_car(&args.input, &args.profile.params()).map_err(GenerateError::from);
    let plan = plan.map_err(|error| CommandError::user(&error))?;
    let meter = Meter::new(plan.source_bytes, plan.files, console.shutdown.token().clone());
    let shown = console.screen.show(&meter, args.work.no_progress);
    let options = BuildOptions { params: args.profile.params(), max_piece: args.max_piece };
    let budget = args.work.budget();
    let (input, output, force) = (args.input.clone(), args.output.clone(), args.force);
    let built =
        in_background(console.shutdown, move || build(&budget, &input, &output, &options, force, &meter))
            .await?;
    drop(shown);
    let car = built.map_err(|error| CommandError::user(&error))?;
    let line = Line {
        car: CarLine::built(&car),
        blocks: Some(car.block_count),
        filecids: car.file_cids.iter().map(ToString::to_string).collect(),
        ..Line::new(&args.output)
    };
    line.print(&mut console)?;
    Ok(ExitStatus::Success)
}

fn build(
    budget: &ThreadBudget,
    input: &Path,
    output: &Path,
    options: &BuildOptions,
    force: bool,
    meter: &Meter,
) -> Result<BuiltCar, GenerateError> {
    if let Ok(there) = output.symlink_metadata() {
        let left_alone = |reason| GenerateError::NotReplaced { path: output.to_owned(), reason };
        let source = input.metadata().ok().map(|source| (source.dev(), source.ino()));
        if source == Some((there.dev(), there.ino())) {
            return Err(left_alone("is the input itself"));
        }
        if !there.is_file() {
            return Err(left_alone("is there already, and no regular file"));
        }
        if !force {
            return Err(GenerateError::Exists { path: output.to_owned() });
        }
        if there.len() > 0 && read_car_root(output).is_err() {
            return Err(left_alone("is there already, and no CAR"));
        }
    }
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let (Ok(folder), Ok(input)) = (folder.canonicalize(), input.canonicalize())
        && input.is_dir()
        && folder.starts_with(input)
    {
        return Err(GenerateError::Inside { path: output.to_owned() });
    }
    // Of a run that was killed here.
    fsx::sweep_stale_temps(folder)?;
    let (file, temp) = fsx::create_temp_beside(output)?;
    let car = build_car(budget, input, &file, options, meter)?;
    drop(file);
    temp.publish()?;
    Ok(car)
}

/// Runs `commp`.
///
/// # Errors
///
/// Only when printing fails; trouble with files is reported and shows in the status.
pub(super) async fn commp(args: &FilesArgs, console: Console<'_>) -> Result<ExitStatus, CommandError> {
    for_each_file(args, console, commp_of).await
}

/// Runs `verify-car`.
///
/// # Errors
///
/// Only when printing fails; what is wrong with a CAR is reported and shows in the status.
pub(super) async fn verify(args: &FilesArgs, console: Console<'_>) -> Result<ExitStatus, CommandError> {
    for_each_file(args, console, check_of).await
}

fn commp_of(budget: &ThreadBudget, file: &Path, meter: &Meter) -> Line {
    let line = Line::new(file);
    let piece =
        open_regular(file).map_err(PieceError::Read).and_then(|open| piece_of_file(budget, &open, meter));
    let v2 = piece.and_then(|piece| Ok((piece.piece_cid.v2(piece.payload_size)?, piece)));
    match v2 {
        Ok((v2, piece)) => Line {
            car: CarLine::piece(&piece.piece_cid, piece.padded_piece_size),
            piececidv2: Some(v2.to_string()),
            payloadsizebytes: Some(piece.payload_size.get()),
            ..line
        },
        Err(error) => Line { error: Some(ErrorChain(&error).to_string()), ..line },
    }
}

fn check_of(budget: &ThreadBudget, file: &Path, meter: &Meter) -> Line {
    let line = Line::new(file);
    match verify_car(budget, file, meter) {
        Ok(car) => Line {
            car: CarLine {
                payloadcid: Some(car.payload_cid.to_string()),
                carsizebytes: Some(car.payload_size.get()),
                ..CarLine::piece(&car.piece_cid, car.padded_piece_size)
            },
            blocks: Some(car.block_count),
            unreachableblocks: Some(car.unreachable_blocks),
            paddingbytes: Some(car.padding_bytes).filter(|&bytes| bytes > 0),
            unfollowedblocks: Some(car.unfollowed_blocks).filter(|&blocks| blocks > 0),
            ..line
        },
        Err(error) => Line {
            error: Some(ErrorChain(&error).to_string()),
            hint: hint_of(&error),
            offset: error.offset(),
            ..line
        },
    }
}

/// What can be done about a CAR that is not right.
fn hint_of(error: &VerifyError) -> Option<&'static str> {
    match error {
        VerifyError::Header(header) => hint_of_header(header),
        VerifyError::PlaceholderRoot { .. } => Some(PLACEHOLDER_HINT),
        VerifyError::EmptySection { .. } => Some(
            "the CAR may be whole: zeros behind a CAR are its piece only where they fill it exactly, up to 127 * 2^n \
             bytes; a download that was cut short has fewer",
        ),
        _ => None,
    }
}

/// What can be done about a header that is not that of a CARv1 with one root.
pub(crate) fn hint_of_header(header: &HeaderError) -> Option<&'static str> {
    match header {
        HeaderError::Version(2) => Some(
            "a CARv2 is a CARv1 in a wrapper, and deals are about the CARv1: `car index --version 1 --codec none IN \
             OUT` of go-car takes it out",
        ),
        HeaderError::RootCount(0) => Some("`extract --root CID` restores from a root that you know"),
        _ => None,
    }
}

const PLACEHOLDER_HINT: &str = "the tool that wrote it streamed the CAR and never came to know its root; make it \
                                again with another one, or restore with `extract --root CID`";

/// Runs `each` on every file, one after the other, and prints what it says.
async fn for_each_file(
    args: &FilesArgs,
    mut console: Console<'_>,
    each: fn(&ThreadBudget, &Path, &Meter) -> Line,
) -> Result<ExitStatus, CommandError> {
    let bytes = args.files.iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let files = u64::try_from(args.files.len()).unwrap_or(u64::MAX);
    let meter = Meter::new(bytes, files, console.shutdown.token().clone());
    let shown = console.screen.show(&meter, args.work.no_progress);
    let budget = Arc::new(args.work.budget());
    let mut status = ExitStatus::Success;
    for file in &args.files {
        let (path, counter) = (file.clone(), Arc::clone(&meter));
        let budget = Arc::clone(&budget);
        let line = in_background(console.shutdown, move || each(&budget, &path, &counter)).await?;
        meter.item_done();
        if line.error.is_some() {
            status = ExitStatus::UserError;
        }
        line.print(&mut console)?;
        if console.shutdown.token().is_cancelled() {
            status = ExitStatus::Interrupted;
            break;
        }
    }
    drop(shown);
    Ok(status)
}
