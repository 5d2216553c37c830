//! Facts by rules: a subject, a predicate, an object, each a part of one message.
//!
//! A message is cut into clauses; in each the first verb of a closed table is the predicate, what stands before it the
//! subject, what stands after it the object. "I" is the speaker; other pronouns are the subject before. A message of which
//! the rules make nothing is kept as said by its speaker. What a model proposes passes [`check`].

use std::collections::BTreeSet;

use crate::item::{Message, Span, Subject};
use crate::limits;
use crate::text::dates::is_value;
use crate::text::words;

macro_rules! predicates {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $shown:literal;)*) => {
        /// All that is said of a subject. Numbers are for ever.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Predicate {
            $($(#[$doc])* $name,)*
        }

        impl Predicate {
            /// Its number in [`crate::item::Fact`].
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The predicate with a number; `None` for one of a later version.
            #[must_use]
            pub const fn of(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// As people and models read it.
            #[must_use]
            pub const fn shown(self) -> &'static str {
                match self { $(Self::$name => $shown,)* }
            }
        }
    };
}

predicates! {
    /// Said by the speaker: the object is the message, as far as it is shown.
    Said = 1, "said";
    /// Is something, or has a value.
    Is = 2, "is";
    /// Has or gets something.
    Has = 3, "has";
    /// Bears a name.
    Named = 4, "is called";
    /// Is somewhere.
    Located = 5, "is at";
    /// Was moved somewhere.
    Moved = 6, "moved";
    /// Lives somewhere.
    Lives = 7, "lives in";
    /// Works for or as.
    Works = 8, "works";
    /// Owns something, or is responsible for it.
    Owns = 9, "owns";
    /// Costs so much.
    Costs = 10, "costs";
    /// Covers something.
    Covers = 11, "covers";
    /// Ends at a time.
    Expires = 12, "expires";
    /// Happens at a time.
    Scheduled = 13, "is scheduled";
    /// Decided or agreed.
    Decided = 14, "decided";
    /// Promised.
    Promised = 15, "promised";
    /// Bought, booked, paid, ordered, renewed, gave, installed, …
    Did = 16, "did";
    /// Should or must.
    Should = 17, "should";
    /// Cannot or must not.
    Cannot = 18, "cannot";
    /// Likes or prefers.
    Likes = 19, "likes";
    /// Dislikes.
    Dislikes = 20, "dislikes";
    /// Needs.
    Needs = 21, "needs";
    /// Uses.
    Uses = 22, "uses";
    /// Was born, turns an age.
    Born = 23, "was born";
    /// Is something no more, or never was.
    IsNot = 24, "is not";
    /// Has something no more, or never had.
    HasNot = 25, "does not have";
    /// Does not need.
    NeedsNot = 26, "does not need";
    /// Does not use.
    UsesNot = 27, "does not use";
    /// Lives somewhere no more.
    LivesNot = 28, "does not live in";
    /// Works somewhere no more, or not at all.
    WorksNot = 29, "does not work";
}

impl Predicate {
    /// The predicates that it says the opposite of, if it denies.
    #[must_use]
    pub const fn denies(self) -> Option<&'static [Self]> {
        match self {
            Self::IsNot => {
                Some(&[Self::Is, Self::Named, Self::Located, Self::Scheduled, Self::Costs, Self::Should, Self::Expires])
            }
            Self::HasNot => Some(&[Self::Has, Self::Owns]),
            Self::NeedsNot => Some(&[Self::Needs]),
            Self::UsesNot => Some(&[Self::Uses]),
            Self::LivesNot => Some(&[Self::Lives]),
            Self::WorksNot => Some(&[Self::Works]),
            Self::Dislikes => Some(&[Self::Likes]),
            Self::Said
            | Self::Is
            | Self::Has
            | Self::Named
            | Self::Located
            | Self::Moved
            | Self::Lives
            | Self::Works
            | Self::Owns
            | Self::Costs
            | Self::Covers
            | Self::Expires
            | Self::Scheduled
            | Self::Decided
            | Self::Promised
            | Self::Did
            | Self::Should
            | Self::Cannot
            | Self::Likes
            | Self::Needs
            | Self::Uses
            | Self::Born => None,
        }
    }

    /// True if another predicate says the opposite of it.
    #[must_use]
    pub const fn is_denied(self) -> bool {
        matches!(
            self,
            Self::Is
                | Self::Named
                | Self::Located
                | Self::Scheduled
                | Self::Costs
                | Self::Should
                | Self::Expires
                | Self::Has
                | Self::Owns
                | Self::Needs
                | Self::Uses
                | Self::Lives
                | Self::Works
                | Self::Likes
        )
    }
}

/// Verbs, longest first where one begins another. In lower case; `'s` and `n't` are words of their own.
const VERBS: &[(&str, Predicate)] = &[
    ("is called", Predicate::Named),
    ("s called", Predicate::Named),
    ("is named", Predicate::Named),
    ("is with", Predicate::Located),
    ("is booked for", Predicate::Scheduled),
    ("is scheduled for", Predicate::Scheduled),
    ("will be", Predicate::Is),
    ("is", Predicate::Is),
    ("are", Predicate::Is),
    ("am", Predicate::Is),
    ("was born", Predicate::Born),
    ("was", Predicate::Is),
    ("were", Predicate::Is),
    ("ends in", Predicate::Is),
    ("ends with", Predicate::Is),
    ("has", Predicate::Has),
    ("have", Predicate::Has),
    ("gets", Predicate::Has),
    ("get", Predicate::Has),
    ("got", Predicate::Has),
    ("sits at", Predicate::Located),
    ("lives in", Predicate::Lives),
    ("live in", Predicate::Lives),
    ("works", Predicate::Works),
    ("work for", Predicate::Works),
    ("work at", Predicate::Works),
    ("work as", Predicate::Works),
    ("moved", Predicate::Moved),
    ("moves", Predicate::Moved),
    ("owns", Predicate::Owns),
    ("own", Predicate::Owns),
    ("belongs to", Predicate::Owns),
    ("costs", Predicate::Costs),
    ("cost", Predicate::Costs),
    ("covers", Predicate::Covers),
    ("expires", Predicate::Expires),
    ("runs out on", Predicate::Expires),
    ("runs out", Predicate::Expires),
    ("ends on", Predicate::Expires),
    ("comes", Predicate::Scheduled),
    ("arrives", Predicate::Scheduled),
    ("leaves", Predicate::Scheduled),
    ("starts", Predicate::Scheduled),
    ("begins", Predicate::Scheduled),
    ("picks us up", Predicate::Scheduled),
    ("run", Predicate::Scheduled),
    ("runs", Predicate::Scheduled),
    ("opens", Predicate::Scheduled),
    ("closes", Predicate::Scheduled),
    ("meets", Predicate::Scheduled),
    ("decided on", Predicate::Decided),
    ("decided", Predicate::Decided),
    ("agreed", Predicate::Decided),
    ("go with", Predicate::Decided),
    ("going with", Predicate::Decided),
    ("chose", Predicate::Decided),
    ("promised", Predicate::Promised),
    ("promise", Predicate::Promised),
    ("booked", Predicate::Did),
    ("ordered", Predicate::Did),
    ("bought", Predicate::Did),
    ("paid", Predicate::Did),
    ("renewed", Predicate::Did),
    ("gave", Predicate::Did),
    ("sold", Predicate::Did),
    ("installed", Predicate::Did),
    ("replaced", Predicate::Did),
    ("hired", Predicate::Did),
    ("signed", Predicate::Did),
    ("cancelled", Predicate::Did),
    ("canceled", Predicate::Did),
    ("changed", Predicate::Did),
    ("fixed", Predicate::Did),
    ("married", Predicate::Did),
    ("finished", Predicate::Did),
    ("visited", Predicate::Did),
    ("adopted", Predicate::Did),
    ("joined", Predicate::Did),
    ("lost", Predicate::Did),
    ("found", Predicate::Did),
    ("started", Predicate::Did),
    ("should", Predicate::Should),
    ("must", Predicate::Should),
    ("can t", Predicate::Cannot),
    ("cannot", Predicate::Cannot),
    ("must not", Predicate::Cannot),
    ("prefer", Predicate::Likes),
    ("prefers", Predicate::Likes),
    ("like", Predicate::Likes),
    ("likes", Predicate::Likes),
    ("love", Predicate::Likes),
    ("loves", Predicate::Likes),
    ("hate", Predicate::Dislikes),
    ("hates", Predicate::Dislikes),
    ("need", Predicate::Needs),
    ("needs", Predicate::Needs),
    ("use", Predicate::Uses),
    ("uses", Predicate::Uses),
    // What changes
    ("is now", Predicate::Is),
    ("changed to", Predicate::Is),
    ("changes to", Predicate::Is),
    ("was changed to", Predicate::Is),
    ("has changed to", Predicate::Is),
    ("went up to", Predicate::Is),
    ("went down to", Predicate::Is),
    ("goes up to", Predicate::Is),
    ("goes down to", Predicate::Is),
    ("rose to", Predicate::Is),
    ("dropped to", Predicate::Is),
    ("was moved", Predicate::Moved),
    ("is moved", Predicate::Moved),
    ("was postponed", Predicate::Moved),
    ("is postponed", Predicate::Moved),
    // What is denied; of "isn't" the words are "isn" and "t"
    ("is not", Predicate::IsNot),
    ("isn t", Predicate::IsNot),
    ("is no longer", Predicate::IsNot),
    ("are not", Predicate::IsNot),
    ("aren t", Predicate::IsNot),
    ("are no longer", Predicate::IsNot),
    ("am not", Predicate::IsNot),
    ("m not", Predicate::IsNot),
    ("m no longer", Predicate::IsNot),
    ("am no longer", Predicate::IsNot),
    ("was not", Predicate::IsNot),
    ("wasn t", Predicate::IsNot),
    ("were not", Predicate::IsNot),
    ("weren t", Predicate::IsNot),
    ("doesn t have", Predicate::HasNot),
    ("does not have", Predicate::HasNot),
    ("don t have", Predicate::HasNot),
    ("do not have", Predicate::HasNot),
    ("has no", Predicate::HasNot),
    ("have no", Predicate::HasNot),
    ("no longer has", Predicate::HasNot),
    ("no longer have", Predicate::HasNot),
    ("doesn t need", Predicate::NeedsNot),
    ("does not need", Predicate::NeedsNot),
    ("don t need", Predicate::NeedsNot),
    ("do not need", Predicate::NeedsNot),
    ("no longer needs", Predicate::NeedsNot),
    ("no longer need", Predicate::NeedsNot),
    ("doesn t use", Predicate::UsesNot),
    ("does not use", Predicate::UsesNot),
    ("don t use", Predicate::UsesNot),
    ("do not use", Predicate::UsesNot),
    ("no longer uses", Predicate::UsesNot),
    ("no longer use", Predicate::UsesNot),
    ("doesn t live in", Predicate::LivesNot),
    ("don t live in", Predicate::LivesNot),
    ("no longer lives in", Predicate::LivesNot),
    ("no longer live in", Predicate::LivesNot),
    ("doesn t work", Predicate::WorksNot),
    ("don t work", Predicate::WorksNot),
    ("no longer works", Predicate::WorksNot),
    ("no longer work", Predicate::WorksNot),
    ("doesn t like", Predicate::Dislikes),
    ("don t like", Predicate::Dislikes),
    ("does not like", Predicate::Dislikes),
    ("do not like", Predicate::Dislikes),
    // German
    ("ist nicht", Predicate::IsNot),
    ("ist kein", Predicate::IsNot),
    ("ist keine", Predicate::IsNot),
    ("sind nicht", Predicate::IsNot),
    ("sind keine", Predicate::IsNot),
    ("bin nicht", Predicate::IsNot),
    ("bin kein", Predicate::IsNot),
    ("bin keine", Predicate::IsNot),
    ("hat kein", Predicate::HasNot),
    ("hat keine", Predicate::HasNot),
    ("hat keinen", Predicate::HasNot),
    ("habe kein", Predicate::HasNot),
    ("habe keine", Predicate::HasNot),
    ("habe keinen", Predicate::HasNot),
    ("braucht kein", Predicate::NeedsNot),
    ("braucht keine", Predicate::NeedsNot),
    ("braucht keinen", Predicate::NeedsNot),
    ("brauche kein", Predicate::NeedsNot),
    ("brauche keine", Predicate::NeedsNot),
    ("brauche keinen", Predicate::NeedsNot),
    ("wohnt nicht mehr in", Predicate::LivesNot),
    ("wohne nicht mehr in", Predicate::LivesNot),
    ("arbeitet nicht mehr", Predicate::WorksNot),
    ("arbeite nicht mehr", Predicate::WorksNot),
    ("mag kein", Predicate::Dislikes),
    ("mag keine", Predicate::Dislikes),
    ("mag keinen", Predicate::Dislikes),
    ("mag nicht", Predicate::Dislikes),
    ("ist", Predicate::Is),
    ("sind", Predicate::Is),
    ("bin", Predicate::Is),
    ("waren", Predicate::Is),
    ("heißt", Predicate::Named),
    ("heiße", Predicate::Named),
    ("hat", Predicate::Has),
    ("habe", Predicate::Has),
    ("haben", Predicate::Has),
    ("bekommt", Predicate::Has),
    ("wohnt in", Predicate::Lives),
    ("wohne in", Predicate::Lives),
    ("arbeitet", Predicate::Works),
    ("arbeite", Predicate::Works),
    ("kostet", Predicate::Costs),
    ("kosten", Predicate::Costs),
    ("gehört", Predicate::Owns),
    ("läuft", Predicate::Expires),
    ("kommt", Predicate::Scheduled),
    ("beginnt", Predicate::Scheduled),
    ("fährt", Predicate::Scheduled),
    ("steht", Predicate::Located),
    ("liegt", Predicate::Located),
    ("muss", Predicate::Should),
    ("soll", Predicate::Should),
    ("darf nicht", Predicate::Cannot),
    ("kann nicht", Predicate::Cannot),
    ("mag", Predicate::Likes),
    ("braucht", Predicate::Needs),
    ("brauche", Predicate::Needs),
    ("brauchen", Predicate::Needs),
    ("zieht", Predicate::Moved),
];

const SPEAKER: [&str; 2] = ["i", "ich"];
const PRONOUNS: [&str; 13] =
    ["it", "he", "she", "they", "that", "this", "there", "who", "es", "er", "sie", "das", "which"];
/// Words before a subject without belonging to it.
const BEFORE: [&str; 30] = [
    "ok",
    "okay",
    "well",
    "so",
    "and",
    "but",
    "oh",
    "yes",
    "no",
    "hey",
    "hi",
    "then",
    "also",
    "now",
    "btw",
    "und",
    "aber",
    "ja",
    "nein",
    "also",
    "because",
    "since",
    "weil",
    "denn",
    "actually",
    "sorry",
    "correction",
    "update",
    "instead",
    "korrektur",
];
/// Words between a subject and its verb without belonging to either.
const BETWEEN: [&str; 18] = [
    "now", "still", "also", "just", "always", "already", "usually", "really", "finally", "actually", "probably",
    "recently", "jetzt", "immer", "noch", "auch", "schon", "ve",
];
/// Clauses that begin so say what might be.
const HYPOTHETICAL: [&str; 10] =
    ["if", "maybe", "perhaps", "unless", "suppose", "wenn", "falls", "vielleicht", "would", "could"];
const CONJUNCTIONS: [&str; 9] = ["and", "but", "so", "because", "while", "und", "aber", "weil", "sondern"];
const ARTICLES: [&str; 22] = [
    "the", "a", "an", "our", "my", "your", "new", "this", "der", "die", "das", "ein", "eine", "unser", "unsere",
    "mein", "meine", "neue", "neuer", "neues", "den", "dem",
];

/// A fact before it belongs to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Of whom or what.
    pub subject: Subject,
    /// All that is said.
    pub predicate: Predicate,
    /// Of it.
    pub object: Span,
}

impl Found {
    /// Subject as it is read: the speaker's name, or words of the message. `None` when a span is none of the text's.
    #[must_use]
    pub fn subject<'a>(&self, message: &'a Message) -> Option<&'a str> {
        subject_text(&self.subject, message)
    }
}

/// See [`Found::subject`].
#[must_use]
pub fn subject_text<'a>(subject: &Subject, message: &'a Message) -> Option<&'a str> {
    match subject {
        Subject::Speaker => Some(message.speaker.as_str()),
        Subject::Words(span) => span.of(&message.text),
    }
}

/// The predicate of a verb as it stands in a text; `None` for one of which nothing is known.
#[must_use]
pub fn predicate_of(verb: &str) -> Option<Predicate> {
    let said: Vec<String> = words(verb).map(|(_, word)| word.to_lowercase()).collect();
    let said = said.join(" ");
    VERBS.iter().find(|(known, _)| *known == said).map(|(_, predicate)| *predicate)
}

/// Checks what an extractor proposes: spans of this message, at most [`limits::FACTS_PER_MESSAGE_MAX`], none twice. What is
/// over the limit or is none is left out.
#[must_use]
pub fn check(message: &Message, proposed: &[Found]) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    let stands = |fact: &&Found| {
        fact.object.of(&message.text).is_some_and(|object| object.chars().any(char::is_alphanumeric))
            && fact.subject(message).is_some_and(|subject| subject.chars().any(char::is_alphanumeric))
    };
    let once = proposed.iter().filter(stands).filter(|fact| seen.insert(**fact));
    once.take(limits::FACTS_PER_MESSAGE_MAX).copied().collect()
}

/// The facts of a message by rules; at least that its speaker said it, unless it asks or has no speaker.
#[must_use]
pub fn extract(message: &Message) -> Vec<Found> {
    let text = message.text.as_str();
    if text.trim_end().ends_with(['?', '？']) && !text.contains(['.', '!']) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut last: Option<Subject> = None;
    for clause in clauses(text) {
        let asks = text.get(clause.end..).is_some_and(|rest| rest.starts_with('?'));
        if !asks {
            clause.facts(text, &mut last, &mut found);
        }
    }
    let mut checked = check(message, &found);
    if checked.is_empty() && !message.speaker.is_empty() {
        let said = Found { subject: Subject::Speaker, predicate: Predicate::Said, object: Span::new(0, text.len()) };
        checked = check(message, &[said]);
    }
    checked
}

/// A word with its place and its lower case.
#[derive(Debug, Clone)]
struct Word {
    start: usize,
    end: usize,
    lower: String,
}

#[derive(Debug)]
struct Clause {
    words: Vec<Word>,
    end: usize,
}

/// A text cut at punctuation, and at conjunctions that are followed by a verb.
fn clauses(text: &str) -> Vec<Clause> {
    let all: Vec<Word> =
        words(text).map(|(start, word)| Word { start, end: start + word.len(), lower: word.to_lowercase() }).collect();
    let mut parts: Vec<Vec<Word>> = Vec::new();
    for word in all {
        let cut = parts.last().and_then(|part| part.last()).is_none_or(|before| {
            let between = text.get(before.end..word.start).unwrap_or_default();
            let title = matches!(before.lower.as_str(), "mr" | "mrs" | "ms" | "dr" | "st");
            between.contains([',', ';', '!', '?', '\n', '(', ')', '\u{2013}', '\u{2014}'])
                || ((between.contains(": ") || between.contains(". ")) && !title)
        });
        if cut {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push(word);
        }
    }
    let mut out = Vec::new();
    for part in parts {
        split_at_conjunctions(&part, &mut out);
    }
    out
}

fn split_at_conjunctions(part: &[Word], out: &mut Vec<Clause>) {
    let mut start = 0;
    for at in 1..part.len() {
        let splits = part.get(at).is_some_and(|word| CONJUNCTIONS.contains(&word.lower.as_str()))
            && part.get(start..at).is_some_and(|before| find_verb(before).is_some())
            && part.get(at + 1..).is_some_and(|after| find_verb(after).is_some());
        if splits {
            out.extend(part.get(start..at).and_then(Clause::of));
            start = at + 1;
        }
    }
    out.extend(part.get(start..).and_then(Clause::of));
}

/// Place of the first verb, its number of words, and its predicate.
fn find_verb(words: &[Word]) -> Option<(usize, usize, Predicate)> {
    (0..words.len()).find_map(|at| {
        let matches = |verb: &str| {
            let count = verb.split(' ').count();
            let here = words.get(at..at + count)?;
            here.iter().map(|word| word.lower.as_str()).eq(verb.split(' ')).then_some(count)
        };
        let longest = VERBS.iter().filter_map(|(verb, predicate)| Some((matches(verb)?, *predicate)));
        let longest = longest.max_by_key(|(count, _)| *count);
        // "it's 9090"; of "Ann's phone is 12" the verb comes later.
        let says_value = || {
            let lower = |n: usize| words.get(n).map(|word| word.lower.as_str());
            let is_pronoun = at == 1 && lower(0).is_some_and(|word| PRONOUNS.contains(&word));
            (is_pronoun && lower(1) == Some("s") && lower(2).is_some_and(is_value)).then_some((1, Predicate::Is))
        };
        let (count, predicate) = longest.or_else(says_value)?;
        Some((at, count, predicate))
    })
}

impl Clause {
    fn of(words: &[Word]) -> Option<Self> {
        words.last().map(|last| Self { words: words.to_vec(), end: last.end })
    }

    fn facts(&self, text: &str, last: &mut Option<Subject>, found: &mut Vec<Found>) {
        let skipped = self.words.iter().take_while(|word| BEFORE.contains(&word.lower.as_str())).count();
        let words = self.words.get(skipped..).unwrap_or_default();
        let Some(first) = words.first() else { return };
        if HYPOTHETICAL.contains(&first.lower.as_str()) {
            return;
        }
        let span = |words: &[Word]| Some(Span::new(words.first()?.start, words.last()?.end));
        let Some((at, count, predicate)) = find_verb(words) else {
            Self::without_verb(text, words, last, found);
            return;
        };
        let (before, after) = (words.get(..at).unwrap_or_default(), words.get(at + count..).unwrap_or_default());
        // "isn't" says the opposite; of "it's" the subject is "it".
        let negated =
            after.first().is_some_and(|word| word.lower == "t") || before.last().is_some_and(|word| word.lower == "t");
        let kept = before.len() - before.iter().rev().take_while(|word| BETWEEN.contains(&word.lower.as_str())).count();
        let before = before.get(..kept).unwrap_or_default();
        let subject = match (before.last(), before.len()) {
            (None, _) => *last,
            (Some(word), 1) if SPEAKER.contains(&word.lower.as_str()) => Some(Subject::Speaker),
            (Some(word), 1) if PRONOUNS.contains(&word.lower.as_str()) => *last,
            _ => span(before).map(Subject::Words),
        };
        if subject.is_some() {
            *last = subject;
        }
        if let (Some(subject), Some(object), false) = (subject, span(after), negated) {
            found.push(Found { subject, predicate, object });
        }
    }

    /// "the rental car is a Duster, confirmation code K7PLQ": more of the same. "the plumber, Mr. Lindqvist": who that is.
    fn without_verb(text: &str, words: &[Word], last: &mut Option<Subject>, found: &mut Vec<Found>) {
        let (Some(first), Some(end)) = (words.first(), words.last()) else { return };
        let span = Span::new(first.start, end.end);
        let telling = span.of(text).is_some_and(|shown| {
            shown.chars().any(char::is_numeric) || words.iter().any(|word| is_capital(text, word))
        });
        match *last {
            Some(subject) if telling => {
                let predicate = if found.is_empty() { Predicate::Is } else { Predicate::Has };
                found.push(Found { subject, predicate, object: span });
            }
            None if ARTICLES.contains(&first.lower.as_str()) => *last = Some(Subject::Words(span)),
            Some(_) | None => {}
        }
    }
}

fn is_capital(text: &str, word: &Word) -> bool {
    word.end - word.start > 1 && text.get(word.start..).is_some_and(|rest| rest.starts_with(char::is_uppercase))
}

/// A subject as it is compared: lower case, without articles; what is the speaker's own belongs to the speaker.
#[must_use]
pub fn subject_key(subject: &Subject, message: &Message) -> Option<String> {
    let shown = subject_text(subject, message)?;
    let lower: Vec<String> = words(shown).map(|(_, word)| word.to_lowercase()).collect();
    let own = lower.iter().any(|word| matches!(word.as_str(), "my" | "mein" | "meine"));
    let bare: Vec<&str> = lower.iter().map(String::as_str).filter(|word| !ARTICLES.contains(word)).collect();
    let bare = if bare.is_empty() { shown.to_lowercase() } else { bare.join(" ") };
    Some(if own { format!("{} {bare}", message.speaker.to_lowercase()) } else { bare })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(speaker: &str, text: &str) -> Message {
        Message {
            id: "m".to_owned(),
            conversation: String::new(),
            session: None,
            speaker: speaker.to_owned(),
            text: text.to_owned(),
            time_ms: 0,
            offset_min: 0,
        }
    }

    fn facts(speaker: &str, text: &str) -> Vec<String> {
        let message = said(speaker, text);
        let shown = |fact: &Found| {
            let subject = fact.subject(&message).unwrap();
            format!("{subject} | {} | {}", fact.predicate.shown(), fact.object.of(text).unwrap())
        };
        extract(&message).iter().map(shown).collect()
    }

    #[test]
    fn m3_a_sentence_about_somebody_is_a_fact() {
        let facts = facts("Bob", "Alice is a software engineer at Acme Corp");
        assert_eq!(facts, ["Alice | is | a software engineer at Acme Corp"]);
    }

    #[test]
    fn clauses_carry_their_subject_on() {
        assert_eq!(
            facts("Marek", "ok the new NAS is up, it's called hydra and it sits at 192.168.7.20"),
            ["the new NAS | is | up", "the new NAS | is called | hydra", "the new NAS | is at | 192.168.7.20"]
        );
        assert_eq!(
            facts("Ben", "flight is Icelandair FI455, leaves Saturday at 13:10"),
            ["flight | is | Icelandair FI455", "flight | is scheduled | Saturday at 13:10"]
        );
        assert_eq!(
            facts("Priya", "the plumber, Mr. Lindqvist, comes Tuesday at 8"),
            ["the plumber | is | Mr. Lindqvist", "the plumber | is scheduled | Tuesday at 8"]
        );
    }

    #[test]
    fn the_speaker_is_the_subject_of_i() {
        assert_eq!(facts("Ruth", "I can't eat shellfish any more"), ["Ruth | cannot | eat shellfish any more"]);
        assert_eq!(facts("Lea", "Ich wohne in Graz"), ["Lea | lives in | Graz"]);
    }

    #[test]
    fn what_is_denied_asked_or_supposed_is_no_fact() {
        assert_eq!(facts("Ann", "the code won't be 4471"), ["Ann | said | the code won't be 4471"]);
        assert_eq!(facts("Ann", "if the code is 4471"), ["Ann | said | if the code is 4471"]);
        assert!(facts("Ann", "is the code 4471?").is_empty());
        assert!(facts("", "no idea").is_empty());
    }

    #[test]
    fn a_denial_of_a_known_kind_is_a_fact_of_its_own() {
        assert_eq!(
            facts("Ann", "the code isn't 4471 any more, it's 9090"),
            ["the code | is not | 4471 any more", "the code | is | 9090"]
        );
        assert_eq!(facts("Ann", "I'm not vegetarian"), ["Ann | is not | vegetarian"]);
        for predicate in (0..40).filter_map(Predicate::of) {
            let denied = predicate.denies().unwrap_or_default();
            assert!(denied.iter().all(|of| of.is_denied() && of.denies().is_none()), "{predicate:?}");
        }
    }

    #[test]
    fn predicates_keep_their_numbers() {
        for number in 0..40 {
            assert!(Predicate::of(number).is_none_or(|predicate| predicate.number() == number));
        }
    }

    proptest! {
        #[test]
        fn any_message_gives_parts_of_itself(text in ".{1,120}", speaker in "[A-Z]?[a-z]{0,5}") {
            let message = said(&speaker, &text);
            let facts = extract(&message);
            prop_assert!(facts.len() <= limits::FACTS_PER_MESSAGE_MAX);
            prop_assert_eq!(check(&message, &facts), facts);
        }

        #[test]
        fn what_a_model_proposes_is_cut_to_what_stands(spans in proptest::collection::vec((0u32..40, 0u32..40), 0..600)) {
            let message = said("Ann", "the köttbullar are 12 euro");
            let proposed: Vec<Found> = spans.iter().map(|(start, end)| Found {
                subject: Subject::Speaker, predicate: Predicate::Is, object: Span { start: *start, end: *end },
            }).collect();
            let kept = check(&message, &proposed);
            prop_assert!(kept.len() <= limits::FACTS_PER_MESSAGE_MAX);
            prop_assert!(kept.iter().all(|fact| fact.object.of(&message.text).is_some()));
        }
    }
}
