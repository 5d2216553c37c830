//! Compaction of one batch, step by step: what is captured, what stands for it, what is committed.
//!
//! Each step tells the shell what to do ([`Action`]) and waits for its answer. Nothing is removed: a message is *trimmed* by
//! belonging to a batch. Two peers that compact the same messages make the same batch, and two that overlap are told apart by
//! [`crate::resolve`]; so a step that is lost or repeated costs work and nothing else.
//!
//! Between capture and commit messages may be corrected or forgotten: [`Draft::recheck`] drops what no longer stands, in the
//! transaction that commits.

use serde::{Deserialize, Serialize};

use crate::facts::{self, Found};
use crate::ids::{BatchId, MessageKey, ModelId, Rev, WorkspaceId};
use crate::item::{Body, Extractor, Fact, Head, Line, Message, Rewrite, Summary};
use crate::limits;
use crate::select::select;
use crate::verify;

/// Generation of selection and rules. A higher one wins messages from a lower.
pub const ALGORITHM: u16 = 2;
/// From this attempt on without a model: it may be what fails.
pub const ATTEMPT_WITHOUT_MODEL: u32 = 3;
/// From this attempt on nothing is read but keys: a message may be what fails.
pub const ATTEMPT_HEADER_ONLY: u32 = 5;

/// All that a person may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Messages of one batch, 1 to [`limits::BATCH_MESSAGES_MAX`].
    pub batch: usize,
    /// Messages that wait beyond a batch before one is taken unasked.
    pub window: usize,
    /// Facts are extracted.
    pub facts: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { batch: 50, window: 20, facts: true }
    }
}

/// Why a batch is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// By itself: only when `batch + window` wait.
    Unasked,
    /// Somebody asked. Also takes less than a batch; leaves the newest `keep`.
    Asked {
        /// Messages that stay in tier 1.
        keep: usize,
    },
}

/// A message of tier 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    /// When it was said.
    pub time_ms: i64,
    /// Its key.
    pub key: MessageKey,
    /// As it is now.
    pub rev: Rev,
}

/// What was captured: stored before anything is made of it, and gone with the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Its batch.
    pub batch: BatchId,
    /// Its messages, oldest first.
    pub covers: Vec<(MessageKey, Rev)>,
    /// How often it was begun, from 1 on.
    pub attempt: u32,
}

/// How much is tried of a capture, by how often it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Keys only: the messages are covered, and no line stands for them.
    HeaderOnly,
    /// Rules.
    Rules,
    /// Rules, and a model if there is one.
    Model,
}

impl Capture {
    /// All that may still be tried.
    #[must_use]
    pub fn effort(&self) -> Effort {
        match self.attempt {
            0..ATTEMPT_WITHOUT_MODEL => Effort::Model,
            ATTEMPT_WITHOUT_MODEL..ATTEMPT_HEADER_ONLY => Effort::Rules,
            ATTEMPT_HEADER_ONLY.. => Effort::HeaderOnly,
        }
    }
}

/// The oldest batch that is due, of any conversation; `None` when nothing is.
#[must_use]
pub fn due(workspace: &WorkspaceId, settings: &Settings, trigger: Trigger, waiting: &[Waiting]) -> Option<Capture> {
    let size = settings.batch.clamp(1, limits::BATCH_MESSAGES_MAX);
    let takes = match trigger {
        Trigger::Unasked if waiting.len() < size.saturating_add(settings.window) => 0,
        Trigger::Unasked => size,
        Trigger::Asked { keep } => waiting.len().saturating_sub(keep).min(size),
    };
    if takes == 0 {
        return None;
    }
    let mut sorted = waiting.to_vec();
    sorted.sort_unstable();
    let covers: Vec<_> = sorted.iter().take(takes).map(|it| (it.key, it.rev)).collect();
    Some(Capture { batch: BatchId::of(workspace, ALGORITHM, &covers), covers, attempt: 1 })
}

/// All that a batch becomes, before it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its header.
    pub summary: Summary,
    /// Its facts.
    pub facts: Vec<Fact>,
    /// Models' words for its lines; each passed [`verify::supported`].
    pub rewrites: Vec<Rewrite>,
    /// A model's words in front of it; passed [`verify::head_stands`].
    pub head: Option<Head>,
}

impl Draft {
    /// By rules. `messages` are the present texts of what was captured, in its order; what is lacking is covered without a
    /// line. Without messages it is a header only.
    #[must_use]
    pub fn by_rules(capture: &Capture, settings: &Settings, messages: &[(MessageKey, Rev, Message)]) -> Self {
        let texts: Vec<Message> = messages.iter().map(|(_, _, message)| message.clone()).collect();
        let (mut lines, mut found) = (Vec::new(), Vec::new());
        let selection = select(&texts);
        for selected in &selection.lines {
            let Some((key, _, _)) = messages.get(selected.at) else { continue };
            lines.push(Line { key: *key, span: selected.span });
        }
        // What was so before has no line and keeps its facts: a question as of then is answered by them.
        let mut of_facts: Vec<usize> = selection.lines.iter().map(|it| it.at).chain(selection.replaced).collect();
        of_facts.sort_unstable();
        for (key, rev, message) in of_facts.iter().filter(|_| settings.facts).filter_map(|at| messages.get(*at)) {
            let by_rules = facts::extract(message);
            found.extend(stamped(capture.batch, *key, *rev, Extractor::Rules, 0, &by_rules));
        }
        let summary = Summary { batch: capture.batch, algorithm: ALGORITHM, covers: capture.covers.clone(), lines };
        Self { summary, facts: found, rewrites: Vec::new(), head: None }
    }

    /// Takes a model's sentences, each for a line. What the check refuses is left out, and the message itself stands.
    /// Returns how many were refused.
    pub fn take_rewrites(
        &mut self,
        model: ModelId,
        proposed: &[(MessageKey, String)],
        messages: &[(MessageKey, Rev, Message)],
    ) -> usize {
        let mut refused = 0;
        for (key, text) in proposed {
            let source = messages.iter().find(|(of, _, _)| of == key);
            let is_line = self.summary.lines.iter().any(|line| line.key == *key);
            let is_first = !self.rewrites.iter().any(|it| it.key == *key);
            match source {
                Some((_, rev, message))
                    if is_line && is_first && verify::supported(text, &message.text, &message.speaker) =>
                {
                    self.rewrites.push(Rewrite {
                        batch: self.summary.batch,
                        key: *key,
                        rev: *rev,
                        model,
                        text: text.clone(),
                    });
                }
                Some(_) | None => refused += 1,
            }
        }
        refused
    }

    /// Takes a model's facts of a message of the batch, after those that are there. Returns how many were refused.
    pub fn take_facts(
        &mut self,
        model: ModelId,
        key: &MessageKey,
        proposed: &[Found],
        messages: &[(MessageKey, Rev, Message)],
    ) -> usize {
        let Some((_, rev, message)) = messages.iter().find(|(of, _, _)| of == key) else { return proposed.len() };
        let known = self.facts.iter().filter(|fact| fact.key == *key);
        let is_new = |it: &&Found| {
            !known.clone().any(|fact| {
                fact.subject == it.subject && fact.object == it.object && fact.predicate == it.predicate.number()
            })
        };
        let fresh: Vec<Found> = facts::check(message, proposed).iter().filter(is_new).copied().collect();
        // After the highest that is taken: of two with one number the earlier counts.
        let from = known.clone().map(|fact| usize::from(fact.number) + 1).max().unwrap_or(0);
        let room = limits::FACTS_PER_MESSAGE_MAX.saturating_sub(from);
        let taken = fresh.get(..room.min(fresh.len())).unwrap_or_default();
        self.facts.extend(stamped(self.summary.batch, *key, *rev, Extractor::Model(model), from, taken));
        proposed.len() - taken.len()
    }

    /// Takes a model's words in front of the summary, which rest on its lines; `false` if the check refuses them.
    pub fn take_head(&mut self, model: ModelId, text: &str, messages: &[(MessageKey, Rev, Message)]) -> bool {
        let is_line = |key: &MessageKey| self.summary.lines.iter().any(|line| line.key == *key);
        let sources: Vec<_> = messages.iter().filter(|(key, _, _)| is_line(key)).collect();
        let said: Vec<(&str, &str)> =
            sources.iter().map(|(_, _, message)| (message.speaker.as_str(), message.text.as_str())).collect();
        let stands = verify::head_stands(text, &said);
        if stands {
            let sources = sources.iter().map(|(key, rev, _)| (*key, *rev)).collect();
            self.head = Some(Head { batch: self.summary.batch, model, text: text.to_owned(), sources });
        }
        stands
    }

    /// What still stands of it: `current` gives the present revision of a message, `None` when it is forgotten or belongs to
    /// another batch by now. `None` when no message is left. A changed set of messages is another batch.
    #[must_use]
    pub fn recheck(mut self, workspace: &WorkspaceId, current: impl Fn(&MessageKey) -> Option<Rev>) -> Option<Self> {
        let stands = |key: &MessageKey, rev: &Rev| current(key) == Some(*rev);
        let covered = |covers: &[(MessageKey, Rev)], key: &MessageKey| covers.iter().any(|(of, _)| of == key);
        self.summary.covers.retain(|(key, rev)| stands(key, rev));
        if self.summary.covers.is_empty() {
            return None;
        }
        let covers = &self.summary.covers;
        self.summary.lines.retain(|line| covered(covers, &line.key));
        self.facts.retain(|fact| stands(&fact.key, &fact.rev));
        self.rewrites.retain(|it| stands(&it.key, &it.rev));
        self.head = self.head.filter(|head| head.sources.iter().all(|(key, rev)| stands(key, rev)));
        let batch = BatchId::of(workspace, self.summary.algorithm, covers);
        self.summary.batch = batch;
        self.facts.iter_mut().for_each(|it| it.batch = batch);
        self.rewrites.iter_mut().for_each(|it| it.batch = batch);
        self.head.iter_mut().for_each(|it| it.batch = batch);
        Some(self)
    }

    /// Its items, the header first. They are committed in one transaction with the capture's removal.
    #[must_use]
    pub fn bodies(&self) -> Vec<Body> {
        let mut bodies = vec![Body::Summary(self.summary.clone())];
        bodies.extend(self.head.iter().cloned().map(Body::Head));
        bodies.extend(self.rewrites.iter().cloned().map(Body::Rewrite));
        bodies.extend(self.facts.iter().copied().map(Body::Fact));
        bodies
    }

    /// Its result.
    #[must_use]
    pub fn report(&self) -> Report {
        let messages = self.summary.covers.len();
        Report {
            summaries_created: 1,
            facts_extracted: self.facts.len(),
            messages_processed: messages,
            messages_trimmed: messages,
        }
    }
}

/// All that a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Summaries that were stored.
    pub summaries_created: usize,
    /// Facts that were stored.
    pub facts_extracted: usize,
    /// Messages that were looked at.
    pub messages_processed: usize,
    /// Messages that left tier 1.
    pub messages_trimmed: usize,
}

impl Report {
    /// The sum of several batches.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            summaries_created: self.summaries_created + other.summaries_created,
            facts_extracted: self.facts_extracted + other.facts_extracted,
            messages_processed: self.messages_processed + other.messages_processed,
            messages_trimmed: self.messages_trimmed + other.messages_trimmed,
        }
    }
}

/// An effect for the shell to carry out next. Each is answered by the handler that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Store the capture and sync; then [`Compaction::handle_captured`].
    Store(Capture),
    /// Read the messages and make a draft with this effort; then [`Compaction::handle_drafted`].
    Draft(Capture, Effort),
    /// In one transaction: [`Draft::recheck`], store what is left, remove the capture; then
    /// [`Compaction::handle_committed`].
    Commit(BatchId, Box<Draft>),
    /// Remove the capture: it is not ours to do, or done.
    Drop(BatchId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Idle,
    Captured(Capture),
    Selecting(Capture),
    Committing(BatchId),
}

/// One compaction at a time in a workspace.
#[derive(Debug, Clone)]
pub struct Compaction {
    settings: Settings,
    state: State,
}

impl Compaction {
    /// Idle.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, state: State::Idle }
    }

    /// True while a batch is being made.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.state != State::Idle
    }

    /// A batch is wanted. `None` when none is due, or one is being made: the caller asks again after its commit.
    pub fn handle_request(&mut self, workspace: &WorkspaceId, trigger: Trigger, waiting: &[Waiting]) -> Option<Action> {
        if self.is_busy() {
            return None;
        }
        let capture = due(workspace, &self.settings, trigger, waiting)?;
        self.state = State::Captured(capture.clone());
        Some(Action::Store(capture))
    }

    /// A capture was found at boot. It is taken up if all its messages still wait and this peer compacts, else dropped.
    pub fn handle_found(&mut self, capture: Capture, still_waits: bool, compacts: bool) -> Option<Action> {
        if self.is_busy() {
            return None;
        }
        if !still_waits || !compacts {
            return Some(Action::Drop(capture.batch));
        }
        let capture = Capture { attempt: capture.attempt.saturating_add(1), ..capture };
        self.state = State::Captured(capture.clone());
        Some(Action::Store(capture))
    }

    /// The capture is durable.
    pub fn handle_captured(&mut self) -> Option<Action> {
        let State::Captured(capture) = &self.state else { return None };
        let capture = capture.clone();
        let effort = capture.effort();
        self.state = State::Selecting(capture.clone());
        Some(Action::Draft(capture, effort))
    }

    /// A draft is made. One of another batch is dropped: it was made for a compaction that is over.
    pub fn handle_drafted(&mut self, draft: Draft) -> Option<Action> {
        let State::Selecting(capture) = &self.state else { return None };
        if draft.summary.batch != capture.batch {
            return None;
        }
        self.state = State::Committing(capture.batch);
        Some(Action::Commit(draft.summary.batch, Box::new(draft)))
    }

    /// A draft could not be made, or not be committed. The next attempt tries less; it begins at once, and the shell waits
    /// before it stores it.
    pub fn handle_failed(&mut self) -> Option<Action> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Selecting(capture) | State::Captured(capture) => {
                let capture = Capture { attempt: capture.attempt.saturating_add(1), ..capture };
                self.state = State::Captured(capture.clone());
                Some(Action::Store(capture))
            }
            State::Committing(batch) => Some(Action::Drop(batch)),
            State::Idle => None,
        }
    }

    /// The commit is durable, or nothing was left to commit.
    pub fn handle_committed(&mut self) {
        self.state = State::Idle;
    }
}

fn stamped(batch: BatchId, key: MessageKey, rev: Rev, extractor: Extractor, from: usize, found: &[Found]) -> Vec<Fact> {
    (from..)
        .zip(found)
        .map(|(number, fact)| Fact {
            batch,
            key,
            rev,
            number: number as u8,
            subject: fact.subject,
            predicate: fact.predicate.number(),
            object: fact.object,
            extractor,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Predicate;
    use crate::group::{Hlc, Stamp};
    use crate::ids::{AuthorId, Incarnation};
    use crate::item::{Correction, Item, Salt, Span, Subject};
    use crate::resolve::Rows;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const WS: WorkspaceId = WorkspaceId([7; 16]);
    const MODEL: ModelId = ModelId([1; 16]);

    /// A store in memory that does what the actions say.
    struct Store {
        rows: Rows,
        texts: BTreeMap<Rev, Message>,
        hlc: u64,
        capture: Option<Capture>,
    }

    impl Store {
        fn new() -> Self {
            Self { rows: Rows::new(WS), texts: BTreeMap::new(), hlc: 0, capture: None }
        }

        fn say(&mut self, author: u8, body: &Body) {
            self.hlc += 1;
            assert!(Item::new(Salt([0; 16]), body).body().is_ok(), "within limits");
            let stamp =
                Stamp { hlc: Hlc(self.hlc), author: AuthorId([author; 16]), incarnation: Incarnation(1), index: 0 };
            self.rows.insert(stamp, body);
            if let Body::Message(message) = body {
                self.texts.insert(message.rev(), message.clone());
            }
            if let Body::Correction(it) = body {
                let view = self.rows.view();
                let old = view.messages.get(&it.target).and_then(|now| self.texts.get(&now.content).cloned());
                self.texts.extend(old.map(|old| (it.rev(), Message { text: it.text.clone(), ..old })));
            }
        }

        fn append(&mut self, n: usize, text: &str) {
            self.say(1, &Body::Message(message(n, text)));
        }

        fn waiting(&self) -> Vec<Waiting> {
            let view = self.rows.view();
            view.uncovered().map(|(key, rev)| Waiting { time_ms: self.texts[&rev].time_ms, key, rev }).collect()
        }

        fn read(&self, capture: &Capture) -> Vec<(MessageKey, Rev, Message)> {
            capture.covers.iter().filter_map(|(key, rev)| Some((*key, *rev, self.texts.get(rev)?.clone()))).collect()
        }

        fn commit(&mut self, author: u8, draft: Draft) -> Report {
            let view = self.rows.view();
            let current = |key: &MessageKey| view.messages.get(key).filter(|it| it.batch.is_none()).map(|it| it.rev);
            let Some(draft) = draft.recheck(&WS, current) else { return Report::default() };
            for body in draft.bodies() {
                self.say(author, &body);
            }
            draft.report()
        }

        fn compact(&mut self, settings: Settings, trigger: Trigger) -> Report {
            let mut core = Compaction::new(settings);
            let mut report = Report::default();
            let mut next = core.handle_request(&WS, trigger, &self.waiting());
            while let Some(action) = next {
                next = match action {
                    Action::Store(capture) => {
                        self.capture = Some(capture);
                        core.handle_captured()
                    }
                    Action::Draft(capture, _) => {
                        core.handle_drafted(Draft::by_rules(&capture, &settings, &self.read(&capture)))
                    }
                    Action::Commit(_, draft) => {
                        self.capture = None;
                        report = report.plus(self.commit(1, *draft));
                        core.handle_committed();
                        None
                    }
                    Action::Drop(_) => None,
                };
            }
            report
        }
    }

    fn message(n: usize, text: &str) -> Message {
        Message {
            id: n.to_string(),
            conversation: "talk".to_owned(),
            session: None,
            speaker: "Ann".to_owned(),
            text: text.to_owned(),
            time_ms: i64::try_from(n).unwrap() * 1_000,
            offset_min: 0,
        }
    }

    const ASKED: Trigger = Trigger::Asked { keep: 0 };

    #[test]
    fn m2_seven_messages_with_batches_of_five_leave_two() {
        let mut store = Store::new();
        (0..7).for_each(|n| store.append(n, &format!("the code of box {n} is {n}{n}")));
        let settings = Settings { batch: 5, window: 3, facts: true };
        assert_eq!(store.compact(settings, Trigger::Unasked), Report::default(), "five and three are not yet there");
        let report = store.compact(settings, ASKED);
        assert_eq!((report.summaries_created, report.messages_processed, report.messages_trimmed), (1, 5, 5));
        let view = store.rows.view();
        assert_eq!(view.uncovered().count(), 2);
        let (batch, _) = view.covered.first_key_value().unwrap();
        let row = store.rows.batch(batch).unwrap();
        assert!(view.lines(row).count() > 0, "its content is not empty");
    }

    #[test]
    fn m3_m4_one_message_is_compacted_when_asked_and_gives_a_fact() {
        let mut store = Store::new();
        store.append(0, "Alice is a software engineer at Acme Corp");
        let report = store.compact(Settings::default(), ASKED);
        assert_eq!(
            report,
            Report { summaries_created: 1, facts_extracted: 1, messages_processed: 1, messages_trimmed: 1 }
        );
        let none = store.compact(Settings::default(), ASKED);
        assert_eq!(none, Report::default(), "nothing waits");
        store.append(1, "Bob is a cook");
        let report = store.compact(Settings { facts: false, ..Settings::default() }, ASKED);
        assert_eq!((report.summaries_created, report.facts_extracted), (1, 0));
    }

    #[test]
    fn keep_leaves_the_newest() {
        let mut store = Store::new();
        (0..9).for_each(|n| store.append(n, "the boiler is at 1.6 bar"));
        store.compact(Settings::default(), Trigger::Asked { keep: 4 });
        let kept: BTreeSet<_> = store.waiting().iter().map(|it| it.time_ms).collect();
        assert_eq!(kept, BTreeSet::from([5_000, 6_000, 7_000, 8_000]));
    }

    #[test]
    fn what_was_forgotten_or_corrected_meanwhile_is_not_committed() {
        let mut store = Store::new();
        (0..3).for_each(|n| store.append(n, &format!("the code of box {n} is {n}{n}")));
        let capture = due(&WS, &Settings::default(), ASKED, &store.waiting()).unwrap();
        let draft = Draft::by_rules(&capture, &Settings::default(), &store.read(&capture));
        let key = |n: usize| message(n, "").key(&WS);
        store.say(1, &Body::Tombstone(key(0)));
        store.say(1, &Body::Correction(Correction { target: key(1), generation: 1, text: "box 1 is open".to_owned() }));
        assert_eq!(store.commit(1, draft.clone()).messages_trimmed, 1);
        assert_eq!(store.waiting().iter().map(|it| it.key).collect::<Vec<_>>(), [key(1)]);
        store.say(1, &Body::Tombstone(key(2)));
        assert_eq!(draft.recheck(&WS, |_| None), None);
    }

    #[test]
    fn m5_a_models_words_are_taken_only_as_far_as_they_stand() {
        let mut store = Store::new();
        store.append(0, "the NAS is called hydra");
        let capture = due(&WS, &Settings::default(), ASKED, &store.waiting()).unwrap();
        let messages = store.read(&capture);
        let mut draft = Draft::by_rules(&capture, &Settings::default(), &messages);
        let (key, foreign) = (capture.covers[0].0, MessageKey([9; 16]));
        let proposed = [
            (foreign, "the NAS is called hydra".to_owned()),
            (key, String::new()),
            (key, "cancer".to_owned()),
            (key, "NAS hydra".to_owned()),
            (key, "hydra".to_owned()),
        ];
        assert_eq!(draft.take_rewrites(MODEL, &proposed, &messages), 4);
        assert_eq!(draft.rewrites[0].text, "NAS hydra");
        let many: Vec<Found> = (0..500)
            .map(|n| Found {
                subject: Subject::Speaker,
                predicate: Predicate::Is,
                object: Span { start: n % 30, end: 23 },
            })
            .collect();
        draft.take_facts(MODEL, &key, &many, &messages);
        assert_eq!(draft.take_facts(MODEL, &foreign, &many, &messages), 500);
        assert!(draft.facts.len() <= limits::FACTS_PER_MESSAGE_MAX);
        assert!(!draft.take_head(MODEL, "Ilse named it hydra.", &messages));
        assert!(draft.take_head(MODEL, "The NAS is called hydra.", &messages));
        assert_eq!(store.commit(1, draft).summaries_created, 1);
    }

    #[test]
    fn attempts_try_less_and_a_poisoned_batch_is_covered_at_last() {
        let mut core = Compaction::new(Settings::default());
        let waiting = [Waiting { time_ms: 0, key: MessageKey([1; 16]), rev: Rev([0; 8]) }];
        let mut next = core.handle_request(&WS, ASKED, &waiting);
        assert_eq!(core.handle_request(&WS, ASKED, &waiting), None, "one at a time");
        let mut efforts = Vec::new();
        while efforts.len() < 6 {
            next = match next.unwrap() {
                Action::Store(_) => core.handle_captured(),
                Action::Draft(capture, effort) => {
                    efforts.push(effort);
                    if effort == Effort::HeaderOnly {
                        let draft = Draft::by_rules(&capture, &Settings::default(), &[]);
                        assert!(matches!(core.handle_drafted(draft), Some(Action::Commit(..))));
                        core.handle_committed();
                        break;
                    }
                    core.handle_failed()
                }
                other @ (Action::Commit(..) | Action::Drop(_)) => panic!("{other:?}"),
            };
        }
        assert_eq!(efforts, [Effort::Model, Effort::Model, Effort::Rules, Effort::Rules, Effort::HeaderOnly]);
        assert!(!core.is_busy());
    }

    #[test]
    fn a_capture_of_before_is_taken_up_or_dropped() {
        let capture = Capture { batch: BatchId([1; 16]), covers: Vec::new(), attempt: 1 };
        let mut core = Compaction::new(Settings::default());
        assert_eq!(core.handle_found(capture.clone(), false, true), Some(Action::Drop(capture.batch)));
        assert_eq!(core.handle_found(capture.clone(), true, false), Some(Action::Drop(capture.batch)));
        let again = Capture { attempt: 2, ..capture.clone() };
        assert_eq!(core.handle_found(capture, true, true), Some(Action::Store(again)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Two peers compact, append, correct and forget as they like, with drafts that are old when they are committed.
        #[test]
        fn nothing_is_lost_and_nothing_in_two_summaries(steps in proptest::collection::vec((0u8..7, 0usize..12, 1u8..6), 1..60)) {
            let mut store = Store::new();
            let (mut said, mut gone) = (BTreeSet::new(), BTreeSet::new());
            let mut drafts: Vec<Draft> = Vec::new();
            for (what, n, size) in steps {
                let key = message(n, "").key(&WS);
                let settings = Settings { batch: usize::from(size), window: 2, facts: true };
                match what {
                    0..3 => {
                        store.append(n, &format!("box {n} is at place {n}"));
                        said.insert(key);
                    }
                    3 if said.contains(&key) && !gone.contains(&key) => {
                        let text = format!("box {n} is at place {size}");
                        store.say(2, &Body::Correction(Correction { target: key, generation: u32::from(size), text }));
                    }
                    4 => {
                        store.say(2, &Body::Tombstone(key));
                        gone.insert(key);
                    }
                    5 => {
                        if let Some(capture) = due(&WS, &settings, ASKED, &store.waiting()) {
                            drafts.push(Draft::by_rules(&capture, &settings, &store.read(&capture)));
                        }
                    }
                    6 => {
                        // A peer that did not re-check, as after a partition.
                        for body in drafts.pop().iter().flat_map(Draft::bodies) {
                            store.say(size % 3, &body);
                        }
                    }
                    _ => {}
                }
            }
            let view = store.rows.view();
            prop_assert_eq!(view.messages.keys().copied().collect::<BTreeSet<_>>(), &said - &gone);
            let mut seen = BTreeSet::new();
            for batch in view.covered.keys() {
                for line in view.lines(store.rows.batch(batch).unwrap()) {
                    prop_assert!(seen.insert(line.key));
                    prop_assert!(line.span.of(&store.texts[&view.messages[&line.key].rev].text).is_some());
                }
            }
        }
    }
}
