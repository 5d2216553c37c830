//! Keeps secrets out of what programs say.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

/// Shortest value that is looked for: a shorter one is a word that may stand anywhere.
const VALUE_BYTES_MIN: usize = 8;

/// Secrets that a program was given, to be taken out of what it says about itself: error streams, reasons, progress, and all text of
/// an MCP server, its results too. Not out of the results of other programs, which are their bytes.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Value, and what stands in its place; the longest first.
    secrets: Vec<(Vec<u8>, String)>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.secrets.iter().map(|(_, name)| name)).finish()
    }
}

impl Redactor {
    /// Adds a secret. One of less than 8 bytes is not looked for.
    pub fn add(&mut self, name: &str, value: &str) {
        // Tools trim what they are given.
        let value = value.trim().as_bytes();
        if value.len() >= VALUE_BYTES_MIN {
            self.secrets.push((value.to_vec(), format!("[secret {name}]")));
            self.secrets.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        }
    }

    /// A text without them.
    #[must_use]
    pub fn redacted<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.secrets.is_empty() {
            return text.into();
        }
        let mut out = Vec::with_capacity(text.len());
        self.take(text.as_bytes(), true, &mut out);
        // Whole characters were replaced by whole characters, as all values are text.
        String::from_utf8_lossy(&out).into_owned().into()
    }

    /// JSON without them, names of members included.
    #[must_use]
    pub fn redacted_json(&self, value: Value) -> Value {
        if self.secrets.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.redacted(&text).into_owned()),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.redacted_json(item)).collect()),
            Value::Object(members) => {
                let member =
                    |(name, value): (String, Value)| (self.redacted(&name).into_owned(), self.redacted_json(value));
                Value::Object(members.into_iter().map(member).collect())
            }
            plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
        }
    }

    /// Appends all that is certain to `out`; returns how much of `bytes` was taken. At the end all of it is.
    fn take(&self, bytes: &[u8], at_end: bool, out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let may_begin = |(value, _): &(Vec<u8>, String)| value.len() > rest.len() && value.starts_with(rest);
            if !at_end && self.secrets.iter().any(may_begin) {
                return at;
            }
            if let Some((value, name)) = self.secrets.iter().find(|(value, _)| rest.starts_with(value)) {
                out.extend_from_slice(name.as_bytes());
                at += value.len();
            } else {
                out.extend(rest.first());
                at += 1;
            }
        }
        at
    }
}

/// A stream without secrets, whose pieces may fall anywhere.
#[derive(Debug, Default)]
pub struct RedactStream {
    redactor: Arc<Redactor>,
    /// The beginning of what may become a secret.
    held: Vec<u8>,
}

impl RedactStream {
    /// A stream from which these are taken.
    #[must_use]
    pub fn new(redactor: Arc<Redactor>) -> Self {
        Self { redactor, held: Vec::new() }
    }

    /// Takes a piece; returns what is certain by now.
    pub fn push<'a>(&mut self, chunk: &'a [u8]) -> Cow<'a, [u8]> {
        if self.redactor.secrets.is_empty() {
            return chunk.into();
        }
        self.held.extend_from_slice(chunk);
        let mut out = Vec::new();
        let taken = self.redactor.take(&self.held, false, &mut out);
        self.held.drain(..taken);
        out.into()
    }

    /// What is left at its end. The beginning of a secret that did not come whole stays out too.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let held = std::mem::take(&mut self.held);
        if held.len() < VALUE_BYTES_MIN {
            self.redactor.take(&held, true, &mut out);
        } else {
            out.extend_from_slice(b"[secret]");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_has_none_wherever_it_stood() {
        let said = serde_json::json!({ "a hunter2-hunter2 b": [{ "text": "is \"hunter2-hunter2\"" }, 7, null] });
        let mut redactor = Redactor::default();
        redactor.add("key", "hunter2-hunter2");
        let kept = redactor.redacted_json(said).to_string();
        assert!(!kept.contains("hunter2") && kept.matches("[secret key]").count() == 2, "{kept}");
    }

    fn redactor() -> Redactor {
        let mut redactor = Redactor::default();
        for (name, value) in
            [("short", "1234567"), ("key", "hunter2-hunter2\n"), ("longer", "hunter2-hunter2-and-more")]
        {
            redactor.add(name, value);
        }
        redactor
    }

    #[test]
    fn values_of_eight_bytes_and_more_are_replaced_by_their_names() {
        let redactor = redactor();
        assert_eq!(redactor.redacted("a hunter2-hunter2! 1234567"), "a [secret key]! 1234567");
        assert_eq!(redactor.redacted("hunter2-hunter2-and-more"), "[secret longer]");
        assert_eq!(redactor.redacted("hunter2-hunter2-and-less é"), "[secret key]-and-less é");
        assert!(!format!("{redactor:?}").contains("hunter2"));
        let mut stream = RedactStream::new(Arc::new(redactor));
        assert_eq!(&*stream.push(b"say hunter2-hun"), b"say ");
        assert_eq!(&*stream.push(b"ter3\n"), b"hunter2-hunter3\n");
        assert_eq!(&*stream.push(b"hunter2-hu"), b"");
        assert_eq!(stream.finish(), b"[secret]");
        assert_eq!(&*stream.push(b"hunt"), b"");
        assert_eq!(stream.finish(), b"hunt");
    }

    proptest! {
        #[test]
        fn wherever_the_pieces_fall_no_secret_is_left(
            parts in prop::collection::vec(
                prop::sample::select(vec!["hunter2-hunter2", "hunter2-hunter2-and-more", "hunter", " ", "x", "-", "and"]), 0..12),
            cuts in prop::collection::vec(0usize..200, 0..12),
        ) {
            let text = parts.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut stream = RedactStream::new(Arc::new(redactor()));
            let mut out = Vec::new();
            for cut in cuts.windows(2) {
                out.extend_from_slice(&stream.push(&text.as_bytes()[cut[0]..cut[1]]));
            }
            out.extend(stream.finish());
            let out = String::from_utf8(out).unwrap();
            prop_assert!(!out.contains("hunter2-hunter2"), "{}", out);
        }
    }
}
