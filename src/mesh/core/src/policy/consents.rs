//! All that people said to calls that ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::records::{InvalidRecord, Note, OF_MAX};
use crate::ids::{Hash, PeerId, ReqId, ToolName};
use crate::people::{Domain, PersonId, Principal, RuleRef};

/// Most consents that are kept at once.
pub const CONSENTS_MAX: usize = 512;

/// The body of an entry by which a person answers an ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// The answer.
    pub choice: Choice,
    /// The answerer, at the device that signs.
    pub by: PersonId,
    /// The asks that are answered. At most [`OF_MAX`].
    pub of: Vec<RuleRef>,
    /// Remark for people.
    #[serde(default)]
    pub note: Note,
}

/// See [`Consent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Yes, to this call as its header says it.
    Once {
        /// The call.
        call: ReqId,
        /// Hash of its header's entry.
        header: Hash,
    },
    /// No, to this call.
    Deny {
        /// The call.
        call: ReqId,
        /// Hash of its header's entry.
        header: Hash,
    },
    /// Yes for an hour, to calls like this one.
    Hour {
        /// The asker.
        principal: Principal,
        /// Where.
        domain: Domain,
        /// The device, as it was paired.
        target: PeerId,
        /// The tool.
        tool: ToolName,
    },
    /// All that was said in that entry is taken back.
    Withdrawn {
        /// Hash of the entry.
        consent: Hash,
    },
}

impl Consent {
    /// Checks its bounds.
    ///
    /// # Errors
    /// When it is about too many asks.
    pub fn check(&self) -> Result<(), InvalidRecord> {
        let count = self.of.len();
        if count > OF_MAX { Err(InvalidRecord::TooMany { field: "of", count, max: OF_MAX }) } else { Ok(()) }
    }
}

/// A consent as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Hash of its entry.
    pub hash: Hash,
    /// The device that signed it.
    pub at: PeerId,
    /// All that it says.
    pub consent: Consent,
}

/// Calls that an hour is about.
type Alike = (Principal, Domain, PeerId, ToolName);

/// Consents that may count, by what they are about. Whether one does count is judged anew at each decision.
///
/// Who has a clock ends those whose time is over: nothing here does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consents {
    given: BTreeMap<Hash, Arc<Given>>,
    of_calls: BTreeMap<ReqId, Vec<Arc<Given>>>,
    of_hours: BTreeMap<Alike, Vec<Arc<Given>>>,
    /// By the consent that they take back.
    withdrawals: BTreeMap<Hash, Vec<Arc<Given>>>,
}

impl Consents {
    /// Adds one; `false` if it is there already, breaks its bounds, or [`CONSENTS_MAX`] are there.
    pub fn insert(&mut self, given: Given) -> bool {
        if given.consent.check().is_err() || self.given.len() >= CONSENTS_MAX || self.given.contains_key(&given.hash) {
            return false;
        }
        let given = Arc::new(given);
        self.given.insert(given.hash, Arc::clone(&given));
        self.index(given.as_ref()).push(given);
        true
    }

    /// Ends one: its hour is over, or its call has ended.
    pub fn end(&mut self, hash: &Hash) {
        let Some(given) = self.given.remove(hash) else { return };
        self.index(given.as_ref()).retain(|other| other.hash != *hash);
        self.of_calls.retain(|_, all| !all.is_empty());
        self.of_hours.retain(|_, all| !all.is_empty());
        self.withdrawals.retain(|_, all| !all.is_empty());
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Given> {
        self.given.values().map(AsRef::as_ref)
    }

    /// The consent of this entry, if it is held.
    #[must_use]
    pub fn get(&self, hash: &Hash) -> Option<&Given> {
        self.given.get(hash).map(AsRef::as_ref)
    }

    fn index(&mut self, given: &Given) -> &mut Vec<Arc<Given>> {
        match &given.consent.choice {
            Choice::Once { call, .. } | Choice::Deny { call, .. } => self.of_calls.entry(*call).or_default(),
            Choice::Hour { principal, domain, target, tool } => {
                self.of_hours.entry((principal.clone(), domain.clone(), *target, tool.clone())).or_default()
            }
            Choice::Withdrawn { consent } => self.withdrawals.entry(*consent).or_default(),
        }
    }

    pub(super) fn withdrawals(&self, of: &Hash) -> &[Arc<Given>] {
        self.withdrawals.get(of).map_or(&[], Vec::as_slice)
    }

    /// Answers to this call as its header says it.
    pub(super) fn of_call(&self, call: Option<(ReqId, Hash)>) -> impl Iterator<Item = &Given> {
        let all = call.and_then(|(id, _)| self.of_calls.get(&id)).map_or(&[][..], Vec::as_slice);
        all.iter().map(AsRef::as_ref).filter(move |given| match &given.consent.choice {
            Choice::Once { header, .. } | Choice::Deny { header, .. } => call.is_some_and(|(_, hash)| hash == *header),
            Choice::Hour { .. } | Choice::Withdrawn { .. } => false,
        })
    }

    /// Hours that calls like this one have.
    pub(super) fn of_hour(
        &self,
        principal: &Principal,
        domain: &Domain,
        target: PeerId,
        tool: &ToolName,
    ) -> impl Iterator<Item = &Given> {
        // Most meshes have none at most times.
        let all = (!self.of_hours.is_empty())
            .then(|| self.of_hours.get(&(principal.clone(), domain.clone(), target, tool.clone())))
            .flatten();
        all.map_or(&[][..], Vec::as_slice).iter().map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{decode, encode};
    use crate::ids::Incarnation;

    fn given(n: u8, choice: Choice) -> Given {
        let of = vec!["family/doors".parse().unwrap()];
        let consent = Consent { choice, by: "anna".parse().unwrap(), of, note: Note::default() };
        Given { hash: Hash([n; 32]), at: PeerId([1; 32]), consent }
    }

    #[test]
    fn consents_are_found_by_what_they_are_about_until_they_end() {
        let call = ReqId::new(&PeerId([2; 32]), Incarnation(1), 7);
        let (header, target) = (Hash([8; 32]), PeerId([3; 32]));
        let principal: Principal = "person:mia".parse().unwrap();
        let tool: ToolName = "lock.open".parse().unwrap();
        let hour = Choice::Hour { principal: principal.clone(), domain: Domain::Mesh, target, tool: tool.clone() };
        let mut consents = Consents::default();
        for (n, choice) in
            [Choice::Once { call, header }, Choice::Deny { call, header: Hash([9; 32]) }, hour].into_iter().enumerate()
        {
            let given = given(u8::try_from(n).unwrap(), choice);
            assert_eq!(decode::<Consent>(&encode(&given.consent)).as_ref(), Some(&given.consent));
            assert!(consents.insert(given.clone()) && !consents.insert(given));
        }
        let of_call = |consents: &Consents, header| consents.of_call(Some((call, header))).count();
        assert_eq!((of_call(&consents, header), of_call(&consents, Hash([7; 32]))), (1, 0));
        assert_eq!(consents.of_call(None).count(), 0);
        assert_eq!(consents.of_hour(&principal, &Domain::Mesh, target, &tool).count(), 1);
        assert_eq!(consents.of_hour(&principal, &Domain::Mesh, PeerId([4; 32]), &tool).count(), 0);
        for n in 0..3 {
            consents.end(&Hash([n; 32]));
        }
        assert_eq!(consents, Consents::default());
    }
}
