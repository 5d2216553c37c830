//! What a model that writes is told of a summary, and what is taken of its words.
//!
//! A summary is made by rules and stands at once. Later, when nothing else is to be done, a model is told its lines and asked
//! for a **head**, a few sentences in front of it, and for **facts**. Nothing of an answer is taken on trust: a head must pass
//! [`verify::head_stands`], a fact must be words of one sentence of one message in their order. What is refused is counted,
//! and the summary stands as it did.

use serde::{Deserialize, Serialize};

use crate::compaction::{ATTEMPT_WITHOUT_MODEL, Draft};
use crate::facts::{Found, predicate_of};
use crate::ids::{BatchId, MessageKey, ModelId, Rev, hash};
use crate::item::{Body, Fact, Line, Message, Span, Subject, Summary};
use crate::resolve::{BatchRow, View};
use crate::text::{lang, pieces, words};
use crate::verify;

/// Bytes of all lines that a model is told at once; further ones are left out, and the head does not rest on them.
pub const TOLD_BYTES_MAX: usize = 6 * 1024;
/// Letters of one line.
const LINE_CHARS_MAX: usize = 400;
/// Lines of an answer that are read; a model that goes on and on is not heard out.
const ANSWER_LINES_MAX: usize = 128;
/// Sentences of a head.
const SENTENCES_MAX: usize = 3;
/// Words that may stand between a subject and its verb.
const WORDS_BETWEEN_MAX: usize = 3;
/// Tokens that a head may have, and facts of one batch.
const HEAD_TOKENS: u16 = 96;
const FACTS_TOKENS: u16 = 384;

/// When a model writes, where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Never: summaries are as rules make them.
    Never,
    /// When nothing else is to be done.
    Idle,
    /// As soon as there is a summary.
    AtOnce,
}

/// That a model was asked about a summary: kept on the disk of whoever asked, before it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The model.
    pub model: ModelId,
    /// Which lines it was told, as they were.
    pub lines: Rev,
    /// How often it was begun.
    pub attempts: u32,
    /// It has answered; what was to be taken is taken.
    pub over: bool,
}

/// What a model is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What it is to do.
    pub system: String,
    /// What with.
    pub user: String,
    /// Most tokens of its answer.
    pub tokens_max: u16,
}

/// A summary as a model is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    batch: BatchId,
    lines: Vec<Line>,
    known: Vec<Fact>,
    messages: Vec<(MessageKey, Rev, Message)>,
}

/// What is taken of a model's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Its head and its facts, as items. Each still counts only while its sources do.
    pub bodies: Vec<Body>,
    /// A head was said, and refused.
    pub head_refused: bool,
    /// Facts that were said and refused.
    pub facts_refused: usize,
}

impl Tried {
    /// The next attempt at a batch; `None` when there is none to make: it has no lines that count, this model has answered for
    /// these lines, or has failed with them [`ATTEMPT_WITHOUT_MODEL`] times.
    #[must_use]
    pub fn next(view: &View, row: &BatchRow, model: ModelId, before: Option<&Self>) -> Option<Self> {
        let lines = lines_of(view, row)?;
        let before = before.filter(|it| it.model == model && it.lines == lines);
        let attempts = before.map_or(0, |it| it.attempts).saturating_add(1);
        let is_left = attempts < ATTEMPT_WITHOUT_MODEL + 1 && before.is_none_or(|it| !it.over);
        is_left.then_some(Self { model, lines, attempts, over: false })
    }
}

/// Hash of the lines of a summary that count; `None` without any.
fn lines_of(view: &View, row: &BatchRow) -> Option<Rev> {
    let mut bytes = Vec::new();
    for line in view.lines(row) {
        let rev = view.messages.get(&line.key)?.rev;
        bytes.extend_from_slice(&line.key.0);
        bytes.extend_from_slice(&rev.0);
    }
    (!bytes.is_empty()).then(|| Rev(hash("sigil lines 1", &[&bytes])))
}

impl Reading {
    /// Reads the lines of a summary that count, up to [`TOLD_BYTES_MAX`]; `text` gives a message as it is now. `None` without
    /// any.
    pub fn of<E>(
        view: &View,
        row: &BatchRow,
        mut text: impl FnMut(&MessageKey) -> Result<Option<Message>, E>,
    ) -> Result<Option<Self>, E> {
        let Some((_, summary)) = &row.summary else { return Ok(None) };
        let mut reading = Self { batch: summary.batch, lines: Vec::new(), known: Vec::new(), messages: Vec::new() };
        let mut bytes = 0;
        for line in view.lines(row) {
            let Some(rev) = view.messages.get(&line.key).map(|current| current.rev) else { continue };
            let Some(message) = text(&line.key)? else { continue };
            let Some(shown) = line.span.of(&message.text) else { continue };
            bytes += shown_line(0, &message, shown).len();
            if bytes > TOLD_BYTES_MAX {
                break;
            }
            reading.lines.push(line);
            reading.messages.push((line.key, rev, message));
        }
        reading.known = row.facts.values().map(|(_, fact)| *fact).collect();
        Ok((!reading.lines.is_empty()).then_some(reading))
    }

    /// The batch.
    #[must_use]
    pub fn batch(&self) -> BatchId {
        self.batch
    }

    /// What is said to get a head.
    #[must_use]
    pub fn head(&self) -> Told {
        let system = "You write the heading of a summary. Say in one or two short sentences what the messages say. \
            Begin with a name. Use only names, numbers and words of the messages. Add nothing. No list.";
        Told { system: system.to_owned(), user: self.user(), tokens_max: HEAD_TOKENS }
    }

    /// What is said to get facts.
    #[must_use]
    pub fn facts(&self) -> Told {
        let system = "You copy facts out of numbered messages. Write one fact a line, as: number | who or what | verb | what. \
            Copy the words as they stand in that message. Write nothing else.\n\
            For the message `1. Ann: the boiler is at 1.6 bar since May` write: 1 | the boiler | is at | 1.6 bar";
        Told { system: system.to_owned(), user: self.user(), tokens_max: FACTS_TOKENS }
    }

    fn user(&self) -> String {
        let lines = (1..).zip(self.lines.iter().zip(&self.messages)).filter_map(|(number, (line, (_, _, message)))| {
            Some(shown_line(number, message, line.span.of(&message.text)?))
        });
        lines.collect::<Vec<_>>().concat()
    }

    /// What is taken of a model's answers.
    #[must_use]
    pub fn take(&self, model: ModelId, head: Option<&str>, facts: Option<&str>) -> Taken {
        let covers = self.messages.iter().map(|(key, rev, _)| (*key, *rev)).collect();
        let summary = Summary { batch: self.batch, algorithm: 0, covers, lines: self.lines.clone() };
        let mut draft = Draft { summary, facts: self.known.clone(), rewrites: Vec::new(), head: None };
        let mut taken = Taken::default();
        let head = head.map(tidy).filter(|head| !head.is_empty());
        taken.head_refused = head.is_some_and(|head| !draft.take_head(model, &head, &self.messages));
        for line in facts.unwrap_or_default().lines().filter(|line| !line.trim().is_empty()).take(ANSWER_LINES_MAX) {
            taken.facts_refused += match self.fact(line) {
                Some((key, found)) => draft.take_facts(model, &key, &[found], &self.messages),
                None => 1,
            };
        }
        taken.bodies.extend(draft.head.map(Body::Head));
        taken.bodies.extend(draft.facts.into_iter().skip(self.known.len()).map(Body::Fact));
        taken
    }

    /// A fact of a line of an answer: `number | who or what | verb | what`.
    fn fact(&self, line: &str) -> Option<(MessageKey, Found)> {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [number, subject, verb, object] = parts.try_into().ok()?;
        let number: usize = number.trim_end_matches('.').parse().ok()?;
        let (key, _, message) = self.messages.get(number.checked_sub(1)?)?;
        Some((*key, found_in(message, subject, verb, object)?))
    }
}

/// Subject, verb and object in one sentence of a message, in this order. What is denied there must be denied by the verb.
fn found_in(message: &Message, subject: &str, verb: &str, object: &str) -> Option<Found> {
    let predicate = predicate_of(verb)?;
    let verb: Vec<String> = words(verb).map(|(_, word)| word.to_lowercase()).collect();
    let is_speaker = subject.eq_ignore_ascii_case(&message.speaker)
        || lang::any(&subject.to_lowercase(), |language| language.speaker);
    pieces::sentences(&message.text).into_iter().find_map(|sentence| {
        let text = sentence.of(&message.text).filter(|text| !text.ends_with(['?', '？']))?;
        let at = place_of(text, object)?;
        let (who, from) = match place_of(text, subject) {
            Some(span) if span.end <= at.start && !is_speaker => (Subject::Words(moved(span, sentence)), span.end),
            Some(_) | None if is_speaker => (Subject::Speaker, 0),
            Some(_) | None => return None,
        };
        let between = text.get(from as usize..at.start as usize)?;
        let said: Vec<String> = words(between).map(|(_, word)| word.to_lowercase()).collect();
        let at_verb = said.windows(verb.len().max(1)).position(|part| part == verb.as_slice())?;
        let before = said.get(..at_verb).unwrap_or_default();
        // Whoever says it says so; anything else stands close by.
        let first_person = |word: &String| lang::any(word, |language| language.speaker);
        let is_said = match who {
            Subject::Speaker => before.is_empty() || before.iter().any(first_person),
            Subject::Words(_) => before.len() <= WORDS_BETWEEN_MAX,
        };
        let is_turned = verify::is_negated(text) && predicate.denies().is_none();
        (is_said && !is_turned).then_some(Found { subject: who, predicate, object: moved(at, sentence) })
    })
}

/// Where words stand in a text, as whole words; the case of letters does not matter.
fn place_of(text: &str, wanted: &str) -> Option<Span> {
    let wanted: Vec<String> = words(wanted).map(|(_, word)| word.to_lowercase()).collect();
    let all: Vec<(usize, &str)> = words(text).collect();
    let first = wanted.first()?;
    let starts = all.iter().enumerate().filter(|(_, (_, word))| word.to_lowercase() == *first);
    starts.into_iter().find_map(|(n, (start, _))| {
        let part = all.get(n..n + wanted.len())?;
        let (end, last) = part.last()?;
        let same = part.iter().zip(&wanted).all(|((_, word), wanted)| word.to_lowercase() == *wanted);
        same.then(|| Span::new(*start, end + last.len()))
    })
}

fn moved(span: Span, by: Span) -> Span {
    Span { start: span.start + by.start, end: span.end + by.start }
}

fn shown_line(number: usize, message: &Message, shown: &str) -> String {
    let one_line = |text: &str, most: usize| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").chars().filter(|c| !c.is_control()).take(most).collect::<String>()
    };
    format!("{number}. {}: {}\n", one_line(&message.speaker, 60), one_line(shown, LINE_CHARS_MAX))
}

/// A head as it is kept: its first paragraph on one line, without quotes, whole sentences, at most [`SENTENCES_MAX`].
fn tidy(said: &str) -> String {
    let first = said.trim().split("\n\n").next().unwrap_or_default();
    let spoken: Vec<&str> = first.split_whitespace().collect();
    let line: String = spoken.join(" ").chars().filter(|c| !c.is_control()).collect();
    let line = line.trim_matches(|c: char| matches!(c, '"' | '\u{201c}' | '\u{201d}' | '*' | '#' | ' '));
    let mut sentences = pieces::sentences(line);
    let ends = |span: &Span| span.of(line).is_some_and(|text| text.ends_with(['.', '!', '…', '。']));
    // One that was broken off says something else.
    if sentences.len() > 1 && sentences.last().is_some_and(|last| !ends(last)) {
        sentences.pop();
    }
    let end = sentences.iter().take(SENTENCES_MAX).next_back().map_or(0, |span| span.end as usize);
    line.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::{Settings, Trigger, Waiting, due};
    use crate::facts::{Predicate, subject_text};
    use crate::group::{Hlc, Stamp};
    use crate::ids::{AuthorId, Incarnation, WorkspaceId};
    use crate::item::{Correction, Item, Salt};
    use crate::limits::FACTS_PER_MESSAGE_MAX;
    use crate::resolve::Rows;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const WS: WorkspaceId = WorkspaceId([7; 16]);
    const MODEL: ModelId = ModelId([1; 16]);

    fn message(n: usize, speaker: &str, text: &str) -> Message {
        Message {
            id: n.to_string(),
            conversation: "talk".to_owned(),
            session: None,
            speaker: speaker.to_owned(),
            text: text.to_owned(),
            time_ms: i64::try_from(n).unwrap() * 1_000,
            offset_min: 0,
        }
    }

    fn stamp(n: usize) -> Stamp {
        Stamp { hlc: Hlc(n as u64), author: AuthorId([1; 16]), incarnation: Incarnation(1), index: 0 }
    }

    struct World {
        rows: Rows,
        texts: BTreeMap<MessageKey, Message>,
        batch: BatchId,
        said: usize,
    }

    impl World {
        fn of(said: &[(&str, &str)]) -> Self {
            let (mut rows, mut texts) = (Rows::new(WS), BTreeMap::new());
            for (n, (speaker, text)) in said.iter().enumerate() {
                let message = message(n, speaker, text);
                rows.insert(stamp(n), &Body::Message(message.clone()));
                texts.insert(message.key(&WS), message);
            }
            let waiting: Vec<Waiting> =
                rows.view().uncovered().map(|(key, rev)| Waiting { time_ms: texts[&key].time_ms, key, rev }).collect();
            let capture = due(&WS, &Settings::default(), Trigger::Asked { keep: 0 }, &waiting).unwrap();
            let read: Vec<_> = capture.covers.iter().map(|(key, rev)| (*key, *rev, texts[key].clone())).collect();
            let mut world = Self { rows, texts, batch: capture.batch, said: 100 };
            // Every message is a line: what is selected is not the question here.
            let mut draft = Draft::by_rules(&capture, &Settings::default(), &read);
            draft.summary.lines =
                read.iter().map(|(key, _, it)| Line { key: *key, span: Span::new(0, it.text.len()) }).collect();
            world.say(&draft.bodies());
            world
        }

        fn say(&mut self, bodies: &[Body]) {
            for body in bodies {
                self.said += 1;
                self.rows.insert(stamp(self.said), body);
            }
        }

        fn reading(&self) -> Option<Reading> {
            let row = self.rows.batch(&self.batch).unwrap();
            let text = |key: &MessageKey| Ok::<_, ()>(self.texts.get(key).cloned());
            Reading::of(&self.rows.view(), row, text).unwrap()
        }

        fn next(&self, before: Option<&Tried>) -> Option<Tried> {
            Tried::next(&self.rows.view(), self.rows.batch(&self.batch).unwrap(), MODEL, before)
        }
    }

    const TALK: [(&str, &str); 3] = [
        ("Marek", "ok the new NAS is up, it's called hydra and it sits at 192.168.7.20"),
        ("Ilse", "I'm not upgrading before the heat pump is fixed. Oskar moved to Leeds"),
        ("Tom", "is the garage open?"),
    ];

    #[test]
    fn a_head_and_facts_are_taken_as_far_as_they_stand() {
        let world = World::of(&TALK);
        let reading = world.reading().unwrap();
        let told = reading.head();
        assert!(
            told.user.starts_with("1. Marek: ok the new NAS is up") && told.user.contains("\n3. Tom: is the garage")
        );
        let head = "\"Marek: the new NAS is called hydra.\nOskar moved to Leeds. And then he\"";
        let facts = "1 | the new NAS | is | up\n1. | it | sits at | 192.168.7.20\n2 | Oskar | moved | to Leeds\n\
            2 | the heat pump | is | fixed\n2 | Ilse | moved | to Leeds\n3 | the garage | is | open\n\
            1 | hydra | is | NAS\n9 | x | is | y\nnothing\n1 | the new NAS | is";
        let taken = reading.take(MODEL, Some(head), Some(facts));
        let heads: Vec<&str> = taken
            .bodies
            .iter()
            .filter_map(|it| if let Body::Head(head) = it { Some(head.text.as_str()) } else { None })
            .collect();
        assert_eq!(heads, ["Marek: the new NAS is called hydra. Oskar moved to Leeds."]);
        assert!(!taken.head_refused);
        let said: Vec<String> = taken
            .bodies
            .iter()
            .filter_map(|it| if let Body::Fact(fact) = it { Some(fact) } else { None })
            .map(|fact| {
                let message = &world.texts[&fact.key];
                let subject = subject_text(&fact.subject, message).unwrap();
                format!(
                    "{subject} {} {}",
                    Predicate::of(fact.predicate).unwrap().shown(),
                    fact.object.of(&message.text).unwrap()
                )
            })
            .collect();
        for wrong in ["garage", "fixed", "Ilse moved", "hydra is"] {
            assert!(!said.iter().any(|it| it.contains(wrong)), "{wrong}: {said:?}");
        }
        assert_eq!(said.len() + taken.facts_refused, 10, "{said:?}");
    }

    #[test]
    fn what_was_found_by_rules_is_not_said_again_and_numbers_go_on() {
        let world = World::of(&[("Ann", "Ben is allergic to peanuts")]);
        let reading = world.reading().unwrap();
        let again = reading.take(MODEL, None, Some("1 | Ben | is | allergic to peanuts\n1 | Ben | is | allergic"));
        let numbers: Vec<u8> = again
            .bodies
            .iter()
            .filter_map(|it| if let Body::Fact(fact) = it { Some(fact.number) } else { None })
            .collect();
        assert_eq!((numbers.as_slice(), again.facts_refused), (&[1][..], 1));
    }

    #[test]
    fn a_model_is_asked_once_about_lines_and_three_times_if_it_fails() {
        let mut world = World::of(&TALK);
        let mut tried = None;
        for attempt in 1..=ATTEMPT_WITHOUT_MODEL {
            tried = world.next(tried.as_ref());
            assert_eq!(tried.unwrap().attempts, attempt);
        }
        assert_eq!(world.next(tried.as_ref()), None, "it fails each time");
        let over = Tried { over: true, attempts: 1, ..tried.unwrap() };
        assert_eq!(world.next(Some(&over)), None);
        assert_eq!(world.next(Some(&Tried { model: ModelId([9; 16]), ..over })).unwrap().attempts, 1, "another model");
        // One line less is another question.
        let key = *world.texts.keys().next().unwrap();
        world.say(&[Body::Tombstone(key)]);
        assert_eq!(world.next(Some(&over)).unwrap().attempts, 1);
        for key in world.texts.keys().copied().collect::<Vec<_>>() {
            world.say(&[Body::Tombstone(key)]);
        }
        assert_eq!((world.next(None), world.reading()), (None, None));
    }

    #[test]
    fn a_head_goes_with_any_of_its_sources() {
        let mut world = World::of(&TALK);
        let taken = world.reading().unwrap().take(MODEL, Some("The new NAS is called hydra."), None);
        assert_eq!(taken.bodies.len(), 1);
        world.say(&taken.bodies);
        let heads = |world: &World| world.rows.view().heads(world.rows.batch(&world.batch).unwrap()).count();
        assert_eq!(heads(&world), 1);
        let key = message(2, "", "").key(&WS);
        world.say(&[Body::Correction(Correction {
            target: key,
            generation: 1,
            text: "the garage is open".to_owned(),
        })]);
        assert_eq!(heads(&world), 0);
    }

    #[test]
    fn a_head_is_whole_sentences_on_one_line() {
        assert_eq!(tidy("  **Ann is here.\nBen too!** \n\nNote: x"), "Ann is here. Ben too!");
        assert_eq!(tidy("Ann is here. Ben is"), "Ann is here.");
        assert_eq!(tidy("Ann is"), "Ann is");
        assert_eq!(tidy("One is here. Two is. Three is. Four is."), "One is here. Two is. Three is.");
        assert_eq!(tidy(&"x".repeat(5_000)).len(), 5_000, "too long is for the check to say");
        assert_eq!(tidy(" \n "), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Whatever a model says: what is taken has all its words from one message, or none that names anything else.
        #[test]
        fn nothing_is_taken_that_no_message_says(
            talk in proptest::collection::vec("(([A-Z][a-z]{1,4}|the|is|not|called|at|[0-9]{1,3}|,|\\.) ?){1,14}x", 1..5),
            head in "(([A-Z][a-z]{1,4}|the|is|not|[0-9]{1,3}|\\.|\n) ?){0,30}|.{0,80}",
            lines in proptest::collection::vec(("[0-9]{1,2}", "[A-Za-z ]{0,9}", "is|called|is at|.{0,5}", "[a-zA-Z0-9 ]{0,9}"), 0..40),
        ) {
            let said: Vec<(&str, &str)> = talk.iter().map(|text| ("Ann", text.as_str())).collect();
            let world = World::of(&said);
            let Some(reading) = world.reading() else { return Ok(()) };
            let facts: Vec<String> = lines.iter().map(|(n, s, v, o)| format!("{n} | {s} | {v} | {o}")).collect();
            let taken = reading.take(MODEL, Some(&head), Some(&facts.join("\n")));
            let mut numbers: BTreeMap<MessageKey, BTreeSet<u8>> = BTreeMap::new();
            for body in &taken.bodies {
                prop_assert!(Item::new(Salt([0; 16]), body).body().is_ok(), "within the limits of its kind");
                if let Body::Fact(fact) = body {
                        let message = &world.texts[&fact.key];
                        prop_assert!(fact.object.of(&message.text).is_some());
                        prop_assert!(subject_text(&fact.subject, message).is_some());
                        prop_assert!(numbers.entry(fact.key).or_default().insert(fact.number));
                } else if let Body::Head(head) = body {
                        let all: Vec<(&str, &str)> =
                            head.sources.iter().map(|(key, _)| ("Ann", world.texts[key].text.as_str())).collect();
                        prop_assert!(verify::head_stands(&head.text, &all));
                        for word in head.text.split(|c: char| !c.is_alphanumeric()).filter(|it| it.chars().any(char::is_numeric)) {
                            prop_assert!(talk.iter().any(|text| text.contains(word)), "{word}");
                        }
                } else {
                    prop_assert!(false, "{body:?}");
                }
            }
            prop_assert!(numbers.values().all(|of| of.len() <= FACTS_PER_MESSAGE_MAX));
        }

        #[test]
        fn any_answer_is_read(answer in "(.|\n){0,300}", head in "(.|\n){0,300}") {
            let reading = World::of(&TALK).reading().unwrap();
            drop(reading.take(MODEL, Some(&head), Some(&answer)));
        }
    }
}
