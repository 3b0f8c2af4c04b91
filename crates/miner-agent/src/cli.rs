//! The command line: types only.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config;

/// Imports the CARs of offline deals into a storage provider's market.
#[derive(Debug, Parser)]
#[command(name = "miner-agent", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration file (YAML).
    #[arg(short, long, global = true, value_name = "FILE", env = "CARFERRY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print JSON: one document, or one line per deal or check.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch for deals and import them, until SIGTERM or SIGINT.
    #[command(visible_alias = "makedealimport")]
    Run(Doing),
    /// Try everything that is due once, then exit.
    Import(Doing),
    /// Show pending deals and why they wait. Asks only the database.
    Status(Status),
    /// Ask for another try, now, of deals that wait or failed; not of those whose start is missed.
    Retry(Retry),
    /// Check database, nodes, tokens, clocks and folders; changes nothing.
    Doctor,
    /// Check the configuration alone.
    CheckConfig,
}

/// Options of the commands that import.
#[derive(Clone, Copy, Debug, Args)]
pub struct Doing {
    /// Say of each due deal what would be imported, or why not; claim and call nothing, then exit.
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `status`.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// One deal, by its proposal CID: all that is known of it, imported or not.
    #[arg(value_name = "DEALCID")]
    pub deal: Option<String>,
    /// Deals shown, most urgent first; 0 shows sums alone.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: i64,
}

/// Options of `retry`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Retry {
    /// The deal, by its proposal CID.
    #[arg(value_name = "DEALCID")]
    pub deal: Option<String>,
    /// All deals of the configured miners.
    #[arg(long)]
    pub all: bool,
}

impl Cli {
    /// Reads a command line; also gives the flags that stand for configuration keys.
    ///
    /// # Errors
    ///
    /// clap's, which knows how to print itself; asking for help is one.
    pub fn parse_from(
        args: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<(Self, Vec<(String, String)>), clap::Error> {
        let keys = config::keys();
        let matches = Self::command().args(carferry_core::config::args(&keys)).try_get_matches_from(args)?;
        let cli = Self::from_arg_matches(&matches)?;
        // Global flags stand in the matches of the subcommand, wherever they were written.
        let innermost = matches.subcommand().map_or(&matches, |(_, inner)| inner);
        Ok((cli, carferry_core::config::overrides(&keys, innermost)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Cli, Vec<(String, String)>), clap::Error> {
        Cli::parse_from(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn flags_of_keys_and_options_stand_side_by_side() {
        let (cli, flags) = parsed(
            "miner-agent import -c import.yaml --dry-run --json --verify-piece --roots /a,/b --lease 5s",
        )
        .unwrap();
        assert_eq!(cli.config.as_deref(), Some(std::path::Path::new("import.yaml")));
        assert!(cli.json && matches!(cli.command, Command::Import(Doing { dry_run: true })));
        let flags: Vec<_> = flags.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        assert_eq!(flags, [("roots", "/a,/b"), ("setting.lease", "5s"), ("setting.verifyPiece", "true")]);
    }

    #[test]
    fn the_first_programs_name_is_a_command() {
        let (cli, _) = parsed("miner-agent makedealimport -c import.yaml").unwrap();
        assert!(matches!(cli.command, Command::Run(Doing { dry_run: false })));
    }

    #[test]
    fn retry_wants_a_deal_or_all() {
        assert!(parsed("miner-agent retry").is_err());
        assert!(parsed("miner-agent retry bafyrei --all").is_err());
        assert!(parsed("miner-agent retry --all").is_ok());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().args(carferry_core::config::args(&config::keys())).debug_assert();
    }
}
