//! One style of imports: a `use` for each module, names of one module in one list, no list inside of a list.

use crate::sources::{Source, none, rust_files};

/// The `use` items of a file, each as one line with its line number.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in source.text.lines().enumerate() {
        let code = line.trim();
        match &mut open {
            Some((_, text)) => text.push_str(code),
            None if code.starts_with("use ") || code.starts_with("pub use ") => {
                open = Some((index + 1, code.to_owned()));
            }
            None => {}
        }
        if code.ends_with(';') {
            found.extend(open.take());
        }
    }
    found
}

#[test]
fn each_module_is_imported_without_nested_lists() {
    let mut findings = Vec::new();
    for source in ["crates", "tests"].into_iter().flat_map(rust_files) {
        for (line, text) in uses(&source) {
            if text.matches('{').count() > 1 {
                findings.push(format!("{}:{line}: {text}", source.path));
            }
        }
    }
    none(&findings, "imports with a list inside of a list");
}

#[test]
fn only_tests_import_by_super() {
    let mut findings = Vec::new();
    for source in rust_files("crates") {
        for (line, text) in source.lines_before_tests() {
            if text.starts_with("use super::") && !source.path.ends_with("/tests.rs") {
                findings.push(format!("{}:{line}: {text}", source.path));
            }
        }
    }
    none(&findings, "imports say `crate::`, so that a file reads the same wherever it stands");
}
