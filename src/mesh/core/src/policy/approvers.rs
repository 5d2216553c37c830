//! People who may answer an ask, and who may take an answer back.

use std::borrow::Cow;

use super::consents::{Choice, Given};
use super::records::Approver;
use super::view::View;
use crate::people::{Domain, PersonId, Principal, Role, RuleRef};
use crate::record::Tier;

/// That which an ask is about.
pub(super) struct Asked<'a> {
    pub(super) asker: &'a Principal,
    /// Name of the device as patterns meet it.
    pub(super) node: &'a str,
    /// Name of the tool as patterns meet it.
    pub(super) tool: Cow<'a, str>,
}

impl View {
    /// True if this person may answer that ask; the flag: it is the agent's alone. Roles are not capped: people say yes on
    /// their phones.
    pub(super) fn may_approve(&self, asked: &Asked<'_>, (at, of_agent): (&RuleRef, bool), person: &PersonId) -> bool {
        if self.role(person).is_none() {
            return false;
        }
        let role = self.role_in(person, &at.domain);
        let is_asker = asked.asker.person() == Some(person);
        let by_default = || role >= Some(Role::Admin) || of_agent && is_asker;
        let is = |approver: &Approver| match approver {
            Approver::Myself => is_asker,
            Approver::People => role >= Some(Role::Member),
            Approver::Role(wanted) => role == Some(*wanted),
            Approver::Person(id) => id == person,
        };
        let space = match &at.domain {
            Domain::Mesh => Some(&self.mesh),
            Domain::Workspace(id) => self.workspaces.get(id),
        };
        let Some(space) = space else { return false };
        if at.is_otherwise() {
            return by_default();
        }
        space.rule(at).is_some_and(|rule| rule.lets_approve(asked.node, &asked.tool, &by_default, &is))
    }

    /// True if what was said was said at a device that may say it for that person.
    pub(super) fn is_spoken(&self, given: &Given) -> bool {
        let device = self.devices.get(&given.at).filter(|device| device.facts.trusted);
        device.is_some_and(|device| {
            device.facts.tier != Tier::Ephemeral && device.speaks_for(&Principal::Person(given.consent.by.clone()))
        })
    }

    /// The asks that a yes for an hour answers yet, where it counts: its author may still answer them, and nobody who may has taken it back.
    #[must_use]
    pub fn answered_yet(&self, given: &Given) -> Vec<RuleRef> {
        let Choice::Hour { principal, .. } = &given.consent.choice else { return Vec::new() };
        let of_agent = matches!(principal, Principal::Agent(..));
        let answered = |at: &&RuleRef| {
            let by = &given.consent.by;
            self.asked_of(given).is_some_and(|asked| self.may_approve(&asked, (at, of_agent), by))
                && !self.is_taken_back(given, at)
        };
        if !self.is_spoken(given) {
            return Vec::new();
        }
        given.consent.of.iter().filter(answered).cloned().collect()
    }

    /// True if somebody who may has taken back what was said to this ask.
    #[must_use]
    pub fn is_taken_back(&self, given: &Given, at: &RuleRef) -> bool {
        let mut withdrawals = self.consents().withdrawals(&given.hash).iter();
        withdrawals.any(|other| self.is_spoken(other) && self.may_take_back(given, at, &other.consent.by))
    }

    /// True if this person may take back what was said to this ask: whoever said it, and whoever may answer it; of what an
    /// agent was given, its person.
    #[must_use]
    pub fn may_take_back(&self, given: &Given, at: &RuleRef, person: &PersonId) -> bool {
        let by_others = |asked: &Asked<'_>| {
            let of_agent = matches!(asked.asker, Principal::Agent(..));
            self.may_approve(asked, (at, of_agent), person)
        };
        given.consent.by == *person || self.asked_of(given).as_ref().is_some_and(by_others)
    }

    /// That which a yes for an hour is about; `None`: it is none, or for a device that is no member.
    fn asked_of<'a>(&'a self, given: &'a Given) -> Option<Asked<'a>> {
        let Choice::Hour { principal, target, tool, .. } = &given.consent.choice else { return None };
        let node = self.devices.get(target)?.facts.known_as();
        Some(Asked { asker: principal, node, tool: tool.folded() })
    }
}
