//! People who may answer an ask, and who may take an answer back.

use super::consents::{Choice, Given};
use super::records::Approver;
use super::view::View;
use crate::people::{Domain, PersonId, Principal, Role, RuleRef};
use crate::record::Tier;

/// That which an ask is about.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) asker: &'a Principal,
    /// Name of the device as patterns meet it.
    pub(super) node: &'a str,
    /// Name of the tool as patterns meet it.
    pub(super) tool: &'a str,
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
        space.rule(at).is_some_and(|rule| rule.lets_approve(asked.node, asked.tool, &by_default, &is))
    }

    /// True if what was said was said at a device that may say it for that person.
    pub(super) fn is_spoken(&self, given: &Given) -> bool {
        let device = self.devices.get(&given.at).filter(|device| device.facts.trusted);
        device.is_some_and(|device| {
            device.facts.tier != Tier::Ephemeral && device.speaks_for(&Principal::Person(given.consent.by.clone()))
        })
    }

    /// The asks of a yes for an hour that this person may take back: all of the person's own, else those that the person might
    /// answer. None of anything else: a yes to one call is taken back by cancelling that.
    #[must_use]
    pub fn may_take_back(&self, given: &Given, person: &PersonId) -> Vec<RuleRef> {
        let may = |at: &&RuleRef| self.may_end(given, at, person);
        given.consent.of.iter().filter(may).cloned().collect()
    }

    /// True if a yes for an hour lets nothing through any more: each of its asks was taken back by one who may.
    #[must_use]
    pub fn is_taken_back(&self, given: &Given) -> bool {
        let ended = |at: &RuleRef| {
            let mut withdrawals = self.consents().withdrawals(&given.hash).iter();
            withdrawals.any(|other| self.is_spoken(other) && self.may_end(given, at, &other.consent.by))
        };
        given.consent.of.iter().all(ended)
    }

    fn may_end(&self, given: &Given, at: &RuleRef, person: &PersonId) -> bool {
        let Choice::Hour { principal, target, tool, .. } = &given.consent.choice else { return false };
        let by_others = || {
            let tool = tool.folded();
            self.devices.get(target).is_some_and(|device| {
                let asked = Asked { asker: principal, node: device.facts.known_as(), tool: &tool };
                self.may_approve(&asked, (at, false), person)
            })
        };
        given.consent.by == *person || by_others()
    }
}
