//! Forgetting: what goes, who may say so, and what is done with copies that come late.

use crate::ids::{MessageKey, Rev};
use crate::item::{Body, Fact, Line, Message};
use crate::resolve::{Current, MessageRow, Rows, View};

/// All that is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These messages.
    Keys(Vec<MessageKey>),
    /// A whole conversation.
    Conversation(String),
    /// What one speaker said from a time on.
    Speaker {
        /// Who.
        speaker: String,
        /// From when, milliseconds since 1970.
        since_ms: i64,
    },
}

/// All that goes. It is shown first and done then; between the two more may have come, so it is made anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// Messages, by the key under which they are shown.
    pub messages: Vec<MessageKey>,
    /// Lines of summaries.
    pub lines: Vec<Line>,
    /// Facts.
    pub facts: Vec<Fact>,
    /// Words of models in front of summaries.
    pub heads: usize,
}

impl Preview {
    /// What a selection comes to. `text` gives the message of a revision; one whose text is lacking goes only by its key.
    #[must_use]
    pub fn of(rows: &Rows, view: &View, selection: &Selection, text: impl Fn(&Rev) -> Option<Message>) -> Self {
        let chosen = |key: &MessageKey, now: &Current| match selection {
            // A key takes along what lives on beside it under a variant: both were appended with one id.
            Selection::Keys(keys) => keys.contains(key) || keys.contains(&now.caller),
            Selection::Conversation(name) => text(&now.rev).is_some_and(|it| it.conversation == *name),
            Selection::Speaker { speaker, since_ms } => {
                text(&now.rev).is_some_and(|it| it.speaker == *speaker && it.time_ms >= *since_ms)
            }
        };
        let mut preview = Self::default();
        preview.messages.extend(view.messages.iter().filter(|(key, now)| chosen(key, now)).map(|(key, _)| *key));
        let goes = |key: &MessageKey| preview.messages.binary_search(key).is_ok();
        let (mut lines, mut facts, mut heads) = (Vec::new(), Vec::new(), 0);
        for row in view.covered.keys().filter_map(|batch| rows.batch(batch)) {
            lines.extend(view.lines(row).filter(|line| goes(&line.key)));
            facts.extend(view.facts(row).into_iter().filter(|fact| goes(&fact.key)));
            heads += view.heads(row).filter(|head| head.sources.iter().any(|(key, _)| goes(key))).count();
        }
        Self { lines, facts, heads, ..preview }
    }

    /// The items that do it. They are committed with the erasure of bodies, postings and vectors, then pushed.
    #[must_use]
    pub fn tombstones(&self) -> Vec<Body> {
        self.messages.iter().map(|key| Body::Tombstone(*key)).collect()
    }
}

/// Who asks, as far as forgetting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// May forget everything in the workspace.
    Admin,
    /// Whoever appended the message.
    Own,
    /// Anybody else.
    Other,
}

impl Asker {
    /// True if the asker may forget the message.
    #[must_use]
    pub fn may_forget(self) -> bool {
        match self {
            Self::Admin | Self::Own => true,
            Self::Other => false,
        }
    }
}

/// True if a message that comes now, from a peer, an import or a backup, must not be kept: its key is forgotten, or what it
/// says is forgotten under its key's variant. It is stored erased.
#[must_use]
pub fn refuses(rows: &Rows, key: &MessageKey, message: &Message) -> bool {
    let forgotten = |key: &MessageKey| rows.message(key).is_some_and(|row: &MessageRow| row.forgotten);
    forgotten(key) || forgotten(&key.variant(&message.rev()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::{Draft, Settings, Trigger, Waiting, due};
    use crate::group::{Hlc, Stamp};
    use crate::ids::{AuthorId, Incarnation, WorkspaceId};
    use std::collections::BTreeMap;

    const WS: WorkspaceId = WorkspaceId([7; 16]);

    fn message(id: &str, speaker: &str, time_ms: i64) -> Message {
        Message {
            id: id.to_owned(),
            conversation: format!("talk of {speaker}"),
            session: None,
            speaker: speaker.to_owned(),
            text: format!("the code of {id} is {time_ms}"),
            time_ms,
            offset_min: 0,
        }
    }

    fn store() -> (Rows, BTreeMap<Rev, Message>) {
        let (mut rows, mut texts) = (Rows::new(WS), BTreeMap::new());
        for (n, message) in
            [message("a", "Ann", 1), message("b", "Ben", 2), message("c", "Ann", 3)].into_iter().enumerate()
        {
            rows.insert(stamp(n as u64), &Body::Message(message.clone()));
            texts.insert(message.rev(), message);
        }
        let waiting: Vec<Waiting> =
            rows.view().uncovered().map(|(key, rev)| Waiting { time_ms: texts[&rev].time_ms, key, rev }).collect();
        let capture = due(&WS, &Settings::default(), Trigger::Asked { keep: 0 }, &waiting).unwrap();
        let read: Vec<_> = capture.covers.iter().map(|(key, rev)| (*key, *rev, texts[rev].clone())).collect();
        for (n, body) in Draft::by_rules(&capture, &Settings::default(), &read).bodies().iter().enumerate() {
            rows.insert(stamp(10 + n as u64), body);
        }
        (rows, texts)
    }

    fn stamp(n: u64) -> Stamp {
        Stamp { hlc: Hlc(n), author: AuthorId([1; 16]), incarnation: Incarnation(1), index: 0 }
    }

    #[test]
    fn a_preview_lists_what_goes_and_nothing_else() {
        let (mut rows, texts) = store();
        let view = rows.view();
        let lines: Vec<Line> =
            rows.batch(view.covered.keys().next().unwrap()).into_iter().flat_map(|row| view.lines(row)).collect();
        let preview = Preview::of(&rows, &view, &Selection::Keys(vec![lines[0].key]), |rev| texts.get(rev).cloned());
        assert_eq!((preview.messages.len(), preview.lines.len(), preview.facts.len()), (1, 1, 1));
        for body in preview.tombstones() {
            rows.insert(stamp(99), &body);
        }
        let after = rows.view();
        assert_eq!(after.messages.len(), 2);
        let rest = Preview::of(&rows, &after, &Selection::Keys(vec![lines[0].key]), |rev| texts.get(rev).cloned());
        assert_eq!(rest, Preview::default());
    }

    #[test]
    fn by_conversation_and_by_speaker_since() {
        let (rows, texts) = store();
        let view = rows.view();
        let count = |selection| Preview::of(&rows, &view, &selection, |rev| texts.get(rev).cloned()).messages.len();
        assert_eq!(count(Selection::Conversation("talk of Ann".to_owned())), 2);
        assert_eq!(count(Selection::Speaker { speaker: "Ann".to_owned(), since_ms: 2 }), 1);
        assert_eq!(count(Selection::Keys(Vec::new())), 0);
    }

    #[test]
    fn a_late_copy_is_refused_whatever_it_says() {
        let (mut rows, _) = store();
        let (other, key) = (message("a", "Ann", 500), message("a", "", 0).key(&WS));
        assert!(!refuses(&rows, &key, &other));
        rows.insert(stamp(99), &Body::Tombstone(key.variant(&other.rev())));
        assert!(refuses(&rows, &key, &other) && !refuses(&rows, &key, &message("a", "Ann", 1)));
        rows.insert(stamp(99), &Body::Tombstone(key));
        assert!(refuses(&rows, &key, &message("a", "Ann", 1)));
        assert!(Asker::Own.may_forget() && !Asker::Other.may_forget());
    }
}
