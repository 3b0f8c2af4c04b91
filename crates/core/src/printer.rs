//! Prints to standard output: lines, tables and JSON Lines. The exit status that goes with it is
//! [`ExitStatus`].
//!
//! `println!` panics when the reader of a pipe has ended (`client-agent status | head`); a [`Printer`] writes
//! nothing more instead. Errors, logs and progress go to stderr and are not printed here.

use std::io::Write;
use std::{fmt, io};

use comfy_table::{Table, presets};
use serde::Serialize;

pub use crate::escaped::Escaped;
use crate::escaped::EscapedJson;
pub use crate::exit_status::ExitStatus;

/// A table without frames.
pub fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Writes lines and JSON. After the reader of the pipe has ended, it writes nothing and reports no error.
pub struct Printer {
    out: Box<dyn Write + Send>,
    reader_gone: bool,
}

impl Printer {
    /// Prints to standard output.
    pub fn stdout() -> Self {
        Self::to(io::stdout())
    }

    /// Prints to anything, for tests.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), reader_gone: false }
    }

    /// One line of text.
    pub fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        self.quietly(|out| writeln!(out, "{}", Escaped(text)))
    }

    /// Text as it is, such as a table that ends its own lines.
    pub fn text(&mut self, text: impl fmt::Display) -> io::Result<()> {
        self.quietly(|out| write!(out, "{}", Escaped(text)))
    }

    /// One JSON document on one line, so that several make JSON Lines.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        // JSON itself escapes what is below the space; the rest can only stand inside of strings.
        self.quietly(|out| writeln!(out, "{}", EscapedJson(&text)))
    }

    /// Writes out what is still buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.quietly(|out| out.flush())
    }

    /// Whether the reader of the pipe has ended, so that a long listing may stop.
    pub fn reader_gone(&self) -> bool {
        self.reader_gone
    }

    fn quietly(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        if self.reader_gone {
            return Ok(());
        }
        match write(&mut *self.out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_gone = true;
                Ok(())
            }
            other => other,
        }
    }
}

impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printer").field("reader_gone", &self.reader_gone).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Pipe {
        written: Arc<Mutex<Vec<u8>>>,
        fails_with: Option<io::ErrorKind>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.fails_with {
                Some(kind) => Err(kind.into()),
                None => self.written.lock().unwrap().write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            self.fails_with.map_or(Ok(()), |kind| Err(kind.into()))
        }
    }

    #[test]
    fn lines_and_json_reach_the_reader() {
        let pipe = Pipe::default();
        let mut printer = Printer::to(pipe.clone());
        printer.line("2 cars").unwrap();
        printer.json(&serde_json::json!({"cars": 2})).unwrap();
        printer.text("no newline").unwrap();
        printer.flush().unwrap();
        assert_eq!(*pipe.written.lock().unwrap(), b"2 cars\n{\"cars\":2}\nno newline");
        assert!(!printer.reader_gone());
    }

    #[test]
    fn nothing_that_works_a_terminal_is_printed() {
        let pipe = Pipe::default();
        let mut printer = Printer::to(pipe.clone());
        let name = "a\u{1b}[2J\u{7}b\u{9b}31m\r\u{202e}gpj.exe\u{7f} 数据\tend";
        printer.line(name).unwrap();
        printer.text(format_args!("{name}\n{}\n", 7)).unwrap();
        printer.json(&serde_json::json!({ "name": name })).unwrap();
        let written = String::from_utf8(pipe.written.lock().unwrap().clone()).unwrap();
        let text = "a\\u{1b}[2J\\u{7}b\\u{9b}31m\\u{d}\\u{202e}gpj.exe\\u{7f} 数据\tend\n";
        let (lines, json) = written.split_at(written.find('{').map_or(0, |_| 2 * text.len() + 2));
        assert_eq!(lines, format!("{text}{text}7\n"));
        assert!(!json.contains(|c: char| c.is_control() && c != '\n'), "{json:?}");
        let read: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(read["name"], name, "machines read what it was");
    }

    #[test]
    fn a_broken_pipe_is_silence_and_a_full_disk_is_an_error() {
        let mut printer =
            Printer::to(Pipe { fails_with: Some(io::ErrorKind::BrokenPipe), ..Pipe::default() });
        printer.line("into the void").unwrap();
        assert!(printer.reader_gone());
        printer.line("more").unwrap();
        printer.flush().unwrap();
        let mut printer =
            Printer::to(Pipe { fails_with: Some(io::ErrorKind::StorageFull), ..Pipe::default() });
        assert_eq!(printer.line("data").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
