//! Rights to edit rights. By role, not by rule, so that nobody locks himself out.
//!
//! It is asked where an edit is made, by the rights of that moment: asked elsewhere the answer would depend on the order
//! in which edits arrive there.

use super::records::{Key, Value};
use super::view::View;
use crate::people::{Domain, PersonId, Principal, Role, Seat, WorkspaceId};

/// Why an edit is not made. The message is fit for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAllowed {
    /// An agent or a device edits.
    #[error("{0} may not change who may do what: a person does, at a door of people")]
    NoPerson(Principal),
    /// Not one of those who may.
    #[error("{by} may not change this: {who} may")]
    Role {
        /// The editor.
        by: PersonId,
        /// Those who may.
        who: &'static str,
    },
    /// A role above the own is given or taken.
    #[error("{by} is {own} here and may not give or change the role {wanted}: ask somebody of that role")]
    AboveOwn {
        /// The editor.
        by: PersonId,
        /// As what.
        own: Role,
        /// The role.
        wanted: Role,
    },
    /// Nobody could manage the mesh any more.
    #[error("this would leave no owner who is not suspended: make another owner first")]
    LastOwner,
}

impl View {
    /// Decides if a person may make this edit; `None` deletes.
    ///
    /// # Errors
    /// Why not.
    pub fn may_edit(&self, by: &Principal, key: &Key, value: Option<&Value>) -> Result<(), NotAllowed> {
        let Principal::Person(person) = by else { return Err(NotAllowed::NoPerson(by.clone())) };
        let who = |who| NotAllowed::Role { by: person.clone(), who };
        let own = self.role(person).ok_or(who("somebody who is not suspended"))?;
        if own == Role::Owner {
            return self.an_owner_stays(key, value);
        }
        let below = |wanted: Role, own: Role| {
            if wanted <= own { Ok(()) } else { Err(NotAllowed::AboveOwn { by: person.clone(), own, wanted }) }
        };
        // An admin does not reach people of his own rank, nor acts for them, but himself he may look after.
        let reach = |of: Option<&PersonId>, wanted: Role| {
            let rank = of.map_or(Role::Guest, |of| self.rank(of)).max(wanted);
            if of == Some(person) && wanted <= own || rank < Role::Admin {
                Ok(())
            } else {
                Err(NotAllowed::AboveOwn { by: person.clone(), own, wanted: rank })
            }
        };
        let admin = own == Role::Admin;
        match key {
            Key::Mode => Err(who("an owner of the mesh")),
            Key::Rule(at) if at.domain == Domain::Mesh => Err(who("an owner of the mesh")),
            Key::Rule(at) => match at.domain.workspace().and_then(|workspace| self.manager(person, workspace)) {
                Some(_) => Ok(()),
                None if admin => Ok(()),
                None => Err(who("an owner or admin of that workspace")),
            },
            Key::Member(workspace, seat) => {
                let own = self.manager(person, workspace).max(admin.then_some(Role::Admin));
                let own = own.ok_or(who("an owner or admin of that workspace"))?;
                let before = self.seats.get(seat).and_then(|seats| seats.get(workspace)).copied();
                let after = match value {
                    Some(Value::Member(role)) => Some(*role),
                    _ => None,
                };
                before.into_iter().chain(after).try_for_each(|role| below(role, own))
            }
            Key::Person(_)
            | Key::Agent(..)
            | Key::Token(_)
            | Key::Workspace(_)
            | Key::Binding(..)
            | Key::Device(_)
            | Key::Check(_)
            | Key::Tools(_)
                if !admin =>
            {
                Err(who("an owner or admin of the mesh"))
            }
            Key::Person(id) => match value {
                Some(Value::Person(after)) => reach(Some(id), after.role),
                _ => reach(Some(id), Role::Guest),
            },
            Key::Agent(id, _) => reach(Some(id), Role::Guest),
            Key::Token(token) => {
                let before = self.tokens.get(token).into_iter().flatten().map(|token| &token.holder);
                let after = match value {
                    Some(Value::Token(token)) => Some(&token.holder),
                    _ => None,
                };
                before.chain(after).try_for_each(|holder| reach(holder.person(), Role::Guest))
            }
            Key::Device(peer) => {
                // Whom a device may speak for is a right of theirs, given or taken.
                let before = self.device(peer).map_or(&[][..], |(_, people)| people);
                let after = match value {
                    Some(Value::Device(device)) => device.people.as_slice(),
                    _ => &[],
                };
                let changed = before.iter().filter(|id| !after.contains(id));
                let changed = changed.chain(after.iter().filter(|id| !before.contains(id)));
                changed.into_iter().try_for_each(|id| reach(Some(id), Role::Guest))
            }
            Key::Workspace(_) | Key::Binding(..) | Key::Check(_) | Key::Tools(_) => Ok(()),
        }
    }

    /// Role that a person has or would have, were she not suspended.
    fn rank(&self, id: &PersonId) -> Role {
        if id.is_owner() { Role::Owner } else { self.people.get(id).map_or(Role::Guest, |person| person.role) }
    }

    /// Role of a person in a workspace that she manages.
    fn manager(&self, person: &PersonId, workspace: &WorkspaceId) -> Option<Role> {
        let seats = self.seats.get(&Seat::Person(person.clone()))?;
        seats.get(workspace).copied().filter(|role| *role >= Role::Admin && self.workspaces.contains_key(workspace))
    }

    /// `Err` if nobody were left who may do everything.
    fn an_owner_stays(&self, key: &Key, value: Option<&Value>) -> Result<(), NotAllowed> {
        let Key::Person(id) = key else { return Ok(()) };
        let after = match value {
            Some(Value::Person(person)) => !person.suspended && (person.role == Role::Owner || id.is_owner()),
            // Without a record of its own `owner` is not suspended.
            _ => id.is_owner(),
        };
        let owner = PersonId::owner();
        let others = self.people.keys().chain([&owner]);
        let stays = after || others.into_iter().any(|other| other != id && self.role(other) == Some(Role::Owner));
        if stays { Ok(()) } else { Err(NotAllowed::LastOwner) }
    }
}
