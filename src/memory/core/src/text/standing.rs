//! Instructions that are meant to last: found by how they begin, when a message is written, and given with every answer.

use super::{lang, pieces};
use crate::item::Span;

/// The sentences of a text that ask to be kept in mind always.
#[must_use]
pub fn standing(text: &str) -> Vec<Span> {
    pieces::sentences(text).into_iter().filter(|span| span.of(text).is_some_and(is_standing)).collect()
}

fn is_standing(sentence: &str) -> bool {
    if sentence.ends_with('?') {
        return false;
    }
    let lower = sentence.to_lowercase().replace('\u{2019}', "'");
    let bare = lower.trim_start_matches("please ").trim_start_matches("bitte ").trim_start_matches("and ");
    // After a comma or a colon as well: "by the way, from now on …".
    let cuts = [", ", ": ", "; "].into_iter().flat_map(|cut| lower.match_indices(cut));
    let starts = cuts.filter_map(|(at, cut)| lower.get(at + cut.len()..)).chain([lower.as_str(), bare]);
    let begins = |start: &str| {
        lang::ALL.iter().any(|language| language.standing.iter().any(|pattern| start.starts_with(pattern)))
    };
    starts.into_iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_from_talk() {
        for yes in [
            "Always answer in English.",
            "From now on, call me Max",
            "by the way, never book flights before 9",
            "Ab sofort bitte nur noch metrische Einheiten.",
            "I prefer short answers.",
        ] {
            assert_eq!(standing(yes).len(), 1, "{yes}");
        }
        for no in ["She always sings.", "Never?", "we went there", "I call them often"] {
            assert!(standing(no).is_empty(), "{no}");
        }
        let text = "Hi. Please always use tabs. Bye.";
        assert_eq!(standing(text)[0].of(text), Some("Please always use tabs."));
    }
}
