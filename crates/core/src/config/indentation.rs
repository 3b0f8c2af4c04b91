//! Finds the key whose indentation makes a YAML file unreadable, and shows the lines with the right
//! indentation.

/// A key that is indented below the value of another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TooFarIn {
    /// Line of the key, from 1.
    pub line: u64,
    /// Its column, from 1.
    pub column: u64,
    /// What is wrong, in a sentence.
    pub problem: String,
    /// The two lines at one column, and the other lines with the same mistake.
    pub hint: String,
}

/// A line `key: value`, or `- key: value`.
struct Line<'a> {
    number: usize,
    /// Where the key begins, in characters.
    column: usize,
    key: &'a str,
    has_value: bool,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn parse(number: usize, text: &'a str) -> Option<Self> {
        let without_dashes = text.trim_start_matches([' ', '-']);
        let column = text.len() - without_dashes.len();
        let (key, value) = without_dashes.split_once(':')?;
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_');
        let value = value.split(" #").next().unwrap_or_default().trim();
        let is_map = value.is_empty() || value.starts_with(['{', '[', '|', '>', '#', '&']);
        is_key.then_some(Self { number, column, key, has_value: !is_map, text })
    }

    /// The line with its key at this column.
    fn at(&self, column: usize) -> String {
        format!("{}{}", " ".repeat(column), self.text.trim())
    }
}

/// The first key that is indented further than the key with a value above it. YAML reads its line as a part
/// of that value.
pub(super) fn too_far_in(yaml: &str) -> Option<TooFarIn> {
    let lines: Vec<&str> = yaml.lines().collect();
    let written = (1..).zip(&lines).filter(|(_, text)| {
        let text = text.trim();
        !text.is_empty() && !text.starts_with('#')
    });
    let parsed: Vec<Option<Line<'_>>> = written.map(|(number, text)| Line::parse(number, text)).collect();
    let mut found = parsed.windows(2).filter_map(|pair| match pair {
        [Some(above), Some(below)]
            if above.has_value
                && below.column > above.column
                && !below.text.trim_start().starts_with('-') =>
        {
            Some((above, below))
        }
        _ => None,
    });
    let (above, below) = found.next()?;
    let others: Vec<String> = found.map(|(_, below)| below.number.to_string()).collect();
    let others = match others.as_slice() {
        [] => String::new(),
        [line] => format!("\nand line {line} likewise"),
        lines => format!("\nand lines {} likewise", lines.join(", ")),
    };
    let columns = below.column - above.column;
    Some(TooFarIn {
        line: u64::try_from(below.number).unwrap_or(u64::MAX),
        column: u64::try_from(below.column + 1).unwrap_or(u64::MAX),
        problem: format!(
            "`{}` stands {columns} columns further in than `{}` above it, so YAML takes it for a part of that value",
            below.key, above.key
        ),
        hint: format!(
            "write both at one column:\n{}\n{}{others}",
            above.text.trim_end(),
            below.at(above.column)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_below_a_value_is_found_and_put_right() {
        let yaml =
            "miners:\n    - miner: f01000\n        price: 0 # FIL\n    - miner: f02000\n        price: 0\n";
        let found = too_far_in(yaml).unwrap();
        assert_eq!((found.line, found.column), (3, 9));
        assert_eq!(
            found.hint,
            "write both at one column:\n    - miner: f01000\n      price: 0 # FIL\nand line 5 likewise"
        );
    }

    #[test]
    fn what_is_right_is_left_alone() {
        for yaml in [
            "miners:\n  - miner: f01000\n    price: 0\n",
            "setting:\n  wallet: f0100 # paid from here\n  duration: 366\n",
            "mongodb: { server: db,\n  port: 1 }\n",
            "setting:\n    # a note\n    wallet: f0100\n",
            "",
        ] {
            assert_eq!(too_far_in(yaml), None, "{yaml}");
        }
    }
}
