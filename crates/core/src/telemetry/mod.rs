//! Logging: tracing events to stderr, as text or JSON. Names of fields are in [`fields`].

pub mod fields;

use std::io;
use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::sections::LogFormat;
use crate::error_chain::Hint;

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("bad log filter \"{filter}\"")]
    Filter {
        /// The filter as it was written.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

impl Hint for TelemetryError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Filter { .. } => Some(
                "write error, warn, info, debug or trace, or parts with commas: info,carferry_core::lotus=debug"
                    .to_owned(),
            ),
            Self::Twice(_) => None,
        }
    }
}

/// Libraries whose `info` events are of no use to an operator. A filter that names one of them overrules
/// this.
const QUIET: &[&str] =
    &["hyper", "hyper_util", "jsonrpsee", "mongodb", "rustls", "hickory_resolver", "hickory_proto"];

/// Begins logging to stderr, for the whole process.
///
/// # Errors
///
/// [`TelemetryError::Filter`] when the filter is not one.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    init_to(format, filter, io::stderr)
}

/// As [`init`], through another writer, such as one that prints above a progress bar.
pub fn init_to<W>(format: LogFormat, filter: &str, writer: W) -> Result<(), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber = subscriber(format, filter, io::stderr().is_terminal(), writer)?;
    Ok(tracing::subscriber::set_global_default(subscriber)?)
}

/// The subscriber that [`init_to`] installs; tests use it with a writer of their own.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    on_terminal: bool,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let json = match format {
        LogFormat::Auto => !on_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let layer = if json {
        fmt::layer().json().flatten_event(true).with_current_span(true).with_writer(writer).boxed()
    } else {
        // The module of an event is of use to machines only.
        let layer = fmt::layer().with_target(false).with_writer(writer);
        // On a terminal the library's own default stands, which honours NO_COLOR.
        if on_terminal { layer.boxed() } else { layer.with_ansi(false).boxed() }
    };
    Ok(Registry::default().with(env_filter(filter)?).with(layer))
}

fn env_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let bad = |source| TelemetryError::Filter { filter: filter.to_owned(), source };
    // A word that is no level would otherwise be taken for a module of that name, and nothing be logged.
    let mut parsed = EnvFilter::builder().parse(filter).map_err(bad)?;
    for library in QUIET.iter().filter(|library| !filter.contains(**library)) {
        let directive = format!("{library}=warn").parse().map_err(bad)?;
        parsed = parsed.add_directive(directive);
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error_chain::Report;

    fn logged(format: LogFormat, filter: &str, on_terminal: bool, act: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::<u8>::new()));
        let writer = Arc::clone(&written);
        let subscriber = subscriber(format, filter, on_terminal, move || Sink(Arc::clone(&writer))).unwrap();
        tracing::subscriber::with_default(subscriber, act);
        String::from_utf8(written.lock().unwrap().clone()).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn import() {
        let span = tracing::info_span!("reconcile", { fields::PROPOSAL_CID } = "bafy");
        let _entered = span.enter();
        tracing::info!({ fields::MINER } = "f01000", "imported");
    }

    #[test]
    fn json_carries_the_fields_of_event_and_span() {
        let text = logged(LogFormat::Auto, "info", false, import);
        let event: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(event["message"], "imported");
        assert_eq!(event[fields::MINER], "f01000");
        assert_eq!(event["span"][fields::PROPOSAL_CID], "bafy");
    }

    #[test]
    fn text_off_a_terminal_has_no_colour() {
        let text = logged(LogFormat::Text, "info", false, import);
        assert!(text.contains("imported") && text.contains("miner=\"f01000\""), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn filters_choose_events_and_libraries_stay_quiet() {
        let act = || {
            tracing::info!(target: "mongodb::connection", "library");
            tracing::debug!("detail");
        };
        assert_eq!(logged(LogFormat::Text, "info", false, act), "");
        let text = logged(LogFormat::Text, "debug,mongodb=info", false, act);
        assert!(text.contains("library") && text.contains("detail"), "{text}");
    }

    #[test]
    fn a_bad_filter_is_refused_with_a_hint() {
        for filter in ["info=what=ever", "carferry=loud"] {
            let error = init(LogFormat::Text, filter).unwrap_err();
            let report = Report::of(&error).to_string();
            assert!(report.starts_with(&format!("error: bad log filter \"{filter}\"")), "{report}");
            assert!(report.contains("\nhint: write error, warn"), "{report}");
        }
    }
}
