//! Counted drops in words.

use std::collections::BTreeMap;

use overlay_proto::drop::DropReason;
use vde_attach::rules::Stop;
use vde_switch::verdict;

/// What comes before the names of reasons for which a guest's wire stops frames: some are the
/// switch's as well.
const OF_WIRE: &str = "wire-";

/// Returns the name under which what a guest's wire stopped is shown.
#[must_use]
pub fn of_wire(name: &str) -> String {
    format!("{OF_WIRE}{name}")
}

/// Returns what a reason's name means, in a sentence; the name itself if it is not known.
#[must_use]
pub fn words(name: &str) -> &str {
    let stop = name.strip_prefix(OF_WIRE).and_then(Stop::named);
    let own = DropReason::ALL.iter().find(|reason| reason.name() == name);
    let switch = verdict::DropReason::ALL.iter().find(|reason| reason.name() == name);
    own.map(|reason| reason.describe())
        .or_else(|| switch.map(|reason| reason.describe()))
        .or_else(|| stop.map(Stop::describe))
        .unwrap_or(name)
}

/// Returns the words of all counted reasons, by their names.
#[must_use]
pub fn all_words(drops: &BTreeMap<String, u64>) -> BTreeMap<String, String> {
    drops.keys().map(|name| (name.clone(), words(name).to_owned())).collect()
}

/// Returns a line for each counted reason, most first: `12 foreign-mac: The source MAC …`.
#[must_use]
pub fn lines(drops: &BTreeMap<String, u64>) -> Vec<String> {
    let mut counted: Vec<_> = drops.iter().collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    counted.into_iter().map(|(name, count)| format!("{count} {name}: {}", words(name))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vde_attach::rules::STOPS;

    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_words() {
        let own = DropReason::ALL.iter().map(|reason| reason.name());
        let names = own
            .chain(verdict::DropReason::ALL.iter().map(|reason| reason.name()))
            .map(str::to_owned);
        let stops = STOPS.iter().map(|(_, name, _)| of_wire(name));
        let names: Vec<_> = names.chain(stops).collect();
        assert_eq!(
            names.iter().collect::<BTreeSet<_>>().len(),
            names.len(),
            "one name, one reason"
        );
        for name in names {
            assert!(
                words(&name).ends_with('.') && words(&name).len() > 15,
                "{name}: {}",
                words(&name)
            );
        }
        assert_eq!(words("of-tomorrow"), "of-tomorrow");
    }

    #[test]
    fn lines_are_sorted_by_count() {
        let drops = BTreeMap::from([("runt".to_owned(), 2), ("mld".to_owned(), 5)]);
        let lines = lines(&drops);
        assert!(lines[0].starts_with("5 mld: A multicast") && lines[1].starts_with("2 runt: The"));
    }
}
