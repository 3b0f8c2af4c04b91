//! Comments are plain: no longer than a line, and without the words that say nothing.

use crate::sources::{none, rust_files};

/// Columns of a line, as in `rustfmt.toml`.
const WIDTH: usize = 110;

/// Words that hide who does something. Comments and documentation do without them.
const BANNED: [&str; 11] =
    ["we", "our", "ours", "us", "let's", "somebody", "someone", "nobody", "anybody", "whoever", "whomever"];

/// The comment of a line, if it has one.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.starts_with("//").then(|| line.trim_start_matches(['/', '!']))
}

/// The words of a comment, without code in backticks and quoted text.
fn words(comment: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut quote = None;
    for letter in comment.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '`' | '"') => quote = Some(letter),
            (None, _) => plain.push(letter),
            (Some(_), _) => {}
        }
    }
    let words = plain.split(|letter: char| !letter.is_alphanumeric() && letter != '\'');
    words.map(str::to_lowercase).collect()
}

#[test]
fn no_comment_is_longer_than_a_line() {
    let mut findings = Vec::new();
    for source in ["crates", "tests"].into_iter().flat_map(rust_files) {
        for (index, line) in source.text.lines().enumerate() {
            let is_link = line.contains("http://") || line.contains("https://");
            if comment(line).is_some() && line.chars().count() > WIDTH && !is_link {
                findings.push(format!("{}:{}", source.path, index + 1));
            }
        }
    }
    none(&findings, "comments beyond column 110");
}

#[test]
fn comments_name_their_subject() {
    let mut findings = Vec::new();
    for source in ["crates", "tests"].into_iter().flat_map(rust_files) {
        for (index, line) in source.text.lines().enumerate() {
            let Some(text) = comment(line) else { continue };
            for word in words(text).iter().filter(|word| BANNED.contains(&word.as_str())) {
                findings.push(format!("{}:{}: \"{word}\" in {}", source.path, index + 1, text.trim()));
            }
        }
    }
    none(&findings, "words that comments do without");
}

#[test]
fn every_module_says_what_it_does() {
    let mut findings = Vec::new();
    for source in ["crates", "tests"].into_iter().flat_map(rust_files) {
        if !source.path.ends_with("/tests.rs") && !source.text.starts_with("//!") {
            findings.push(source.path);
        }
    }
    none(&findings, "files that do not begin with what they do");
}

#[test]
fn code_and_quotes_in_comments_are_no_words() {
    let found = words(" sees `nobody`, \"we\" and us");
    assert!(found.iter().any(|word| word == "us"));
    assert!(!found.iter().any(|word| word == "we" || word == "nobody"));
}
