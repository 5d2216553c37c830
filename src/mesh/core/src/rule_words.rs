//! Words in which the ending of a call names the rule that gave it: written and read here alone, so that whoever asks about a
//! call is told the very rule.

use crate::io::{CallRecord, CallState};
use crate::policy::{Cause, Decision, OpenAsk, Request};
use crate::record::Ending;

/// Reason for which a call of a device that was removed, or awaits re-approval, does not run.
pub(crate) const STRANGER: &str = "the device that asked does not belong to the mesh any more";

/// With this begins the reason of a call that expired while it waited for a yes.
pub const NO_CONSENT: &str = "no_consent";

/// Between the rules that asked.
const BETWEEN: &str = ", ";
const ASKED: (&str, &str) = (": nobody said yes in time, and ", " asks");

/// Why a call does not run.
pub(crate) fn denied(request: &Request, decision: &Decision) -> String {
    if decision.rule == Cause::DeviceUnknown {
        return STRANGER.to_owned();
    }
    format!("{} ({})", decision.why(request), decision.rule)
}

/// Why the second call of a device that was let in for one does not run.
pub(crate) fn beyond_its_one() -> String {
    format!("the device that asked was let in for one call ({})", Cause::TierScope)
}

/// Why a call that asks did not run.
pub(crate) fn no_consent(asks: &[OpenAsk]) -> String {
    let rules: Vec<String> = asks.iter().map(|ask| ask.rule.to_string()).collect();
    format!("{NO_CONSENT}{}{}{}", ASKED.0, rules.join(BETWEEN), ASKED.1)
}

/// The rule that ended a call, if rights did: the one that denied it, or the first that asked and got no answer. It is
/// the word of whoever wrote the ending.
#[must_use]
pub fn rule_of(record: &CallRecord) -> Option<Cause> {
    let reason = record.reason.as_str();
    match record.state {
        CallState::Ended(Ending::Denied) if reason == STRANGER => Some(Cause::DeviceUnknown),
        CallState::Ended(Ending::Denied) => reason.strip_suffix(')')?.rsplit_once('(')?.1.parse().ok(),
        CallState::Ended(Ending::Expired) => {
            let rules = reason.strip_prefix(NO_CONSENT)?.strip_prefix(ASKED.0)?.strip_suffix(ASKED.1)?;
            rules.split(BETWEEN).next()?.parse().ok()
        }
        CallState::Open(_) | CallState::Ended(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::PeerId;
    use crate::policy::{Layer, Note, Verdict};
    use crate::record::Payload;
    use crate::test_kit::header;

    fn ended(ending: Ending, reason: String) -> CallRecord {
        let origin = PeerId([1; 32]);
        CallRecord {
            header: Arc::new(header(&origin, 1, origin, "lock.open")),
            origin,
            state: CallState::Ended(ending),
            confirmed: true,
            attempt: 1,
            output: Payload::empty(),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            reason,
            alias_of: None,
            history: Vec::new(),
        }
    }

    #[test]
    fn every_rule_that_ends_a_call_is_read_again() {
        let request = Request {
            principal: "person:mia".parse().unwrap(),
            origin: PeerId([1; 32]),
            credential: None,
            workspace: None,
            target: PeerId([2; 32]),
            tool: "lock.open".parse().unwrap(),
            call: None,
        };
        for name in [
            "device:unknown",
            "tailnet:tag-lost",
            "tailnet:key-expired",
            "tailnet:node-gone",
            "principal:device",
            "principal:unknown",
            "principal:suspended",
            "token:over",
            "token:scope",
            "tier:scope",
            "tool:absent",
            "tool:pending",
            "tool:changed",
            "local:lock.*",
            "local:node:a*:lock.?",
            "tier:owner-only",
            "workspace:unknown",
            "workspace:not-member",
            "workspace:scope",
            "builtin/open",
            "builtin/owner",
            "builtin/manager",
            "builtin/own",
            "default",
            "family/no-locks",
            "family/otherwise",
            "mesh/no-locks",
        ] {
            let rule: Cause = name.parse().unwrap();
            assert_eq!(rule.to_string(), name);
            let decision = Decision {
                verdict: Verdict::Deny,
                rule: rule.clone(),
                workspace: None,
                path: vec![crate::policy::Step { layer: Layer::Rules, verdict: Verdict::Deny, cause: None }],
                asks: Vec::new(),
                consents: Vec::new(),
            };
            let record = ended(Ending::Denied, denied(&request, &decision));
            assert_eq!(rule_of(&record), Some(rule), "{}", record.reason);
        }
        for text in ["", "nothing", "local:", "local:a**b", "family/", "a/b/c", "tool:gone"] {
            assert!(text.parse::<Cause>().is_err(), "{text}");
            assert_eq!(rule_of(&ended(Ending::Denied, format!("no ({text})"))), None);
        }
    }

    #[test]
    fn a_no_and_the_want_of_an_answer_name_the_ask() {
        let at = "family/doors".parse::<crate::policy::RuleRef>().unwrap();
        let note = Note::default();
        let no = crate::answer_words::no(&"anna".parse().unwrap(), &note, &at.to_string());
        assert_eq!(rule_of(&ended(Ending::Denied, no)), Some(Cause::Rule(at.clone())));
        let other = "mesh/careful".parse().unwrap();
        let ask = |rule| OpenAsk { rule, of_agent: false, wait_ms: 1 };
        let late = no_consent(&[ask(at.clone()), ask(other)]);
        assert!(late.starts_with("no_consent: nobody said yes in time, and family/doors, mesh/careful asks"));
        assert_eq!(rule_of(&ended(Ending::Expired, late.clone())), Some(Cause::Rule(at)));
        // Of another ending the same words say nothing.
        assert_eq!(rule_of(&ended(Ending::Failed, late)), None);
        assert_eq!(rule_of(&ended(Ending::Expired, "TTL expired before the node started it".to_owned())), None);
    }
}
