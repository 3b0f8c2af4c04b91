//! Command names of the prototype's programs: called as `makecars …`, a program runs `client-agent makecars
//! …`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The arguments of `program`, with its command where it was called by the command's name.
pub fn as_called(
    arguments: impl IntoIterator<Item = OsString>,
    program: &str,
    names: &[(&str, &str)],
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let called = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(OsStr::to_str);
    let command = names.iter().find(|(name, _)| Some(*name) == called).map(|(_, command)| *command);
    if let Some(command) = command {
        arguments.splice(0..1, [program.into(), command.into()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_by_a_commands_name_is_that_command() {
        let names = [("makecars", "makecars"), ("makedealimport", "run")];
        for (line, meant) in [
            ("/usr/bin/makecars --input a", "agent makecars --input a"),
            ("makedealimport -c import.yaml", "agent run -c import.yaml"),
            ("./agent makecars", "./agent makecars"),
            ("", ""),
        ] {
            let called = as_called(line.split_whitespace().map(OsString::from), "agent", &names);
            let words: Vec<_> = called.iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(words.join(" "), meant, "{line}");
        }
    }
}
