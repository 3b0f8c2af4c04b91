//! Reads UUIDs as Go's `google/uuid` does.

/// The canonical form of a UUID, or Go's error text.
///
/// Source: google/uuid v1.6.0 `uuid.go` (`Parse`): 36 characters, with `urn:uuid:`, in braces, or without
/// hyphens.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let plain = match text.len() {
        36 => text,
        45 if text.get(..9).is_some_and(|prefix| prefix.eq_ignore_ascii_case("urn:uuid:")) => &text[9..],
        45 => {
            return Err(format!("invalid urn prefix: {:?}", text.get(..9).unwrap_or_default()));
        }
        38 => text.get(1..37).ok_or("invalid UUID format")?,
        32 => return hyphenated(text).ok_or_else(|| "invalid UUID format".to_owned()),
        length => return Err(format!("invalid UUID length: {length}")),
    };
    let has_hyphens = [8, 13, 18, 23].iter().all(|at| plain.as_bytes().get(*at) == Some(&b'-'));
    let digits = plain.replace('-', "");
    hyphenated(&digits).filter(|_uuid| has_hyphens).ok_or_else(|| "invalid UUID format".to_owned())
}

fn hyphenated(digits: &str) -> Option<String> {
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| {
        let digits = digits.to_ascii_lowercase();
        let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        parts.join("-")
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn uuids_are_read_as_in_go() {
        const UUID: &str = "d771faf5-d74e-4035-8341-e2537d270e25";
        for text in [
            UUID.to_owned(),
            UUID.to_ascii_uppercase(),
            format!("urn:uuid:{UUID}"),
            format!("{{{UUID}}}"),
            UUID.replace('-', ""),
        ] {
            assert_eq!(parse(&text).as_deref(), Ok(UUID), "{text}");
        }
        assert_eq!(parse("x").unwrap_err(), "invalid UUID length: 1");
        assert_eq!(parse(&UUID.replace('d', "g")).unwrap_err(), "invalid UUID format");
    }
}
