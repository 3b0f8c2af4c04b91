//! The command line: arguments of every command, as `clap` reads them.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use carferry_car::{PaddedPieceSize, PayloadCid, Profile, ThreadBudget};
use carferry_core::config::human;
use carferry_core::model::address::MinerId;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use crate::config;

/// Packs CARs, publishes offline deals, tracks them.
#[derive(Debug, Parser)]
#[command(name = "client-agent", version, disable_help_subcommand = true, max_term_width = 110)]
pub struct Cli {
    /// Configuration file (YAML).
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "CARFERRY_CONFIG",
        hide_env_values = true,
        help_heading = "Configuration"
    )]
    pub config: Option<PathBuf>,
    /// JSON on standard output, one document a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make CARs of a folder, by files or in full pieces, and record them in `cars`.
    Makecars(MakecarsArgs),
    /// Publish offline deals for every CAR and miner that the limits still allow, then end.
    Makedeals(MakedealsArgs),
    /// Keep the states of deals true.
    Track(TrackArgs),
    /// Publish deals as limits free up and track them, until stopped.
    Run(RunArgs),
    /// Forget what keeps CARs from miners (refusals, failed deals, pauses): the next pass proposes them
    /// again.
    Retry(RetryArgs),
    /// Show CARs, deals by miner and state, and what is stuck and why.
    Status,
    /// Check configuration, database and Lotus node, with a hint for each failure.
    Doctor(DoctorArgs),
    /// Check the configuration and say what it resolves to.
    CheckConfig,
    /// Make one CAR of a file or a folder. Needs no database.
    GenerateCar(GenerateCarArgs),
    /// Compute the piece commitment of files. Needs no database.
    Commp(FilesArgs),
    /// Check CARs: every block's hash, one root, all links, and the commitment. Needs no database.
    VerifyCar(FilesArgs),
    /// Restore files and folders from CARs, every byte checked. Needs no database.
    Extract(ExtractArgs),
    /// Check the CARs of this box against their records in `cars`: size and commitment.
    Verify(VerifyArgs),
    /// Make a CAR again that was deleted; accept it only if it is the same piece.
    Regenerate(RegenerateArgs),
    /// Offer the CARs of this box over HTTP by their piece CID, until stopped.
    Serve,
}

/// Arguments of `makecars`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct MakecarsArgs {
    /// File, or folder whose files are packed (hidden ones too; symbolic links are not followed).
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub input: PathBuf,
    /// Folder for the CARs: `<relative path>.car`, or with --layout tree and pack
    /// `<group>-<plan>-<number>.car`. Made if it does not exist.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Name of the data set (default: the file's name before `_<digits>.<ext>`, else the input folder's
    /// name).
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// DAG parameters.
    #[arg(long, value_name = "PROFILE", default_value_t = Profile::Lotus, value_parser = profile_parser())]
    pub profile: Profile,
    /// Say what would be made and what is done already; write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Record nothing, and make every CAR again: what is done is known only from the database.
    #[arg(long)]
    pub no_database: bool,
    /// Replace CARs whose source changed even where deals still wait for their data.
    #[arg(long)]
    pub replace: bool,
    /// Read every CAR again before it gets its name, and compare.
    #[arg(long)]
    pub verify: bool,
    /// With --layout pack: cut no file that fits into a piece, however much room that wastes.
    #[arg(long)]
    pub keep_whole: bool,
    /// With --layout tree and pack: where the disk is full, wait until there is room for the next piece.
    #[arg(long)]
    pub wait_for_space: bool,
    /// Threads and progress.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// Arguments of every command that reads or hashes CARs.
#[derive(Debug, Args)]
pub struct WorkArgs {
    /// Threads that read and hash (default: one a processor).
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Neither a bar nor progress lines.
    #[arg(long)]
    pub no_progress: bool,
}

impl WorkArgs {
    /// The threads for all CARs together.
    pub fn budget(&self) -> ThreadBudget {
        self.jobs.map_or_else(ThreadBudget::of_processors, ThreadBudget::new)
    }
}

/// Arguments of `makedeals`.
#[derive(Debug, Args)]
pub struct MakedealsArgs {
    /// Print the plan (deals, bytes, price in FIL per miner); publish and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `track`.
#[derive(Debug, Args)]
pub struct TrackArgs {
    /// Look at every deal once, then end.
    #[arg(long)]
    pub once: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Print the plan and end: the same as `makedeals --dry-run`.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["filecid", "miner", "all"])))]
pub struct RetryArgs {
    /// The CAR, by its payload CID (`cars.filecid`), with all miners.
    #[arg(value_name = "FILECID")]
    pub filecid: Option<PayloadCid>,
    /// All CARs with this miner.
    #[arg(long, value_name = "MINER")]
    pub miner: Option<MinerId>,
    /// All CARs with all miners.
    #[arg(long)]
    pub all: bool,
    /// Say how many there are; forget nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Make missing indexes, as every start does.
    #[arg(long)]
    pub create_indexes: bool,
}

/// Arguments of `generate-car`.
#[derive(Debug, Args)]
pub struct GenerateCarArgs {
    /// File or folder to pack.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub input: PathBuf,
    /// The CAR.
    #[arg(value_name = "OUT.car", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// DAG parameters.
    #[arg(long, value_name = "PROFILE", default_value_t = Profile::Lotus, value_parser = profile_parser())]
    pub profile: Profile,
    /// Largest piece the CAR may need: 32GiB or 64GiB.
    #[arg(long, value_name = "SIZE", default_value = "32GiB", value_parser = config::parse_max_piece)]
    pub max_piece: PaddedPieceSize,
    /// Replace an existing file.
    #[arg(long)]
    pub force: bool,
    /// Threads and progress.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// Arguments of `commp` and `verify-car`.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// The files.
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Threads and progress.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// Arguments of `extract`.
#[derive(Debug, Args)]
pub struct ExtractArgs {
    /// The CARs; all that the data lies in, where it was split. Manifests (`.jsonl`) beside them join split
    /// files.
    #[arg(required = true, value_name = "FILE.car", value_hint = ValueHint::FilePath)]
    pub cars: Vec<PathBuf>,
    /// Folder for what is restored. Made if it does not exist.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// What is done where a file is already: an error, compare and go on, or replace it.
    #[arg(long, value_enum, default_value_t = WhereThere::Refuse)]
    pub existing: WhereThere,
    /// Restore from this root instead of the one in the header; may be given several times.
    #[arg(long, value_name = "CID", value_parser = parse_root)]
    pub root: Vec<PayloadCid>,
    /// Leave symbolic links out.
    #[arg(long)]
    pub no_symlinks: bool,
    /// Say how much there is; write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Threads and progress.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// What `extract` does where a file is already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WhereThere {
    /// It is an error, before anything is written there.
    Refuse,
    /// It is compared, byte by byte, and stays.
    Keep,
    /// It is replaced.
    Replace,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Every CAR that this box recorded.
    #[arg(long, required = true)]
    pub all: bool,
    /// Leave out what was found good within this time: an interrupted run goes on where it was. 0: nothing.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = parse_duration)]
    pub within: Duration,
    /// Threads and progress.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// Arguments of `regenerate`.
#[derive(Debug, Args)]
pub struct RegenerateArgs {
    /// Payload CID of the CAR, as in `cars.filecid`.
    #[arg(value_name = "FILECID")]
    pub filecid: PayloadCid,
    /// Where it goes (default: where it was).
    #[arg(long, value_name = "FILE.car", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Replace an existing file.
    #[arg(long)]
    pub force: bool,
    /// Threads and progress.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// A root as it is given on the command line.
fn parse_root(text: &str) -> Result<PayloadCid, String> {
    text.parse().map_err(|error: carferry_car::CidError| error.to_string())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    human::parse_duration(text).map_err(|error| error.to_string())
}

/// Commands that read the configuration, and which sections of it they have flags for.
const CONFIGURED: &[(&str, &[&str])] = &[
    (
        "makecars",
        &[
            "mongodb.",
            "setting.maxPiece",
            "setting.layout",
            "setting.pieceSize",
            "setting.agentName",
            "setting.databaseTimeout",
            "log.",
        ],
    ),
    ("makedeals", &[""]),
    ("track", &[""]),
    ("run", &[""]),
    ("retry", &["mongodb.", "setting.databaseTimeout", "log."]),
    ("status", &["mongodb.", "setting.agentName", "setting.databaseTimeout", "log."]),
    ("verify", &["mongodb.", "setting.agentName", "setting.databaseTimeout", "log."]),
    ("regenerate", &["mongodb.", "setting.agentName", "setting.databaseTimeout", "log."]),
    (
        "serve",
        &[
            "mongodb.",
            "setting.serve.",
            "setting.agentName",
            "setting.databaseTimeout",
            "setting.gracePeriod",
            "log.",
        ],
    ),
    ("doctor", &[""]),
    ("check-config", &[""]),
];

/// The whole command line, configuration keys included.
pub fn command() -> clap::Command {
    let keys = config::keys();
    CONFIGURED.iter().fold(Cli::command(), |command, (name, sections)| {
        let keys: Vec<_> = keys
            .iter()
            .filter(|key| sections.iter().any(|section| key.path.starts_with(section)))
            .copied()
            .collect();
        command.mut_subcommand(name, |subcommand| subcommand.args(carferry_core::config::args(&keys)))
    })
}

fn profile_parser() -> impl clap::builder::TypedValueParser<Value = Profile> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(Profile::ALL.map(Profile::name))
        .try_map(|name| name.parse::<Profile>())
}
