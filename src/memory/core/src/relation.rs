//! Facts that answer the same question: of those the newest counts, and what is denied ends.
//!
//! A subject has one name, one home, one place and one time at once, and one amount of each kind; it is many other things
//! beside each other. Two facts that say what may both be true are both kept: a rule that is wrong here hides something
//! that is so. Nothing is stored of all this, so it also tells what counted at an earlier time.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Found, Predicate, subject_key};
use crate::item::Message;
use crate::text::correction;
use crate::text::dates::{is_day, is_value};
use crate::text::{lang, words};

/// Facts of one subject that an older one is compared with: the newest that stand. Beyond it both are kept.
const COMPARED_MAX: usize = 64;
/// Words that say where, in front of a place.
const PLACE: [&str; 24] = [
    "in", "at", "on", "under", "behind", "beside", "near", "next", "inside", "above", "below", "with", "to", "im",
    "am", "an", "auf", "unter", "hinter", "neben", "bei", "beim", "nach", "zu",
];
/// Words that change nothing of what a fact says.
const EMPTY: [&str; 30] = [
    "now", "still", "already", "just", "only", "then", "again", "actually", "really", "about", "any", "more",
    "anymore", "longer", "yet", "the", "our", "my", "your", "jetzt", "nun", "noch", "schon", "mehr", "nur", "dann",
    "wieder", "der", "die", "das",
];
/// Words of a measure, which one may leave out.
const UNITS: [&str; 30] = [
    "euro", "euros", "eur", "dollar", "dollars", "usd", "pound", "pounds", "gbp", "percent", "prozent", "years",
    "year", "old", "jahre", "alt", "kg", "km", "bar", "degrees", "grad", "minutes", "minuten", "hours", "stunden",
    "clock", "uhr", "month", "monat", "pm",
];

/// Words by which people put right what they said.
const CORRECTING: [&str; 14] = [
    "meant",
    "mean",
    "wrong",
    "mistake",
    "instead",
    "rather",
    "right",
    "correct",
    "typo",
    "meinte",
    "falsch",
    "sondern",
    "stattdessen",
    "richtig",
];

/// A fact with its message, as a list of facts shows it.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The fact.
    pub fact: Found,
    /// As it is now.
    pub message: &'a Message,
    /// A person has corrected the message.
    pub corrected: bool,
}

/// A question to which a subject has one answer at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Name,
    Home,
    Work,
    Birth,
    End,
    Place,
    Time,
    Amount,
}

/// All that is compared of a fact.
#[derive(Debug)]
struct Claim {
    at: usize,
    time_ms: i64,
    predicate: Predicate,
    question: Option<Question>,
    /// Numbers, days and months of the object.
    values: BTreeSet<String>,
    /// Its other words, without those that change nothing.
    details: BTreeSet<String>,
}

/// For each fact the place of the newest that replaced it, if any: of the same subject, and an answer to the same question
/// or its denial. What a person corrected comes before what was extracted, then the newer message. Of two with one time none
/// is the newer.
#[must_use]
pub fn superseded(facts: &[Shown<'_>]) -> Vec<Option<usize>> {
    let mut by_subject: BTreeMap<String, Vec<(bool, Claim)>> = BTreeMap::new();
    for (at, shown) in facts.iter().enumerate() {
        let Some(object) = shown.fact.object.of(&shown.message.text) else { continue };
        let claim = Claim::of(at, shown.message.time_ms, shown.fact.predicate, object);
        if claim.can_matter()
            && let Some(subject) = subject_key(&shown.fact.subject, shown.message)
        {
            by_subject.entry(subject).or_default().push((shown.corrected, claim));
        }
    }
    let mut replaced = vec![None; facts.len()];
    for claims in by_subject.values_mut() {
        claims.sort_by_key(|(corrected, claim)| std::cmp::Reverse((*corrected, claim.time_ms, claim.at)));
        let mut standing: Vec<&Claim> = Vec::new();
        for (_, claim) in claims.iter() {
            let newer = standing.iter().find(|newer| newer.time_ms != claim.time_ms && newer.replaces(claim));
            if let (Some(newer), Some(place)) = (newer, replaced.get_mut(claim.at)) {
                *place = Some(newer.at);
            } else if standing.len() < COMPARED_MAX {
                standing.push(claim);
            }
        }
    }
    replaced
}

/// The same as [`superseded`], and what a message of its own puts right: "sorry, I meant 4417" has no subject, and replaces the
/// value of the last few messages of its talk, if that is one only. What it replaces and what replaced that then stand for it.
///
/// A selection does not use it: there the message that is put right goes along, since the correction alone says nothing.
#[must_use]
pub fn current(facts: &[Shown<'_>]) -> Vec<Option<usize>> {
    let mut replaced = superseded(facts);
    // Messages of a talk in the order of time, each with its facts.
    let mut talks: BTreeMap<&str, BTreeMap<(i64, &str), Vec<usize>>> = BTreeMap::new();
    for (at, shown) in facts.iter().enumerate() {
        let Message { conversation, time_ms, id, .. } = shown.message;
        talks.entry(conversation).or_default().entry((*time_ms, id)).or_default().push(at);
    }
    for talk in talks.values() {
        for ((time_ms, _), of_message) in talk.iter().rev() {
            let [by] = of_message.as_slice() else { continue };
            if replaced.get(*by).is_none_or(Option::is_some) {
                continue;
            }
            let Some(kinds) = facts.get(*by).and_then(bare_correction) else { continue };
            let before = talk.range(..(*time_ms, "")).rev().take(correction::WITHIN);
            for (_, older) in before {
                let fits = |at: &&usize| facts.get(**at).is_some_and(|shown| kinds_of_object(shown) == kinds);
                let wrong: Vec<usize> = older.iter().filter(fits).copied().collect();
                let is_correction = |at: &usize| facts.get(*at).and_then(bare_correction).is_some();
                match wrong.as_slice() {
                    [] => {}
                    // A correction of the same: both are of what was said before them.
                    [at] if is_correction(at) => replace(&mut replaced, *at, *by),
                    [at] => {
                        match replaced.get(*at).copied().flatten() {
                            None => replace(&mut replaced, *at, *by),
                            Some(newer) if facts.get(newer).is_some_and(|it| it.message.time_ms > *time_ms) => {
                                replace(&mut replaced, *by, newer);
                            }
                            Some(_) => {}
                        }
                        break;
                    }
                    // Which of them is meant, nobody knows.
                    _ => break,
                }
            }
        }
    }
    replaced
}

/// One fact, and all that it has replaced, are replaced by another.
fn replace(replaced: &mut [Option<usize>], at: usize, by: usize) {
    for (place, now) in replaced.iter_mut().enumerate() {
        if place == at || *now == Some(at) {
            *now = Some(by);
        }
    }
}

/// Kinds of the values of a message that says nothing but that another value is right; `None` for any other.
fn bare_correction(shown: &Shown<'_>) -> Option<BTreeSet<Kind>> {
    let text = shown.message.text.as_str();
    if shown.fact.predicate != Predicate::Said || !correction::is_correction(text) {
        return None;
    }
    let lower: Vec<String> = words(text).map(|(_, word)| word.to_lowercase()).collect();
    let says_more = |word: &String| {
        !is_value(word)
            && !UNITS.contains(&word.as_str())
            && !EMPTY.contains(&word.as_str())
            && !CORRECTING.contains(&word.as_str())
            && !lang::any(word, |language| language.stop_words)
            && !lang::any(word, |language| language.corrections)
    };
    let kinds = kinds(&lower);
    (!kinds.is_empty() && !lower.iter().any(says_more)).then_some(kinds)
}

/// Kind of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Number,
    Day,
}

fn kinds(lower: &[String]) -> BTreeSet<Kind> {
    let kind =
        |word: &String| is_value(word).then(|| if word.contains(char::is_numeric) { Kind::Number } else { Kind::Day });
    lower.iter().filter_map(kind).collect()
}

fn kinds_of_object(shown: &Shown<'_>) -> BTreeSet<Kind> {
    let object = shown.fact.object.of(&shown.message.text).unwrap_or_default();
    kinds(&words(object).map(|(_, word)| word.to_lowercase()).collect::<Vec<_>>())
}

impl Claim {
    fn of(at: usize, time_ms: i64, predicate: Predicate, object: &str) -> Self {
        let lower: Vec<String> = words(object).map(|(_, word)| word.to_lowercase()).collect();
        let (mut values, mut details) = (BTreeSet::new(), BTreeSet::new());
        for word in &lower {
            if is_value(word) {
                values.insert(word.clone());
            } else if !EMPTY.contains(&word.as_str()) && !lang::any(word, |language| language.stop_words) {
                details.insert(word.clone());
            }
        }
        Self { at, time_ms, predicate, question: question(predicate, &lower), values, details }
    }

    /// True if it can replace, or be replaced.
    fn can_matter(&self) -> bool {
        self.question.is_some() || self.predicate.denies().is_some() || self.predicate.is_denied()
    }

    fn replaces(&self, older: &Self) -> bool {
        let is_denial = |denial: &Self, of: &Self| {
            denial.predicate.denies().is_some_and(|denied| denied.contains(&of.predicate))
                && within(&denial.words(), &of.words())
        };
        if is_denial(self, older) || is_denial(older, self) {
            return true;
        }
        let same = self.question.filter(|question| older.question == Some(*question));
        match same {
            Some(
                Question::Name | Question::Home | Question::Work | Question::Birth | Question::End | Question::Place,
            ) => true,
            Some(Question::Time) => within(&self.details, &older.details),
            // "34" and "allergic to E120" are two things; "900" and "950 euro" are not.
            Some(Question::Amount) => {
                let measured = |claim: &Self| -> BTreeSet<String> {
                    claim.details.iter().filter(|word| !UNITS.contains(&word.as_str())).cloned().collect()
                };
                measured(self) == measured(older)
            }
            None => false,
        }
    }

    fn words(&self) -> BTreeSet<String> {
        self.values.union(&self.details).cloned().collect()
    }
}

/// True if one of them has all that the other has.
fn within(a: &BTreeSet<String>, b: &BTreeSet<String>) -> bool {
    a.is_subset(b) || b.is_subset(a)
}

fn question(predicate: Predicate, object: &[String]) -> Option<Question> {
    let has_number = object.iter().any(|word| word.contains(char::is_numeric));
    let is_hour = |word: &String| (1..=2).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    let clock = object.iter().zip(object.iter().skip(1)).any(|(before, after)| {
        (matches!(before.as_str(), "at" | "um") && is_hour(after)) || (is_hour(before) && after == "uhr")
    });
    let has_time = clock || object.iter().any(|word| is_day(word));
    let is_place = object.first().is_some_and(|word| PLACE.contains(&word.as_str()));
    match predicate {
        Predicate::Named => Some(Question::Name),
        Predicate::Lives => Some(Question::Home),
        Predicate::Works => Some(Question::Work),
        Predicate::Born => Some(Question::Birth),
        Predicate::Expires => Some(Question::End),
        Predicate::Is | Predicate::Scheduled | Predicate::Should | Predicate::Moved | Predicate::Located
            if has_time =>
        {
            Some(Question::Time)
        }
        Predicate::Is | Predicate::Should | Predicate::Costs if has_number => Some(Question::Amount),
        Predicate::Has if has_number && !has_time => Some(Question::Amount),
        Predicate::Scheduled if has_number => Some(Question::Time),
        Predicate::Located => Some(Question::Place),
        // "moved the sofa to the attic" says nothing of where who moved it is.
        Predicate::Is | Predicate::Moved if is_place => Some(Question::Place),
        Predicate::Is
        | Predicate::Scheduled
        | Predicate::Should
        | Predicate::Moved
        | Predicate::Costs
        | Predicate::Said
        | Predicate::Has
        | Predicate::Owns
        | Predicate::Covers
        | Predicate::Decided
        | Predicate::Promised
        | Predicate::Did
        | Predicate::Cannot
        | Predicate::Likes
        | Predicate::Dislikes
        | Predicate::Needs
        | Predicate::Uses
        | Predicate::IsNot
        | Predicate::HasNot
        | Predicate::NeedsNot
        | Predicate::UsesNot
        | Predicate::LivesNot
        | Predicate::WorksNot => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::extract;
    use proptest::prelude::*;

    fn said(n: i64, speaker: &str, text: &str) -> Message {
        Message {
            id: format!("m{n}"),
            conversation: String::new(),
            session: None,
            speaker: speaker.to_owned(),
            text: text.to_owned(),
            time_ms: n,
            offset_min: 0,
        }
    }

    /// What counts in the end of what one person says, one text after another: "object" of each fact that stands.
    fn standing(texts: &[&str]) -> Vec<String> {
        let messages: Vec<Message> = (1..).zip(texts).map(|(n, text)| said(n, "Ann", text)).collect();
        let shown: Vec<Shown<'_>> = messages
            .iter()
            .flat_map(|message| extract(message).into_iter().map(move |fact| Shown { fact, message, corrected: false }))
            .collect();
        let replaced = superseded(&shown);
        let stands = shown.iter().zip(replaced).filter(|(_, replaced)| replaced.is_none());
        stands.map(|(shown, _)| shown.fact.object.of(&shown.message.text).unwrap().to_owned()).collect()
    }

    #[test]
    fn of_a_value_that_changed_the_newest_stands() {
        for (old, new, object) in [
            ("the door code is 4471", "the door code is 9090", "9090"),
            ("the door code is 4471", "the new door code is now 9090", "9090"),
            ("Ben has 2 cats", "Ben has 3 cats now", "3 cats now"),
            ("the rent is 900 euro", "the rent went up to 950", "950"),
            ("the rent costs 900 euro", "the rent costs 950 euro", "950 euro"),
            ("the meeting is on Tuesday", "the meeting is on Thursday at 10", "on Thursday at 10"),
            ("the meeting is on Tuesday", "the meeting moved to Thursday", "to Thursday"),
            ("the plumber comes Tuesday at 8", "actually the plumber comes Wednesday", "Wednesday"),
            ("the key is with Mrs. Okafor", "the key is under the mat", "under the mat"),
            ("the domain expires on 4 June", "the domain expires on 9 July", "on 9 July"),
            ("Die Miete ist 900 Euro", "Die Miete ist jetzt 950 Euro", "jetzt 950 Euro"),
            ("Der Termin ist am Dienstag", "Der Termin ist am Freitag", "am Freitag"),
            ("I live in Graz", "I live in Vienna now", "Vienna now"),
        ] {
            assert_eq!(standing(&[old, new]), [object], "{old} / {new}");
        }
    }

    #[test]
    fn a_denial_ends_what_it_denies_and_nothing_else() {
        for (old, new, object) in [
            ("Ben is vegetarian", "Ben isn't vegetarian any more", "vegetarian any more"),
            ("Ben is vegetarian", "Ben is no longer vegetarian", "vegetarian"),
            ("Ben has a car", "Ben doesn't have a car any more", "a car any more"),
            ("Ben isn't vegetarian", "Ben is vegetarian", "vegetarian"),
            ("Ben uses Signal", "Ben doesn't use Signal", "Signal"),
            ("Ben likes olives", "Ben doesn't like olives", "olives"),
            ("Oskar ist Vegetarier", "Oskar ist kein Vegetarier mehr", "Vegetarier mehr"),
        ] {
            assert_eq!(standing(&[old, new]), [object], "{old} / {new}");
        }
        assert_eq!(standing(&["Ben is a doctor", "Ben isn't vegetarian"]).len(), 2);
        assert_eq!(standing(&["Ben is vegetarian", "Carl isn't vegetarian"]).len(), 2);
    }

    #[test]
    fn what_may_both_be_true_is_kept() {
        for pair in [
            ["room 12 costs 40 euro", "room 13 costs 40 euro"],
            ["the door code is 4471", "the alarm code is 1111"],
            ["Ben is 34", "Ben is allergic to E120"],
            ["Ben is a nurse", "Ben is Ann's brother"],
            ["I moved the sofa to the attic", "I moved the desk to the cellar"],
            ["Ben has 2 cats", "Ben has 3 dogs"],
            ["I paid 40 euro to Ben", "I paid 50 euro to Carl"],
        ] {
            assert_eq!(standing(&pair).len(), 2, "{pair:?}");
        }
    }

    #[test]
    fn what_a_person_corrected_comes_first_and_of_one_time_both_stand() {
        let (old, new, other) = (
            said(1, "Dan", "the door code is 4471"),
            said(5, "Ann", "new door code is 9090"),
            said(9, "Ann", "the alarm code is 1111"),
        );
        let shown = |message| Shown { fact: extract(message)[0], message, corrected: false };
        let all = [shown(&old), shown(&new), shown(&other)];
        assert_eq!(superseded(&all), [Some(1), None, None]);
        assert_eq!(superseded(&[Shown { corrected: true, ..all[0] }, all[1]]), [None, Some(0)]);
        let at_once = said(5, "Dan", "the door code is 4471");
        assert_eq!(superseded(&[shown(&at_once), all[1]]), [None, None]);
    }

    /// What counts in the end of a talk, one message a minute: text of each fact that stands.
    fn counts(texts: &[&str]) -> Vec<String> {
        let messages: Vec<Message> = (1..).zip(texts).map(|(n, text)| said(n, "Ann", text)).collect();
        let shown: Vec<Shown<'_>> = messages
            .iter()
            .flat_map(|message| extract(message).into_iter().map(move |fact| Shown { fact, message, corrected: false }))
            .collect();
        let replaced = current(&shown);
        for by in replaced.iter().flatten() {
            assert!(replaced[*by].is_none(), "who replaces stands itself: {texts:?}");
        }
        let stands = shown.iter().zip(&replaced).filter(|(_, replaced)| replaced.is_none());
        stands.map(|(shown, _)| shown.fact.object.of(&shown.message.text).unwrap().to_owned()).collect()
    }

    #[test]
    fn a_correction_in_a_message_of_its_own_ends_what_it_puts_right() {
        for (texts, stands) in [
            (vec!["the door code is 4471", "sorry, I meant 4417"], vec!["sorry, I meant 4417"]),
            (vec!["the door code is 4471", "ok", "no, 4417"], vec!["ok", "no, 4417"]),
            (vec!["the meeting is on Friday", "no, Saturday"], vec!["no, Saturday"]),
            (vec!["the rent is 900 euro", "correction: 950 euro"], vec!["correction: 950 euro"]),
            (vec!["Die Miete ist 900 Euro", "sorry, 950 Euro"], vec!["sorry, 950 Euro"]),
            // Twice, and then said in full.
            (vec!["the door code is 4471", "sorry, 4417", "no, 4427"], vec!["no, 4427"]),
            (vec!["the door code is 4471", "sorry, 4417", "the door code is 4400"], vec!["4400"]),
        ] {
            assert_eq!(counts(&texts), stands, "{texts:?}");
        }
    }

    #[test]
    fn what_is_no_correction_or_could_be_one_of_several_ends_nothing() {
        for texts in [
            vec!["the door code is 4471", "actually 3 of us are coming"],
            vec!["the door code is 4471", "no, Saturday"],
            vec!["the door code is 4471, the alarm code is 1111", "sorry, I meant 4417"],
            vec!["the door code is 4471", "a", "b", "c", "d", "sorry, I meant 4417"],
            vec!["sorry, I meant 4417", "the door code is 4471"],
        ] {
            let all = texts
                .iter()
                .enumerate()
                .flat_map(|(n, text)| extract(&said(i64::try_from(n).unwrap(), "Ann", text)))
                .count();
            assert_eq!(counts(&texts).len(), all, "{texts:?}");
        }
    }

    #[test]
    fn a_correction_is_of_its_talk() {
        let code = said(1, "Ann", "the door code is 4471");
        let other = Message { conversation: "other".to_owned(), ..said(2, "Ann", "sorry, I meant 4417") };
        let shown = |message| Shown { fact: extract(message)[0], message, corrected: false };
        assert_eq!(current(&[shown(&code), shown(&other)]), [None, None]);
    }

    #[test]
    fn two_people_have_two_phones() {
        let (ann, ben) = (said(1, "Ann", "my phone number ends in 1"), said(3, "Ben", "my phone number ends in 2"));
        let shown = |message| Shown { fact: extract(message)[0], message, corrected: false };
        assert_eq!(superseded(&[shown(&ann), shown(&ben)]), [None, None]);
    }

    proptest! {
        #[test]
        fn who_replaces_stands_itself_and_is_newer(texts in proptest::collection::vec("((the code|Ben|I) (is|isn't|has|moved to)|sorry,|no,) [a-c1-3]{1,2}", 0..12)) {
            let messages: Vec<Message> = (1..).zip(&texts).map(|(n, text)| said(n, "Ann", text)).collect();
            let shown: Vec<Shown<'_>> = messages
                .iter()
                .flat_map(|message| extract(message).into_iter().map(move |fact| Shown { fact, message, corrected: false }))
                .collect();
            let replaced = current(&shown);
            prop_assert_eq!(replaced.len(), shown.len());
            for (at, by) in replaced.iter().enumerate() {
                if let Some(by) = by {
                    prop_assert!(replaced[*by].is_none() && shown[*by].message.time_ms > shown[at].message.time_ms);
                }
            }
        }
    }
}
