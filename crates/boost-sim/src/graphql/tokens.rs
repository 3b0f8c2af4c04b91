//! Splits GraphQL into tokens.

use std::fmt;

use serde_json::Number;

/// A place in the text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// An error of a request, as `errors` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestError {
    pub(crate) message: String,
    pub(crate) place: Option<Place>,
}

impl RequestError {
    pub(crate) fn at(place: Place, message: impl Into<String>) -> Self {
        Self { message: message.into(), place: Some(place) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Number(Number),
    Text(String),
    Sign(char),
    Spread,
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(formatter, "Ident \"{name}\""),
            Self::Number(number) => write!(formatter, "Int \"{number}\""),
            Self::Text(text) => write!(formatter, "String {text:?}"),
            Self::Sign(sign) => write!(formatter, "\"{sign}\""),
            Self::Spread => formatter.write_str("\"...\""),
        }
    }
}

/// Splits a text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, Place)>, RequestError> {
    let mut found = Vec::new();
    let (mut line, mut line_start) = (1, 0);
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        let place = Place { line, column: at - line_start + 1 };
        let rest = &text[at..];
        let length = match letter {
            '\n' => {
                line += 1;
                line_start = at + 1;
                1
            }
            ' ' | '\t' | '\r' | ',' | '\u{feff}' => letter.len_utf8(),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '.' if rest.starts_with("...") => {
                found.push((Token::Spread, place));
                3
            }
            '"' => {
                let (value, length) = string(rest, place)?;
                found.push((Token::Text(value), place));
                length
            }
            '-' | '0'..='9' => {
                let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-+.".contains(letter);
                let length = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
                let number = rest[..length].parse().map_err(|_error| unexpected(place, &rest[..length]))?;
                found.push((Token::Number(number), place));
                length
            }
            '_' | 'a'..='z' | 'A'..='Z' => {
                let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                let length = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
                found.push((Token::Name(rest[..length].to_owned()), place));
                length
            }
            '{' | '}' | '(' | ')' | '[' | ']' | ':' | '=' | '!' | '$' | '@' | '|' | '&' => {
                found.push((Token::Sign(letter), place));
                1
            }
            other => return Err(unexpected(place, &other.to_string())),
        };
        at += length;
    }
    Ok(found)
}

/// A string and its length with quotes. JSON has the same escapes.
fn string(rest: &str, place: Place) -> Result<(String, usize), RequestError> {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            '"' if !escaped => {
                let text = &rest[..=at];
                let value = serde_json::from_str(text).map_err(|_error| unexpected(place, text))?;
                return Ok((value, at + 1));
            }
            '\n' => break,
            _ => escaped = letter == '\\' && !escaped,
        }
    }
    Err(RequestError::at(place, "syntax error: literal not terminated"))
}

/// The error of a piece of text that fits nowhere.
pub(super) fn unexpected(place: Place, what: &str) -> RequestError {
    RequestError::at(place, format!("syntax error: unexpected \"{what}\""))
}
