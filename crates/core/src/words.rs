//! Counts with nouns in singular and plural, for messages.

/// `1 piece`, `2 pieces`: the noun takes an `s` where there is not one of it.
pub fn counted(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_all_else_are_many() {
        for (number, words) in [(0, "0 pieces"), (1, "1 piece"), (2, "2 pieces")] {
            assert_eq!(counted(number, "piece"), words);
        }
    }
}
