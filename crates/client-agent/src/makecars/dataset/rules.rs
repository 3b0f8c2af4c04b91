//! Rules of a plan for the roots and names of its CARs. A plan keeps the rules that it was made by, so
//! that its pieces are the same bytes under the same names, whichever version makes them.

use carferry_car::{DagParams, FolderRoot, PayloadCid, Profile};
use carferry_core::model::PlanDoc;

/// Bytes of a data set's name in the name of a CAR, at most. Source: eCryptfs takes names of 143 bytes; plan,
/// number and ending take 24.
const GROUP_BYTES_MAX: usize = 110;
/// Characters that file systems outside of Linux refuse in names. Source: Microsoft, "Naming Files, Paths,
/// and Namespaces"; exFAT has the same.
const REFUSED: &str = "/\\:*?\"<>|";
/// What is stored of the second rules.
const HASHED_ROOTS: i64 = 2;

/// The rules of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanRules {
    /// Roots are inlined where the profile inlines blocks; names are ASCII.
    InlinedRoots,
    /// Roots always have a hash; names keep their letters.
    HashedRoots,
}

impl PlanRules {
    /// The rules of new plans.
    pub(crate) const LATEST: Self = Self::HashedRoots;

    /// The rules that a plan was made by.
    pub(crate) fn of(plan: &PlanDoc) -> Self {
        match plan.rules {
            Some(HASHED_ROOTS..) => Self::HashedRoots,
            _ => Self::InlinedRoots,
        }
    }

    /// The rules that a CAR with this root was made by; both make the same CAR of most pieces.
    pub(crate) fn of_root(root: &PayloadCid) -> Self {
        if root.is_inlined() { Self::InlinedRoots } else { Self::HashedRoots }
    }

    /// As it is stored.
    pub(crate) fn stored(self) -> Option<i64> {
        match self {
            Self::InlinedRoots => None,
            Self::HashedRoots => Some(HASHED_ROOTS),
        }
    }

    /// What decides the blocks of a piece.
    pub(crate) fn params(self, profile: Profile) -> DagParams {
        let folder_root = match self {
            Self::InlinedRoots => FolderRoot::MayBeInlined,
            Self::HashedRoots => FolderRoot::Hashed,
        };
        DagParams { folder_root, ..profile.params() }
    }

    /// File name of a piece's CAR. The plan's id keeps data sets apart whose names become the same.
    pub(crate) fn car_name(self, plan: &PlanDoc, index: i64) -> String {
        let group = match self {
            Self::InlinedRoots => ascii(&plan.key.group),
            Self::HashedRoots => safe(&plan.key.group),
        };
        format!("{group}-{}-{index:05}.car", plan.id.get(..8).unwrap_or(&plan.id))
    }
}

/// A name in ASCII alone, as the first rules have it.
fn ascii(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).take(100).collect();
    name.trim_start_matches('.').to_owned()
}

/// A name with all its letters, changed only where a file system, or a reader of names, would stumble:
/// control characters, characters that some file systems refuse, dots in front, which hide a file, and its
/// length.
fn safe(name: &str) -> String {
    let is_refused = |c: char| c.is_control() || REFUSED.contains(c) || is_direction(c);
    let name: String = name.chars().map(|c| if is_refused(c) { '_' } else { c }).collect();
    let name = name.trim_start_matches(['.', ' ']);
    let end = (0..=GROUP_BYTES_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    name.get(..end.unwrap_or(0)).unwrap_or_default().trim_end().to_owned()
}

/// Characters that turn the direction of a text: a name with them shows as another one.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use carferry_core::model::{PlanKey, PlanState};

    use super::*;

    fn plan(group: &str, id: &str, rules: PlanRules) -> PlanDoc {
        let key = PlanKey {
            input: "/in".to_owned(),
            group: group.to_owned(),
            layout: "pack".to_owned(),
            profile: "lotus".to_owned(),
            piecesizebytes: 1,
        };
        let rules = rules.stored();
        let (pieces, chunks, sourcebytes, entries, host) = (1, 1, 1, 1, "here".to_owned());
        let (id, state) = (id.to_owned(), PlanState::Ready);
        PlanDoc { id, key, state, pieces, chunks, sourcebytes, entries, host, seen: None, rules }
    }

    #[test]
    fn names_keep_their_letters() {
        let long = "数".repeat(60);
        for (group, wanted) in [
            ("数据", "数据-0123abcd-00007.car"),
            ("Größe 2 (neu)", "Größe 2 (neu)-0123abcd-00007.car"),
            ("a/b\\c", "a_b_c-0123abcd-00007.car"),
            ("tab\there\u{1b}[2J\u{202e}", "tab_here_[2J_-0123abcd-00007.car"),
            ("..hidden.", "hidden.-0123abcd-00007.car"),
            ("...", "-0123abcd-00007.car"),
            (&*long, &format!("{}-0123abcd-00007.car", "数".repeat(36))),
        ] {
            let plan = plan(group, "0123abcd4567", PlanRules::LATEST);
            let name = PlanRules::of(&plan).car_name(&plan, 7);
            assert_eq!(name, wanted, "{group:?}");
            assert!(name.len() <= 143, "{name}");
        }
    }

    #[test]
    fn names_that_become_the_same_are_told_apart_by_their_plans() {
        let [one, two] = [("a/b", "0123abcd4567"), ("a_b", "1123abcd4567")]
            .map(|(group, id)| PlanRules::LATEST.car_name(&plan(group, id, PlanRules::LATEST), 0));
        assert_eq!((&*one, &*two), ("a_b-0123abcd-00000.car", "a_b-1123abcd-00000.car"));
    }

    #[test]
    fn a_plan_keeps_the_rules_that_it_was_made_by() {
        for rules in [PlanRules::InlinedRoots, PlanRules::HashedRoots] {
            assert_eq!(PlanRules::of(&plan("a", "0", rules)), rules);
        }
        let before = plan("数据 1", "0123abcd4567", PlanRules::InlinedRoots);
        assert_eq!(PlanRules::of(&before).car_name(&before, 7), "___1-0123abcd-00007.car");
        assert_eq!(PlanRules::InlinedRoots.params(Profile::Lotus), Profile::Lotus.params());
    }
}
