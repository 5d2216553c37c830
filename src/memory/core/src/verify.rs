//! The check in front of every model's words. It takes no part of a model's output on trust.
//!
//! A line that was rewritten must say nothing that its one message does not say: each of its content words stands there or is
//! part of the speaker's name, and what is negated stays so. That refuses honest paraphrases too, and cannot see a swap
//! within one message; so a line always carries its source, and the message itself stays readable.

use std::collections::BTreeSet;

use crate::limits;
use crate::text::{lang, pieces};

/// Words that turn a statement around.
const NEGATIONS: [&str; 17] = [
    "not", "no", "never", "none", "nobody", "nothing", "without", "cannot", "nicht", "nie", "niemals", "kein", "keine",
    "keinen", "nobody's", "niemand", "ohne",
];

/// Words and numbers of a text, in lower case; `brambleweg.net`, `16:00` and `e-mail` are one each.
fn tokens(text: &str) -> impl Iterator<Item = String> {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | ':' | '\'' | '-' | ',' | '_');
    text.split(move |c: char| !inside(c))
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        // A comma belongs to a number only.
        .flat_map(|word| {
            let is_number = word.starts_with(|c: char| c.is_ascii_digit());
            let parts: Vec<&str> = if is_number { vec![word] } else { word.split(',').collect() };
            parts.into_iter().filter(|part| !part.is_empty()).map(str::to_lowercase).collect::<Vec<_>>()
        })
}

fn content_words(text: &str) -> BTreeSet<String> {
    tokens(text)
        .filter(|word| !lang::any(word, |language| language.stop_words))
        .map(|word| match word.strip_suffix('s') {
            Some(stem) if word.chars().count() > 3 => stem.to_owned(),
            _ => word,
        })
        .collect()
}

/// True if a text turns something around.
pub(crate) fn is_negated(text: &str) -> bool {
    let lower = text.to_lowercase().replace('\u{2019}', "'");
    lower.contains("n't") || tokens(&lower).any(|word| NEGATIONS.contains(&word.as_str()))
}

/// True if `line` says nothing that this message of this speaker does not say, and is at most
/// [`limits::REWRITE_TIMES_MAX`] times as long.
#[must_use]
pub fn supported(line: &str, text: &str, speaker: &str) -> bool {
    let said = content_words(line);
    let source: BTreeSet<_> = content_words(text).into_iter().chain(content_words(speaker)).collect();
    !said.is_empty()
        && line.len() <= text.len().saturating_mul(limits::REWRITE_TIMES_MAX)
        && said.is_subset(&source)
        && is_negated(line) == is_negated(text)
}

/// Of a hundred content words of a head's sentence, how many must stand in its sources. What models make up has other words: "a
/// family member has been diagnosed with cancer" names nobody.
const KNOWN_PERCENT: usize = 67;

/// True if every name and number of a summary's head stands in one of its sources (speaker, text), as do two thirds of the
/// content words of each sentence, and it has at most three sentences. A name is any word with a capital that is not one of the
/// language's plain words.
#[must_use]
pub fn head_stands(head: &str, sources: &[(&str, &str)]) -> bool {
    let sentences = pieces::sentences(head);
    let known: BTreeSet<String> =
        sources.iter().flat_map(|(speaker, text)| tokens(speaker).chain(tokens(text)).collect::<Vec<_>>()).collect();
    let is_known = |word: &str| {
        let word = word.trim_end_matches("'s").trim_end_matches("\u{2019}s");
        known.contains(word) || word.strip_suffix('s').is_some_and(|stem| known.contains(stem))
    };
    let stands = |word: &str| {
        let lower = word.to_lowercase();
        let claims = word.chars().any(char::is_uppercase) || word.chars().any(char::is_numeric);
        let plain = lang::any(&lower, |language| language.stop_words) || lang::any(&lower, |language| language.marks);
        !claims || plain || is_known(&lower)
    };
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '.' | ':' | '\'' | '\u{2019}' | '-' | '_');
    let mut words = head
        .split(|c: char| !inside(c))
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty());
    let sources_say: BTreeSet<String> = sources
        .iter()
        .flat_map(|(speaker, text)| content_words(speaker).into_iter().chain(content_words(text)))
        .collect();
    let is_said = |sentence: &str| {
        let words = content_words(sentence);
        let known = words.intersection(&sources_say).count();
        !words.is_empty() && known * 100 >= words.len() * KNOWN_PERCENT
    };
    let all_said = sentences.iter().all(|span| span.of(head).is_some_and(is_said));
    (1..=3).contains(&sentences.len())
        && all_said
        && head.len() <= limits::HEAD_BYTES_MAX
        && !sources.is_empty()
        && words.all(stands)
}

/// Of sources (speaker, text), the one that says most of a head's words; the first of several. `None` without any.
#[must_use]
pub fn closest(head: &str, sources: &[(&str, &str)]) -> Option<usize> {
    let words = content_words(head);
    let shared = |(speaker, text): &(&str, &str)| {
        let source: BTreeSet<String> = content_words(text).into_iter().chain(content_words(speaker)).collect();
        words.intersection(&source).count()
    };
    let best = sources.iter().map(shared).enumerate().max_by_key(|(at, count)| (*count, std::cmp::Reverse(*at)));
    best.map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_one_message_says_is_supported() {
        let (text, who) = ("ok the new NAS is up, it's called hydra and it sits at 192.168.7.20", "Marek");
        assert!(supported("The new NAS is called hydra.", text, who));
        assert!(supported("Marek: hydra sits at 192.168.7.20", text, who));
        assert!(!supported("hydra sits at 192.168.7.21", text, who), "another number");
        assert!(!supported("Ilse's NAS is called hydra", text, who), "another name");
        assert!(!supported("", text, who) && !supported("the is", text, who), "says nothing");
        assert!(!supported(&"hydra ".repeat(40), text, who), "too long");
    }

    #[test]
    fn a_negation_is_neither_lost_nor_made() {
        assert!(!supported(
            "upgrading before the heat pump",
            "I'm not upgrading before the heat pump is fixed",
            "Ilse"
        ));
        assert!(!supported("Oskar is not allergic", "Oskar is allergic", "Ben"));
        assert!(supported("not upgrading", "I\u{2019}m not upgrading now", "Ilse"));
        assert!(!supported("ich esse Fisch", "ich esse keinen Fisch", "Oma"));
    }

    #[test]
    fn false_lines_that_models_wrote() {
        assert!(!supported("Ben's new phone number ends in 4471", "my new phone number ends in 4471", "Grandma Ruth"));
        assert!(!supported("Priya promised to clean gutters", "Dan promised to clean the gutters", "Vince"));
        assert!(!supported("A family member has been diagnosed with cancer", "the nurse comes on Monday", "Ann"));
    }

    #[test]
    fn a_head_names_only_what_its_sources_name() {
        let sources = [("Marek", "the NAS is called hydra"), ("Tom", "backups run at 02:30")];
        assert!(head_stands("Marek said the NAS is called hydra. Backups run at 02:30.", &sources));
        assert!(!head_stands("Ilse named the NAS hydra.", &sources));
        assert!(!head_stands("Backups run at 03:30.", &sources));
        assert_eq!(closest("The backups run at 02:30.", &sources), Some(1));
        assert_eq!((closest("hm", &sources), closest("hm", &[])), (Some(0), None));
        assert!(!head_stands("A family member is ill.", &sources), "nothing of it is said");
        assert!(!head_stands("The NAS is called hydra. They all laughed about it.", &sources));
        assert!(!head_stands("w. x. y. q.", &sources) && !head_stands("", &sources) && !head_stands("x", &[]));
    }

    proptest! {
        #[test]
        fn a_message_supports_itself(text in "[A-Za-z0-9 äöüß.,:'-]{1,80}", speaker in "[A-Z][a-z]{2,8}") {
            prop_assume!(!content_words(&text).is_empty());
            prop_assert!(supported(&text, &text, &speaker));
        }

        #[test]
        fn any_text_is_judged(line in ".*", text in ".*") {
            let (_, _) = (supported(&line, &text, "x"), head_stands(&line, &[("x", &text)]));
        }
    }
}
