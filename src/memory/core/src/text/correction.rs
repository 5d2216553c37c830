//! Texts that put right what was said before: "sorry, I meant 4417".

use super::dates::is_value;
use super::{lang, pieces, words};

/// Messages of a talk that lie between a correction and what it puts right, at most, with that.
pub const WITHIN: usize = 4;
/// Messages up to this many words may put right what was said before.
const WORDS_MAX: usize = 14;

/// True if a text puts right what was said before: short, begins so, and has a value or a name to put in its place.
#[must_use]
pub fn is_correction(text: &str) -> bool {
    let lower = text.trim().to_lowercase();
    let begins = |start: &&str| {
        lower.strip_prefix(*start).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\''))
    };
    let mut values = words(text).map(|(_, word)| is_value(&word.to_lowercase()));
    words(text).count() <= WORDS_MAX
        && !text.trim_end().ends_with(['?', '？'])
        && lang::ALL.iter().any(|language| language.corrections.iter().any(begins))
        && (values.any(|is_value| is_value) || has_name(text))
}

/// A word with a capital inside of a sentence, other than "I".
#[must_use]
pub fn has_name(text: &str) -> bool {
    pieces::sentences(text).iter().filter_map(|span| span.of(text)).any(|sentence| {
        words(sentence).skip(1).any(|(_, word)| word.starts_with(char::is_uppercase) && word.chars().count() > 1)
    })
}
