//! Tables of languages. What a table lacks is found by the rest of the signals; nothing depends on a table alone.

mod de;
mod en;

use super::words;

/// Words of one language, all in lower case.
#[derive(Debug)]
pub struct Language {
    /// Its code.
    pub code: &'static str,
    /// Words by which it is told from others.
    pub marks: &'static [&'static str],
    /// Words of questions that say nothing of what is asked for.
    pub question_words: &'static [&'static str],
    /// Months, January first, each with its short forms.
    pub months: [&'static [&'static str]; 12],
    /// Days of the week, and words for one day or hour.
    pub days: &'static [&'static str],
    /// How messages begin that put right what was said before.
    pub corrections: &'static [&'static str],
    /// Words that deny.
    pub negations: &'static [&'static str],
    /// Words by which a speaker means themselves.
    pub speaker: &'static [&'static str],
    /// Words that say when.
    pub time_words: &'static [&'static str],
    /// How questions begin that ask for a time.
    pub asks_when: &'static [&'static str],
    /// Words without content, for the check of models' words.
    pub stop_words: &'static [&'static str],
    /// Verbs by which something is decided, promised, changed or settled.
    pub decisions: &'static [&'static str],
    /// All that is said without saying anything. Whole messages, or how they begin.
    pub fillers: &'static [&'static str],
    /// Words that point at what was said before.
    pub anaphora: &'static [&'static str],
    /// How instructions begin that are meant to last.
    pub standing: &'static [&'static str],
}

/// All tables. The first is taken where nothing tells.
pub const ALL: [&Language; 2] = [&en::TABLE, &de::TABLE];

/// The language of a text, by its most frequent words.
#[must_use]
pub fn of(text: &str) -> &'static Language {
    let lower: Vec<String> = words(text).map(|(_, word)| word.to_lowercase()).collect();
    let score = |language: &Language| lower.iter().filter(|word| language.marks.contains(&word.as_str())).count();
    let [first, rest @ ..] = ALL;
    rest.into_iter().fold(first, |best, next| if score(next) > score(best) { next } else { best })
}

/// True if any table has `word`, which is in lower case, in one of its lists.
pub(crate) fn any(word: &str, list: impl Fn(&'static Language) -> &'static [&'static str]) -> bool {
    ALL.iter().any(|language| list(language).contains(&word))
}

#[cfg(test)]
mod tests {
    #[test]
    fn languages_are_told_apart() {
        assert_eq!(super::of("Wann hat Oskar die Heizung repariert?").code, "de");
        assert_eq!(super::of("When did Oskar repair the heating?").code, "en");
        assert_eq!(super::of("42").code, "en");
    }
}
