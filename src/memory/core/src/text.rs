//! What is read out of text without a model: terms, sentences, dates, names, instructions. Tables of languages are in
//! [`lang`].

pub mod correction;
pub mod dates;
pub mod grams;
pub mod lang;
pub mod pieces;
pub mod standing;

/// The words of a text with their byte offsets: runs of letters, digits and `_`.
pub fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text.char_indices().peekable();
    std::iter::from_fn(move || {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        while rest.next_if(|(_, c)| !in_word(*c)).is_some() {}
        let (start, first) = rest.next()?;
        let mut end = start + first.len_utf8();
        while let Some((at, c)) = rest.next_if(|(_, c)| in_word(*c)) {
            end = at + c.len_utf8();
        }
        text.get(start..end).map(|word| (start, word))
    })
}

/// True if `name` stands in `text` as whole words, letter by letter.
#[must_use]
pub fn names(text: &str, name: &str) -> bool {
    !name.is_empty()
        && text.match_indices(name).any(|(at, _)| {
            let joined = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let before = text.get(..at).and_then(|head| head.chars().next_back());
            let after = text.get(at + name.len()..).and_then(|tail| tail.chars().next());
            !joined(before) && !joined(after)
        })
}

/// Tokens that a text costs, as everywhere in memory: characters / 4, rounded up, at least 1.
#[must_use]
pub fn tokens(text: &str) -> usize {
    text.chars().count().div_ceil(4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_names() {
        assert_eq!(words("Don't, äh: 3_a!").map(|(_, word)| word).collect::<Vec<_>>(), ["Don", "t", "äh", "3_a"]);
        assert!(names("What did Ann say?", "Ann") && !names("Annual", "Ann") && !names("", "Ann") && !names("x", ""));
        assert!(names("ask Grandma Ruth.", "Grandma Ruth"));
        assert_eq!((tokens(""), tokens("abcd"), tokens("abcde")), (1, 1, 2));
    }
}
