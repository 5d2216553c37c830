//! Rates of questions about rights: each is work of the thread that all of the agent waits on, so a token or login may ask so many and no
//! more. Who sits at this device has no rate, nor has a whole token or login of an owner, which could do anything anyway.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mesh_core::policy::{Principal, Role, View};
use tokio::time::Instant;

use super::identity::{Budget, Identity};
use crate::mesh::bucket::{Bucket, Flow};
use crate::status::{ErrorCode, OpError};

/// Work that one token may have done: an answer in words (some 0.2 ms) is 1.
const FLOW: Flow = Flow { units: 50, within: Duration::from_secs(1), ahead: 100 };
/// Most buckets that are kept; one that is empty is as good as none. There are at most 512 tokens, and logins of some people.
const BUCKETS_MAX: usize = 1_024;

/// Kind of a question, by the work that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// May somebody use a tool, and why?
    Explain,
    /// Why is a call as it is? It reads the store.
    ExplainCall,
    /// Who may use what? Up to 20,000 answers.
    Matrix,
    /// Which of the last calls would be answered otherwise by other rights? These are compiled for it.
    DryRun,
}

impl Work {
    const fn units(self) -> u64 {
        match self {
            Self::Explain => 1,
            Self::ExplainCall => 2,
            Self::Matrix => 10,
            Self::DryRun => 20,
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Explain => "whether somebody may use a tool",
            Self::ExplainCall => "why a call is as it is",
            Self::Matrix => "who may use what",
            Self::DryRun => "what other rights would change",
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Questions {
    buckets: Mutex<BTreeMap<Budget, Bucket>>,
}

impl Questions {
    /// Counts a question.
    ///
    /// # Errors
    /// [`ErrorCode::RateLimited`]: it is one too many, with the time after which there is room for it.
    pub(super) fn ask(&self, who: &Identity, work: Work, rights: &View) -> Result<(), OpError> {
        self.ask_at(who, work, rights, Instant::now())
    }

    fn ask_at(&self, who: &Identity, work: Work, rights: &View, now: Instant) -> Result<(), OpError> {
        let Some(budget) = who.budget().filter(|_| !is_owners(who, rights)) else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX {
            buckets.retain(|_, bucket| bucket.idle(now).is_zero());
        }
        let bucket = buckets.entry(budget).or_insert_with(|| Bucket::new(now));
        if bucket.take(&FLOW, work.units(), now) {
            return Ok(());
        }
        let per_s = FLOW.units / work.units();
        let detail = format!("this token asks {work} too often: {per_s} a second are answered");
        Err(OpError::new(ErrorCode::RateLimited, detail)
            .hint("ask again later, or less often: answers change only when somebody edits rights or devices change")
            .retry_after(bucket.until(&FLOW, work.units(), now))
            .with("per_s", per_s))
    }
}

fn is_owners(who: &Identity, rights: &View) -> bool {
    let Some(Principal::Person(person)) = who.holder() else { return false };
    who.is_whole() && rights.role(person) == Some(Role::Owner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::doors::tokens::Shown;

    fn by(id: &str, holder: &str, is_whole: bool) -> Identity {
        let (id, holder) = (id.parse().unwrap(), holder.parse().unwrap());
        Identity::Token(Arc::new(Shown { id, holder, read_only: false, is_whole }))
    }

    #[test]
    fn a_token_that_asks_without_end_is_told_when_to_come_back_and_nobody_else_is() {
        let (questions, rights, now) = (Questions::default(), View::default(), Instant::now());
        let ask = |who: &Identity, work, after_ms| {
            questions.ask_at(who, work, &rights, now + Duration::from_millis(after_ms))
        };
        let agent = by("loops", "agent:owner/claude", true);
        assert_eq!((0..1_000).filter(|_| ask(&agent, Work::Explain, 0).is_ok()).count(), 100);
        let error = ask(&agent, Work::Matrix, 0).unwrap_err();
        assert_eq!((error.code, error.retry_after), (ErrorCode::RateLimited, Some(Duration::from_millis(200))));
        assert!(ask(&agent, Work::Matrix, 200).is_ok() && ask(&agent, Work::Explain, 200).is_err());
        for other in [by("panel", "person:mia", true), by("some", "person:owner", false)] {
            assert_eq!((0..1_000).filter(|_| ask(&other, Work::DryRun, 0).is_ok()).count(), 5);
        }
        for free in [Identity::Socket, by("mine", "person:owner", true)] {
            assert_eq!((0..1_000).filter(|_| ask(&free, Work::DryRun, 0).is_ok()).count(), 1_000);
        }
    }
}
