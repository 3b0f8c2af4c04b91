//! Console of a command: results on standard output as text or JSON, progress, and the signals that end it.

use std::{fmt, io};

use carferry_core::printer::Printer;
use carferry_core::runtime::Shutdown;
use serde::Serialize;
use tracing::info;

use crate::progress::Screen;

/// What a command talks through.
pub(crate) struct Console<'a> {
    /// Standard output.
    pub out: &'a mut Printer,
    /// Bars on a terminal.
    pub screen: &'a Screen,
    /// The signals that end the command.
    pub shutdown: &'a Shutdown,
    /// Whether results are JSON.
    pub json: bool,
}

impl Console<'_> {
    /// Prints a result: its JSON, or these words for people.
    pub(crate) fn result(&mut self, value: &impl Serialize, words: impl fmt::Display) -> io::Result<()> {
        let Self { out, json, .. } = self;
        self.screen.print(|| if *json { out.json(value) } else { out.line(words) })
    }

    /// Prints words that belong to no result. JSON on standard output has no place for them: they are logged.
    pub(crate) fn remark(&mut self, words: impl fmt::Display) -> io::Result<()> {
        if self.json {
            info!("{words}");
            return Ok(());
        }
        self.screen.print(|| self.out.line(words))
    }
}
