//! Logins of the tailnet by which people come in: said and taken back through the socket, at a device of tier owner.

use mesh_core::io::Edit;
use mesh_core::policy::{Key, Person, PersonId, Value, bounds};

use super::policy::{Held, write};
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::status::{ErrorCode, OpError};

/// Longest login, in bytes: a mail address has at most 254 (RFC 5321 §4.5.3.1.3).
pub const LOGIN_BYTES_MAX: usize = 254;

/// Says that a login of the tailnet is this person's, or is no more. Answers the number of records that changed. The mesh keeps a
/// hash of it.
///
/// # Errors
/// The caller did not come by the socket; there is no such person ([`ErrorCode::UnknownPerson`]), `owner` has no record, she has as
/// many logins as she may, or somebody else has it ([`ErrorCode::Conflict`]); all that the mesh has against the edit.
pub async fn set(
    mesh: &MeshHandle,
    who: &Identity,
    person: &PersonId,
    login: &str,
    is_hers: bool,
) -> Result<usize, OpError> {
    who.require_socket("who may come in is edited", "run `sigil` on this machine")?;
    let view = mesh.view();
    let held = Held::of(view.clone());
    let conflict = |detail: String| OpError::new(ErrorCode::Conflict, detail);
    if person.is_owner() {
        return Err(conflict("`owner` is whoever sits at an owner's device, and has no login".to_owned())
            .hint("add yourself as a person: `sigil person add NAME --role owner`"));
    }
    let Some(said) = view.rights.person(person) else {
        return Err(OpError::new(ErrorCode::UnknownPerson, format!("nobody is called `{person}`"))
            .hint("`sigil person list` shows who is; `sigil person add` adds somebody"));
    };
    let hash = Person::login(&view.mesh, login);
    let mut other = view.rights.people().filter(|(id, other)| *id != person && other.logins.contains(&hash));
    if let Some((other, _)) = other.next().filter(|_| is_hers) {
        return Err(conflict(format!("`{other}` has the login `{login}`"))
            .hint(format!("`sigil person login {other} {login} --remove` takes it from them")));
    }
    let mut logins = said.logins.clone();
    logins.retain(|login| *login != hash);
    if is_hers {
        if logins.len() >= bounds::LOGINS_MAX {
            return Err(conflict(format!("`{person}` has {} logins already, which is the most", bounds::LOGINS_MAX))
                .hint(format!("`sigil person login {person} LOGIN --remove` takes one away")));
        }
        logins.push(hash);
        logins.sort_unstable();
    }
    if logins == said.logins {
        return Ok(0);
    }
    let key = Key::Person(person.clone());
    let seen = vec![(key.clone(), view.said.places(&key))];
    let value = Value::Person(Person { logins, ..said.clone() });
    write(mesh, Edit { by: held.editor()?, changes: vec![(key, Some(value))], declared: false, force: false, seen })
        .await
}
