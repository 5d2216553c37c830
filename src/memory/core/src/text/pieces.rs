//! Long messages are indexed in pieces, so that one good sentence is not lost among many. A hit cites the message.

use super::words;
use crate::item::Span;

/// Sentences of one piece.
const SENTENCES: usize = 5;
/// Words of one piece.
const WORDS: usize = 120;

/// Words that end in a point without ending a sentence.
const ABBREVIATIONS: [&str; 16] =
    ["mr", "mrs", "ms", "dr", "prof", "st", "no", "nr", "vs", "etc", "ca", "bzw", "str", "z", "b", "jr"];

/// The sentences of a text, without the space around them. Together they hold everything that is not space.
#[must_use]
pub fn sentences(text: &str) -> Vec<Span> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut letters = text.char_indices().peekable();
    while let Some((at, c)) = letters.next() {
        let end = at + c.len_utf8();
        let next_is_space = letters.peek().is_none_or(|(_, next)| next.is_whitespace());
        let ends = match c {
            '\n' | '。' | '！' | '？' => true,
            '!' | '?' | '…' => next_is_space,
            '.' => next_is_space && !is_abbreviation(text.get(start..at).unwrap_or_default()),
            _ => false,
        };
        if ends {
            push_trimmed(text, start, end, &mut out);
            start = end;
        }
    }
    push_trimmed(text, start, text.len(), &mut out);
    out
}

/// The pieces of a text: one for most. Each has at most 5 sentences and about 120 words, and begins with the last sentence
/// of the one before.
#[must_use]
pub fn pieces(text: &str) -> Vec<Span> {
    let mut parts = Vec::new();
    for sentence in sentences(text) {
        cut(text, sentence, &mut parts);
    }
    let sizes: Vec<usize> = parts.iter().map(|span| span.of(text).map_or(0, |shown| words(shown).count())).collect();
    let mut out: Vec<Span> = Vec::new();
    let mut first = 0;
    while let Some(begin) = parts.get(first) {
        let (mut end, mut count, mut size) = (begin.end, 0, 0);
        for (part, words) in parts.iter().zip(&sizes).skip(first) {
            if count > 0 && (count == SENTENCES || size + words > WORDS) {
                break;
            }
            (end, count, size) = (part.end, count + 1, size + words);
        }
        out.push(Span { start: begin.start, end });
        if first + count >= parts.len() {
            break;
        }
        // One sentence of overlap, but always further.
        first += if count > 1 { count - 1 } else { 1 };
    }
    if out.is_empty() { vec![Span::new(0, text.len())] } else { out }
}

/// A sentence that alone is longer than a piece, cut between words.
fn cut(text: &str, sentence: Span, out: &mut Vec<Span>) {
    let shown = sentence.of(text).unwrap_or_default();
    let mut start = sentence.start;
    for (n, (at, _)) in words(shown).enumerate() {
        if n > 0 && n % WORDS == 0 {
            let end = sentence.start + u32::try_from(at).unwrap_or(0);
            out.push(Span { start, end });
            start = end;
        }
    }
    out.push(Span { start, end: sentence.end });
}

fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit()) && word.len() <= 2;
    is_number || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

fn push_trimmed(text: &str, start: usize, end: usize, out: &mut Vec<Span>) {
    let Some(part) = text.get(start..end) else { return };
    let from = start + (part.len() - part.trim_start().len());
    let to = start + part.trim_end().len();
    if from < to {
        out.push(Span::new(from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Vec<&str> {
        sentences(text).iter().map(|span| span.of(text).unwrap()).collect()
    }

    #[test]
    fn sentences_end_where_people_end_them() {
        assert_eq!(
            shown("Hi! It is with Mrs. Okafor. Port 1.5 is free?\nyes"),
            ["Hi!", "It is with Mrs. Okafor.", "Port 1.5 is free?", "yes"]
        );
        assert_eq!(shown("am 3. Mai. Gut"), ["am 3. Mai.", "Gut"]);
        assert!(shown("  \n ").is_empty());
    }

    #[test]
    fn a_short_message_is_one_piece_and_a_long_one_overlaps() {
        assert_eq!(pieces("One. Two. Three.").len(), 1);
        let text = (0..12).map(|n| format!("Sentence {n} is here. ")).collect::<Vec<_>>().concat();
        let pieces = pieces(&text);
        assert_eq!(pieces.len(), 3);
        assert!(pieces[1].of(&text).unwrap().starts_with("Sentence 4"));
        let words = "word ".repeat(500);
        assert_eq!(super::pieces(&words).len(), 5);
    }

    proptest! {
        #[test]
        fn pieces_lose_nothing(text in "[a-c.!? \nä]{0,400}") {
            let pieces = pieces(&text);
            for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
                prop_assert!(pieces.iter().any(|span| (span.start as usize..span.end as usize).contains(&at)), "{} {}", at, c);
            }
            prop_assert!(text.is_empty() || pieces.iter().all(|span| span.of(&text).is_some()));
        }
    }
}
