//! Which messages of a batch stand for it: those that say something, in their own words.
//!
//! Rules, no model: a digit, a name inside a sentence, a verb by which something is settled, and length count for a message;
//! a question and small talk against it. Centres of meaning are the wrong choice for chats: small talk is the centre.
//!
//! Of what a batch says twice the later stands, and of what it says otherwise later too ([`crate::relation`]): texts that are
//! nearly the same and differ in a number, a name, a day or a "not" are two.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Predicate, extract};
use crate::item::{Message, Span};
use crate::relation::{Shown, superseded};
use crate::text::correction::{self, has_name};
use crate::text::dates::is_value;
use crate::text::grams::{Term, terms};
use crate::text::{lang, pieces, words};

/// Share of a batch that is selected, in hundredths.
pub const SHARE_PERCENT: usize = 30;
/// Two messages are the same when so many hundredths of their terms are.
const SAME_PERCENT: usize = 80;
/// Replies up to this many words may need what they reply to.
const SHORT_WORDS: usize = 6;
/// Letters that an ending may have: "comes" and "come" are one word.
const ENDING_LETTERS: usize = 3;
/// Letters that words must share in front of their endings.
const STEM_LETTERS: usize = 4;
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
    if correction::is_correction(text) {
        score += 1.5;
    } else if is_filler(text) {
        score -= 1.5;
    }
    score
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

/// All that stands for a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Messages that have a line each, in the order of the batch.
    pub lines: Vec<Selected>,
    /// Places of messages that say something, and have no line because a later one says otherwise: what was so before.
    pub replaced: Vec<usize>,
}

/// Selects from a batch in order of time: [`SHARE_PERCENT`] of it, rounded up, without what is said again or otherwise later,
/// and the messages that short replies and corrections belong to. The same batch gives the same.
#[must_use]
pub fn select(batch: &[Message]) -> Selection {
    let wanted = (batch.len() * SHARE_PERCENT).div_ceil(100);
    let instead = newer(batch);
    let mut order: Vec<(usize, f64)> = batch.iter().map(|message| salience(&message.text)).enumerate().collect();
    order.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let mut picked: Vec<(usize, BTreeSet<Term>)> = Vec::new();
    let mut replaced = BTreeSet::new();
    for (old, _) in order {
        if picked.len() == wanted {
            break;
        }
        let at = instead.get(&old).copied().unwrap_or(old);
        if at != old {
            replaced.insert(old);
        }
        let Some(message) = batch.get(at).filter(|_| !picked.iter().any(|(known, _)| *known == at)) else { continue };
        let own: BTreeSet<Term> = terms(&message.text).into_iter().collect();
        let repeats = |known: &usize, other: &BTreeSet<Term>| {
            is_same(&own, other) && batch.get(*known).is_some_and(|known| says_the_same(known, message))
        };
        match picked.iter_mut().find(|(known, other)| repeats(known, other)) {
            // What is said again is so at the later time.
            Some((known, _)) => *known = at.max(*known),
            None => picked.push((at, own)),
        }
    }
    let mut all: BTreeSet<usize> = picked.iter().map(|(at, _)| *at).collect();
    all.extend(picked.iter().filter_map(|(at, _)| put_right_by(batch, *at)));
    let replies: Vec<usize> = all.iter().copied().collect();
    all.extend(replies.into_iter().filter_map(|at| parent(batch, at)));
    all.retain(|at| !replaced.contains(at));
    let lines = all.into_iter().filter_map(|at| Some(Selected { at, span: shown(&batch.get(at)?.text) })).collect();
    Selection { lines, replaced: replaced.into_iter().collect() }
}

/// For each message of which every fact is replaced by a later one, the last message that does so.
fn newer(batch: &[Message]) -> BTreeMap<usize, usize> {
    let facts: Vec<(usize, Shown<'_>)> = batch
        .iter()
        .enumerate()
        .flat_map(|(at, message)| {
            extract(message).into_iter().map(move |fact| (at, Shown { fact, message, corrected: false }))
        })
        .collect();
    let shown: Vec<Shown<'_>> = facts.iter().map(|(_, shown)| *shown).collect();
    let mut instead: BTreeMap<usize, Option<usize>> = BTreeMap::new();
    for ((at, shown), by) in facts.iter().zip(superseded(&shown)) {
        let by = by.and_then(|by| facts.get(by)).map(|(newer, _)| *newer);
        // A message of which no rule makes anything is replaced by nothing.
        let by = by.filter(|_| shown.fact.predicate != Predicate::Said);
        instead.entry(*at).and_modify(|known| *known = (*known).zip(by).map(|(a, b)| a.max(b))).or_insert(by);
    }
    instead.into_iter().filter_map(|(at, by)| Some((at, by?))).collect()
}

/// True if two texts that are nearly the same say the same: each number, name, day and denial is in both, and every other
/// word at least with another ending; and what they say of the speaker is of one person.
fn says_the_same(a: &Message, b: &Message) -> bool {
    let (of_a, of_b) = (telling(&a.text), telling(&b.text));
    let is_in = |word: &Telling<'_>, all: &[Telling<'_>]| all.iter().any(|other| word.is_form_of(other));
    let of_speaker = |text: &str| words(text).any(|(_, word)| lang::any(&word.to_lowercase(), |it| it.speaker));
    let points_back = |text: &str| {
        words(text).next().is_some_and(|(_, word)| lang::any(&word.to_lowercase(), |language| language.anaphora))
    };
    of_a.iter().all(|word| is_in(word, &of_b))
        && of_b.iter().all(|word| is_in(word, &of_a))
        && (a.speaker == b.speaker || !of_speaker(&a.text))
        && !(points_back(&a.text) && words(&a.text).count() > SHORT_WORDS / 2)
}

/// A word that tells something, by which two texts can differ.
struct Telling<'a> {
    shown: &'a str,
    lower: String,
}

impl Telling<'_> {
    fn is_form_of(&self, other: &Self) -> bool {
        if self.lower == other.lower {
            return true;
        }
        let fixed = |word: &Self| {
            is_value(&word.lower)
                || word.shown.starts_with(char::is_uppercase)
                || lang::any(&word.lower, |language| language.negations)
        };
        let (own, others) = (self.lower.chars().count(), other.lower.chars().count());
        let shared = self.lower.chars().zip(other.lower.chars()).take_while(|(a, b)| a == b).count();
        !fixed(self) && !fixed(other) && shared >= STEM_LETTERS && shared + ENDING_LETTERS >= own.max(others)
    }
}

fn telling(text: &str) -> Vec<Telling<'_>> {
    let tells = |lower: &str| {
        lang::any(lower, |language| language.negations) || !lang::any(lower, |language| language.stop_words)
    };
    let each = words(text).map(|(_, shown)| Telling { shown, lower: shown.to_lowercase() });
    each.filter(|word| tells(&word.lower)).collect()
}

/// The message that puts another right: one of the next few in its talk that begins so, and says nothing of its own subject.
fn put_right_by(batch: &[Message], at: usize) -> Option<usize> {
    let wrong = batch.get(at)?;
    let after = batch.iter().enumerate().skip(at + 1).filter(|(_, message)| message.conversation == wrong.conversation);
    after.take(correction::WITHIN).find(|(_, message)| correction::is_correction(&message.text)).map(|(at, _)| at)
}

fn is_same(a: &BTreeSet<Term>, b: &BTreeSet<Term>) -> bool {
    let both = a.intersection(b).count();
    both * 100 >= (a.len() + b.len() - both) * SAME_PERCENT
}

/// The message that a short reply needs: the one before in its talk, if the reply points back or that one asks; of a
/// correction the last with a value.
fn parent(batch: &[Message], at: usize) -> Option<usize> {
    let reply = batch.get(at)?;
    let (before, asked) =
        batch.iter().enumerate().take(at).rev().find(|(_, message)| message.conversation == reply.conversation)?;
    if correction::is_correction(&reply.text) {
        let talk = batch.iter().enumerate().take(at).rev().filter(|(_, it)| it.conversation == reply.conversation);
        let has_value = |text: &str| words(text).any(|(_, word)| is_value(&word.to_lowercase()));
        return talk.take(correction::WITHIN).find(|(_, it)| has_value(&it.text)).map(|(at, _)| at);
    }
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
        select(&batch(texts)).lines.iter().map(|it| it.at).collect()
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
        assert_eq!(places(&texts), [2, 4], "it is so at the later time");
        let come =
            |verb: &str| format!("{verb} Tuesday 12 March at 8 with all of the new copper pipes for the kitchen");
        let (one, more) = (come("the plumber comes"), come("the plumbers come"));
        assert_eq!(places(&[&one, "ok", &more, "hm"]), [2, 3], "another ending is no other word");
    }

    #[test]
    fn what_differs_in_a_number_a_name_or_a_denial_is_not_the_same() {
        for pair in [
            ["the code of the box in the cellar is 4001", "the code of the box in the attic is 4001"],
            ["the rent of flat 12 in Mill Lane costs 940 euro", "the rent of flat 13 in Mill Lane costs 940 euro"],
            ["Marta should get the keys of the house", "Marta should not get the keys of the house"],
            ["please give the big parcel to Anna", "please give the big parcel to Hanna"],
        ] {
            assert_eq!(places(&[pair[0], "ok", pair[1], "hm", "fine", "lol"]), [0, 2], "{pair:?}");
        }
    }

    #[test]
    fn of_what_changed_the_newest_has_the_line_and_the_older_is_kept_as_what_was() {
        for (old, new) in [
            ("the code of the box in the cellar is 4001", "the code of the box in the cellar is 4002"),
            ("the dentist appointment is on Tuesday 4 March", "the dentist appointment moved to Friday 7 March"),
            ("the rent for the garage is 90 euro", "actually the rent for the garage went up to 95 euro"),
            ("Grandpa Anton has a car", "Grandpa Anton doesn't have a car any more"),
        ] {
            let selection = select(&batch(&[old, "ok", "hm", new, "lol", "fine"]));
            let lines: Vec<usize> = selection.lines.iter().map(|it| it.at).collect();
            assert!(lines.contains(&3) && !lines.contains(&0), "{new}: {lines:?}");
            assert_eq!(selection.replaced, [0], "{old}");
        }
        // And back again: the last of three stands.
        let code = |n: u32| format!("the code of the box in the cellar is {n}");
        let (a, b, c) = (code(1), code(2), code(1));
        assert_eq!(places(&[&a, &b, "ok", &c, "hm"]), [3, 4]);
    }

    #[test]
    fn a_correction_goes_with_what_it_puts_right() {
        let texts = ["the code of the safe is 4471", "lol", "sorry, I meant 4417", "ok", "hm", "good night!"];
        assert_eq!(places(&texts), [0, 2]);
        let texts = ["the party starts Friday at 7", "no, Saturday", "ok", "hm", "lol", "good night!"];
        assert_eq!(places(&texts), [0, 1]);
    }

    #[test]
    fn what_two_people_say_of_themselves_is_two_things() {
        // Ann and Ben speak in turns.
        let texts =
            ["I can't eat shellfish any more", "I can't eat shellfish any more", "ok", "hm", "lol", "good night!"];
        assert_eq!(places(&texts), [0, 1]);
    }

    #[test]
    fn of_a_long_text_the_best_piece_is_shown() {
        let text =
            format!("{}The door code is 4471. {}", "We talked a lot. ".repeat(6), "It was nice there. ".repeat(9));
        let message = batch(&[text.as_str()]);
        let selected = select(&message);
        assert!(selected.lines[0].span.of(&text).unwrap().contains("4471"));
        assert!((selected.lines[0].span.end as usize) < text.len());
    }

    proptest! {
        #[test]
        fn a_selection_is_of_the_batch(texts in proptest::collection::vec(".{1,60}", 0..20)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let batch = batch(&texts);
            let Selection { lines: selected, replaced } = select(&batch);
            prop_assert!(replaced.iter().all(|at| selected.iter().all(|it| it.at != *at)));
            prop_assert!(selected.windows(2).all(|pair| pair[0].at < pair[1].at));
            prop_assert!(selected.iter().all(|it| it.span.of(&batch[it.at].text).is_some()));
            prop_assert_eq!(selected.is_empty(), batch.is_empty());
        }
    }
}
