//! Terms of the index: each word, and its runs of four letters, which find inflected words and compounds in any language
//! that writes words. Where none are written (Han, Kana, Hangul, Thai, Lao, Khmer, Burmese) pairs of characters.

use super::words;

/// Version of these rules. Indices made by another are made anew.
pub const TOKENIZER: u8 = 1;

/// Hash of a term. Two terms with one hash (about one pair in 10^8 of a million terms) only blur a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// `kind` keeps a word apart from a run of the same letters.
    fn of(kind: u8, letters: impl Iterator<Item = char>) -> Self {
        // FNV-1a, and the last step of splitmix64, which spreads short terms over all 64 bits.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        eat(kind);
        let mut buffer = [0; 4];
        for letter in letters {
            letter.encode_utf8(&mut buffer).bytes().for_each(&mut eat);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(hash ^ (hash >> 31))
    }
}

/// The terms of a text in its order, with repeats.
#[must_use]
pub fn terms(text: &str) -> Vec<Term> {
    let mut out = Vec::with_capacity(text.len());
    for (_, word) in words(text) {
        terms_of_word(&word.to_lowercase(), &mut out);
    }
    out
}

/// The terms of a text without the words of `left_out`, which are in lower case.
#[must_use]
pub fn terms_without(text: &str, left_out: &[&str]) -> Vec<Term> {
    let mut out = Vec::new();
    for (_, word) in words(text) {
        let word = word.to_lowercase();
        if !left_out.contains(&word.as_str()) {
            terms_of_word(&word, &mut out);
        }
    }
    out
}

fn terms_of_word(word: &str, out: &mut Vec<Term>) {
    let letters: Vec<char> = word.chars().collect();
    for run in letters.chunk_by(|a, b| is_unspaced(*a) == is_unspaced(*b)) {
        let pairs = run.first().copied().is_some_and(is_unspaced);
        if pairs {
            if run.len() == 1 {
                out.push(Term::of(b'2', run.iter().copied()));
            }
            out.extend(run.windows(2).map(|pair| Term::of(b'2', pair.iter().copied())));
            continue;
        }
        out.push(Term::of(b'=', run.iter().copied()));
        let framed: Vec<char> = ['_'].into_iter().chain(run.iter().copied()).chain(['_']).collect();
        if framed.len() <= 4 {
            out.push(Term::of(b'4', framed.iter().copied()));
        } else {
            out.extend(framed.windows(4).map(|run| Term::of(b'4', run.iter().copied())));
        }
    }
}

/// Letters of scripts that put no spaces between words, or whose words take endings as syllables.
const fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}'     // Thai, Lao
        | '\u{1000}'..='\u{109f}'   // Burmese
        | '\u{1100}'..='\u{11ff}'   // Hangul
        | '\u{1780}'..='\u{17ff}'   // Khmer
        | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9d}' // Kana
        | '\u{3130}'..='\u{318f}' | '\u{ac00}'..='\u{d7af}' // Hangul
        | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}') // Han
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shared(a: &str, b: &str) -> usize {
        let b = terms(b);
        terms(a).iter().filter(|term| b.contains(term)).count()
    }

    #[test]
    fn a_word_is_found_in_its_inflections_and_compounds() {
        assert!(shared("painting", "painted") >= 3);
        assert!(shared("Heizung", "Heizungskeller") >= 5);
        assert_eq!(shared("cat", "dog"), 0);
        assert_eq!(terms("a").len(), 2);
    }

    #[test]
    fn scripts_without_spaces_go_by_pairs() {
        assert_eq!(terms("東京都").len(), 2);
        assert_eq!(terms("猫").len(), 1);
        assert!(shared("東京", "私は東京都に住む") == 1);
        assert!(shared("서울", "서울에서") == 1);
        assert!(shared("iPhone買う", "買う") >= 1);
    }

    #[test]
    fn words_can_be_left_out() {
        assert_eq!(terms_without("What is Oskar", &["what", "is"]), terms("oskar"));
    }

    proptest! {
        #[test]
        fn any_text_has_terms_without_harm(text in ".*") {
            prop_assert_eq!(terms(&text), terms_without(&text, &[]));
        }
    }
}
