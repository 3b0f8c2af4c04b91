//! Line and column of a key in a YAML text, for error messages.
//!
//! figment reads the values and keeps no positions, so this module reads the text again for an error message.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The line and column (from 1) of the key at `path`, or of its nearest parent that is written.
pub(super) fn of_key(yaml: &str, path: &[String]) -> Option<(u64, u64)> {
    let mut node = serde_saphyr::from_str::<Node>(yaml).ok()?;
    let mut found = None;
    for segment in path {
        let below = match node {
            Node::Map(entries) => {
                entries.into_iter().find(|entry| entry.0 == *segment).map(|entry| (entry.1, entry.2))
            }
            Node::List(items) => segment.parse().ok().and_then(|index: usize| items.into_iter().nth(index)),
            Node::Leaf => None,
        };
        let Some((position, next)) = below else { break };
        found = Some(position);
        node = next;
    }
    found
}

enum Node {
    Map(Vec<(String, (u64, u64), Node)>),
    List(Vec<((u64, u64), Node)>),
    Leaf,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

/// Values that have nothing below them.
macro_rules! leaves {
    ($($visit:ident: $value:ty),*) => {
        $(fn $visit<E>(self, _: $value) -> Result<Node, E> {
            Ok(Node::Leaf)
        })*
    };
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let at = (key.referenced.line(), key.referenced.column());
            entries.push((key.value, at, map.next_value()?));
        }
        Ok(Node::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Node>>()? {
            items.push(((item.referenced.line(), item.referenced.column()), item.value));
        }
        Ok(Node::List(items))
    }

    leaves! {
        visit_str: &str, visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128,
        visit_f64: f64, visit_bytes: &[u8]
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Node::Leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_maps_and_lists() {
        let yaml = "miners:\n    - miner: f01\n      price: 0\n    - miner: f02\n      prize: 0\nsetting:\n  dealTimeout: 20 ## note\n  empty:\n";
        let cases = [
            ("miners.1.prize", Some((5, 7))),
            ("miners.0", Some((2, 7))),
            ("setting", Some((6, 1))),
            ("setting.dealTimeout", Some((7, 3))),
            ("setting.empty", Some((8, 3))),
            ("setting.absent", Some((6, 1))),
            ("nowhere", None),
        ];
        for (path, position) in cases {
            let segments: Vec<_> = path.split('.').map(str::to_owned).collect();
            assert_eq!(of_key(yaml, &segments), position, "{path}");
        }
    }
}
