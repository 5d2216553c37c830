//! Which messages of a batch stand for it: those that say something, in their own words.
//!
//! Rules, no model: a digit, a name inside a sentence, a verb by which something is settled, and length count for a message;
//! a question and small talk against it. Centres of meaning are the wrong choice for chats: small talk is the centre.

use std::collections::BTreeSet;

use crate::item::{Message, Span};
use crate::text::grams::{Term, terms};
use crate::text::{lang, pieces, words};

/// Share of a batch that is selected, in hundredths.
pub const SHARE_PERCENT: usize = 30;
/// Two messages are the same when so many hundredths of their terms are.
const SAME_PERCENT: usize = 80;
/// Replies up to this many words may need what they reply to.
const SHORT_WORDS: usize = 6;
/// Messages longer than this many sentences are shown by their best piece.
const WHOLE_SENTENCES: usize = 5;

/// How much a text says. Only the order means something.
#[must_use]
pub fn salience(text: &str) -> f64 {
    let language = lang::of(text);
    let lower: Vec<String> = words(text).map(|(_, word)| word.to_lowercase()).collect();
    let has_digit = text.chars().any(char::is_numeric);
    let settles = lower.iter().any(|word| lang::any(word, |language| language.decisions));
    let asks = text.trim_end().ends_with(['?', '？']);
    let mut score = 2.0 * (lower.len().min(14) as f64) / 14.0;
    if has_digit {
        score += 2.0;
    }
    if has_name(text) {
        // Where nouns have capitals, one tells little.
        score += if language.code == "de" { 0.5 } else { 1.5 };
    }
    if settles {
        score += 1.5;
    }
    if asks {
        score -= 2.0;
    }
    if is_filler(text) {
        score -= 1.5;
    }
    score
}

/// A word with a capital inside of a sentence, other than "I".
fn has_name(text: &str) -> bool {
    pieces::sentences(text).iter().filter_map(|span| span.of(text)).any(|sentence| {
        words(sentence).skip(1).any(|(_, word)| word.starts_with(char::is_uppercase) && word.chars().count() > 1)
    })
}

/// True if a text is small talk as far as a table tells: all of a short message, or how it begins.
fn is_filler(text: &str) -> bool {
    let lower = text.trim().to_lowercase();
    let begins = |filler: &&str| {
        lower.strip_prefix(*filler).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\''))
    };
    words(text).count() <= 8 && lang::ALL.iter().any(|language| language.fillers.iter().any(begins))
}

/// A message that was selected, by its place in the batch, and which part of it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selected {
    /// Place in the batch.
    pub at: usize,
    /// Part of its text.
    pub span: Span,
}

/// Selects from a batch in order of time: [`SHARE_PERCENT`] of it, rounded up, without near duplicates, and the messages that
/// short replies among them need. In the order of the batch; the same batch gives the same.
#[must_use]
pub fn select(batch: &[Message]) -> Vec<Selected> {
    let wanted = (batch.len() * SHARE_PERCENT).div_ceil(100);
    let mut order: Vec<(usize, f64)> = batch.iter().map(|message| salience(&message.text)).enumerate().collect();
    order.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let mut picked: Vec<(usize, BTreeSet<Term>)> = Vec::new();
    for (at, _) in order {
        if picked.len() == wanted {
            break;
        }
        let Some(message) = batch.get(at) else { continue };
        let own: BTreeSet<Term> = terms(&message.text).into_iter().collect();
        if !picked.iter().any(|(_, other)| is_same(&own, other)) {
            picked.push((at, own));
        }
    }
    let mut all: BTreeSet<usize> = picked.iter().map(|(at, _)| *at).collect();
    all.extend(picked.iter().filter_map(|(at, _)| parent(batch, *at)));
    let selected = all.into_iter().filter_map(|at| Some(Selected { at, span: shown(&batch.get(at)?.text) }));
    selected.collect()
}

fn is_same(a: &BTreeSet<Term>, b: &BTreeSet<Term>) -> bool {
    let both = a.intersection(b).count();
    both * 100 >= (a.len() + b.len() - both) * SAME_PERCENT
}

/// The message that a short reply needs: the one before in its talk, if the reply points back or that one asks.
fn parent(batch: &[Message], at: usize) -> Option<usize> {
    let reply = batch.get(at)?;
    let (before, asked) =
        batch.iter().enumerate().take(at).rev().find(|(_, message)| message.conversation == reply.conversation)?;
    let first = words(&reply.text).next().map(|(_, word)| word.to_lowercase())?;
    let is_short = words(&reply.text).count() <= SHORT_WORDS;
    let points_back = lang::any(&first, |language| language.anaphora);
    let answers = asked.text.trim_end().ends_with(['?', '？']) && asked.speaker != reply.speaker;
    (is_short && (points_back || answers)).then_some(before)
}

/// The whole of a text, or the best piece of a long one.
fn shown(text: &str) -> Span {
    let whole = Span::new(0, text.len());
    if pieces::sentences(text).len() <= WHOLE_SENTENCES {
        return whole;
    }
    let score = |span: &Span| salience(span.of(text).unwrap_or_default());
    pieces::pieces(text)
        .into_iter()
        .max_by(|a, b| score(a).total_cmp(&score(b)).then(b.start.cmp(&a.start)))
        .unwrap_or(whole)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn batch(texts: &[&str]) -> Vec<Message> {
        let message = |(n, text): (usize, &&str)| Message {
            id: format!("m{n}"),
            conversation: "talk".to_owned(),
            session: None,
            speaker: if n % 2 == 0 { "Ann" } else { "Ben" }.to_owned(),
            text: (*text).to_owned(),
            time_ms: i64::try_from(n).unwrap() * 60_000,
            offset_min: 0,
        };
        texts.iter().enumerate().map(message).collect()
    }

    fn places(texts: &[&str]) -> Vec<usize> {
        select(&batch(texts)).iter().map(|it| it.at).collect()
    }

    #[test]
    fn what_says_something_stands_for_small_talk() {
        let texts = ["hi there", "ok cool", "the boiler is set to 1.6 bar since Tuesday", "lol", "good night!"];
        assert!(places(&texts).contains(&2) && places(&texts).len() == 2);
        assert_eq!(places(&["hello"]), [0], "one message stands for itself");
        assert!(places(&[]).is_empty());
    }

    #[test]
    fn a_short_answer_takes_its_question_along() {
        let texts = ["ok", "who has the spare key?", "with Mrs. Okafor, number 14", "nice"];
        assert_eq!(places(&texts), [1, 2]);
    }

    #[test]
    fn the_same_said_twice_is_selected_once() {
        let said = "the plumber comes Tuesday 12 March at 8";
        let texts = [said, "ok", said, "hm", "the alarm company is Securia", "fine"];
        assert_eq!(places(&texts), [0, 4]);
    }

    #[test]
    fn of_a_long_text_the_best_piece_is_shown() {
        let text =
            format!("{}The door code is 4471. {}", "We talked a lot. ".repeat(6), "It was nice there. ".repeat(9));
        let message = batch(&[text.as_str()]);
        let selected = select(&message);
        assert!(selected[0].span.of(&text).unwrap().contains("4471"));
        assert!((selected[0].span.end as usize) < text.len());
    }

    proptest! {
        #[test]
        fn a_selection_is_of_the_batch(texts in proptest::collection::vec(".{1,60}", 0..20)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let batch = batch(&texts);
            let selected = select(&batch);
            prop_assert!(selected.windows(2).all(|pair| pair[0].at < pair[1].at));
            prop_assert!(selected.iter().all(|it| it.span.of(&batch[it.at].text).is_some()));
            prop_assert_eq!(selected.is_empty(), batch.is_empty());
        }
    }
}
