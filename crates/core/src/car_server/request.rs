//! Reads what a request asks for: the piece in the query, the bearer token, the range of bytes.
//!
//! Source of the rules: RFC 9110 §13.1.5 (If-Range), §14 (ranges); RFC 6750 §2.1 (bearer tokens).

use blake2::digest::Digest as _;
use http::HeaderMap;
use http::header::{AUTHORIZATION, IF_RANGE, RANGE};
use url::form_urlencoded;

use crate::car_server::catalogue::PieceId;

/// The bytes of a file that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// All of them, answered by 200.
    Whole,
    /// From the first to the last, both included, answered by 206.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// None of the file's bytes, answered by 416.
    Unsatisfiable,
}

/// The piece that `?id=` names; `None` without one or where it is no piece CID.
pub(super) fn piece_id(query: Option<&str>) -> Option<PieceId> {
    let id = form_urlencoded::parse(query?.as_bytes()).find(|(name, _)| name == "id")?.1;
    id.trim().parse().ok()
}

/// The bytes that the headers of a GET ask for.
///
/// Several ranges in one request are answered by the whole file, as RFC 9110 §14.2 allows: an answer in parts
/// has no use for the readers of pieces, and many small ranges would make the server seek.
pub(super) fn span(headers: &HeaderMap, etag: &str, size: u64) -> Span {
    let Some(range) = headers.get(RANGE).and_then(|value| value.to_str().ok()) else {
        return Span::Whole;
    };
    // A date never matches: no answer has `Last-Modified`.
    if headers.get(IF_RANGE).is_some_and(|condition| condition.as_bytes() != etag.as_bytes()) {
        return Span::Whole;
    }
    let Some((unit, set)) = range.split_once('=') else { return Span::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Span::Whole;
    }
    // What is no range is ignored, as RFC 9110 §14.2 demands.
    let Some((first, last)) = set.trim().split_once('-') else { return Span::Whole };
    let end = size.saturating_sub(1);
    match (number(first), number(last)) {
        (Number::Absent, Number::Is(0)) => Span::Unsatisfiable,
        (Number::Absent, Number::Is(_)) if size == 0 => Span::Unsatisfiable,
        (Number::Absent, Number::Is(count)) => Span::Part { first: size.saturating_sub(count), last: end },
        (Number::Is(first), Number::Is(last)) if last < first => Span::Whole,
        (Number::Is(first), Number::Is(_) | Number::Absent) if first >= size => Span::Unsatisfiable,
        (Number::Is(first), Number::Is(last)) => Span::Part { first, last: last.min(end) },
        (Number::Is(first), Number::Absent) => Span::Part { first, last: end },
        (Number::Absent, Number::Absent) | (Number::None, _) | (_, Number::None) => Span::Whole,
    }
}

/// One side of a range.
enum Number {
    Absent,
    Is(u64),
    /// Something else.
    None,
}

fn number(text: &str) -> Number {
    match text {
        "" => Number::Absent,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            // More digits than any file has bytes.
            Number::Is(digits.parse().unwrap_or(u64::MAX))
        }
        _ => Number::None,
    }
}

/// The token that requests must bear, as its hash: two hashes are compared in a time that tells nothing of
/// the token.
#[derive(Clone, Copy)]
pub(super) struct TokenHash([u8; 64]);

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        Self(blake2::Blake2b512::digest(token.as_bytes()).into())
    }

    /// Whether the headers bear the token.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, token)) = value.split_once(' ') else { return false };
        let given = Self::of(token.trim());
        let differing =
            self.0.iter().zip(given.0).fold(0, |differing, (one, other)| differing | (one ^ other));
        scheme.eq_ignore_ascii_case("bearer") && differing == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"baga-1000\"";

    fn headers(given: &[(http::HeaderName, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn ranges_are_read_by_rfc_9110() {
        let part = |first, last| Span::Part { first, last };
        for (range, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-999", part(0, 999)),
            ("bytes=0-", part(0, 999)),
            ("bytes=10-19", part(10, 19)),
            ("bytes=999-", part(999, 999)),
            ("bytes=999-5000", part(999, 999)),
            ("bytes=-1", part(999, 999)),
            ("bytes=-1000", part(0, 999)),
            ("bytes=-5000", part(0, 999)),
            ("BYTES=1-2", part(1, 2)),
            ("bytes=0-18446744073709551616", part(0, 999)),
            ("bytes=1000-", Span::Unsatisfiable),
            ("bytes=1000-2000", Span::Unsatisfiable),
            ("bytes=-0", Span::Unsatisfiable),
            ("bytes=99999999999999999999-", Span::Unsatisfiable),
            ("bytes=0-1,5-6", Span::Whole),
            ("bytes=5-2", Span::Whole),
            ("bytes=-", Span::Whole),
            ("bytes=a-b", Span::Whole),
            ("bytes=+1-2", Span::Whole),
            ("bytes", Span::Whole),
            ("items=0-1", Span::Whole),
        ] {
            assert_eq!(span(&headers(&[(RANGE, range)]), ETAG, 1000), expected, "{range}");
        }
        assert_eq!(span(&HeaderMap::new(), ETAG, 1000), Span::Whole);
        for range in ["bytes=0-", "bytes=-5"] {
            assert_eq!(span(&headers(&[(RANGE, range)]), ETAG, 0), Span::Unsatisfiable, "{range} of nothing");
        }
    }

    #[test]
    fn a_range_of_another_state_is_answered_by_the_whole() {
        for (condition, is_part) in [
            (ETAG, true),
            ("\"baga-999\"", false),
            ("W/\"baga-1000\"", false),
            ("Mon, 30 Nov 2026 00:00:00 GMT", false),
        ] {
            let found = span(&headers(&[(RANGE, "bytes=5-"), (IF_RANGE, condition)]), ETAG, 1000);
            assert_eq!(found != Span::Whole, is_part, "{condition}");
        }
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        let token = TokenHash::of("s3cret");
        for (value, admitted) in [
            ("Bearer s3cret", true),
            ("bearer  s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3cret2", false),
            ("Bearer", false),
            ("Basic s3cret", false),
            ("s3cret", false),
        ] {
            assert_eq!(token.admits(&headers(&[(AUTHORIZATION, value)])), admitted, "{value}");
        }
        assert!(!token.admits(&HeaderMap::new()));
    }

    #[test]
    fn an_id_is_found_among_other_parameters() {
        let cid = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";
        for (query, is_there) in [
            (format!("id={cid}"), true),
            (format!("a=b&id=%20{cid}"), true),
            (format!("ID={cid}"), false),
            ("id=".to_owned(), false),
            ("id=bafkqaaa".to_owned(), false),
        ] {
            assert_eq!(piece_id(Some(&query)).is_some(), is_there, "{query}");
        }
        assert!(piece_id(None).is_none());
    }
}
