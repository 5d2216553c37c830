//! Calls that wait for a person: listed, and answered by whoever sits at this device.

use bytes::Bytes;
use mesh_core::answer_words::{said_before, too_late};
use mesh_core::ids::ReqId;
use mesh_core::io::{AnswerChoice, Approval, Command, NewAnswer, Refusal, Reply, View};
use mesh_core::policy::{Key, Note, PersonId, Principal, RuleRef};
use mesh_core::record::{Payload, Tier};

use crate::doors::identity::Identity;
use crate::mesh::clock::now;
use crate::mesh::{CallCursor, MeshError, MeshHandle};
use crate::status::{ErrorCode, OpError};

/// A call that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The call, and who may answer.
    pub approval: Approval,
    /// Its arguments; `None` of those that are not in its header, since they are longer than
    /// [`mesh_core::limits::INLINE_BYTES_MAX`].
    pub arguments: Option<Bytes>,
    /// Wall time after which it is too late.
    pub until_ms: u64,
    /// The answers that the caller may give here; none, if somebody else answers.
    pub choices: Vec<AnswerChoice>,
}

/// A page of calls that wait.
#[derive(Debug)]
pub struct Page {
    /// The newest first.
    pub items: Vec<Waiting>,
    /// Start of the next page.
    pub next: Option<CallCursor>,
}

fn place(approval: &Approval) -> CallCursor {
    CallCursor { accepted_ms: approval.header.accepted_ms, id: approval.header.id }
}

/// Lists calls that wait for a person and concern the caller, as far as this device knows: newest first, at most `limit`.
///
/// # Errors
/// The mesh cannot answer.
pub async fn list(mesh: &MeshHandle, who: &Identity, after: Option<CallCursor>, limit: usize) -> Result<Page, OpError> {
    let mut all = mesh.approvals().await?;
    let (view, now_ms) = (mesh.view(), now().wall_ms);
    let is_shown = |approval: &Approval| {
        who.may_see_call(&approval.header, &view.rights) && after.is_none_or(|after| place(approval) < after)
    };
    all.retain(is_shown);
    all.sort_by_key(|approval| std::cmp::Reverse(place(approval)));
    let more = all.len() > limit;
    all.truncate(limit);
    let next = all.last().filter(|_| more).map(place);
    let waiting = |approval: Approval| Waiting {
        arguments: match &approval.header.arguments {
            Payload::Inline(bytes) => Some(bytes.clone()),
            Payload::Blob { .. } => None,
        },
        until_ms: now_ms.saturating_add(approval.left_ms),
        choices: choices(&view, who, &approval),
        approval,
    };
    Ok(Page { items: all.into_iter().map(waiting).collect(), next })
}

/// The person who may say something here, or take it back: whoever sits at this device, by the socket or on its web page.
pub(super) fn sitter(view: &View, who: &Identity) -> Option<PersonId> {
    let tier = view.by_peer(&view.me).map(|me| me.tier);
    match view.rights.sits_at(&view.me).filter(|_| who.sits_here() && tier != Some(Tier::Ephemeral)) {
        Some(Principal::Person(person)) => Some(person),
        Some(Principal::Agent(..) | Principal::Device(_)) | None => None,
    }
}

/// Answers that the caller may give: as the person who sits here.
fn choices(view: &View, who: &Identity, approval: &Approval) -> Vec<AnswerChoice> {
    let Some(person) = sitter(view, who) else { return Vec::new() };
    let (tier, by) = (view.by_peer(&view.me).map(|me| me.tier), Principal::Person(person.clone()));
    let own: Vec<&RuleRef> =
        approval.asks.iter().filter(|(_, people)| people.contains(&person)).map(|(rule, _)| rule).collect();
    if own.is_empty() {
        return Vec::new();
    }
    // `always` is a rule, which only an owner's device can say.
    let may_rule = |at: &&RuleRef| view.rights.may_edit(&by, &Key::Rule(RuleRef::clone(at)), None).is_ok();
    // Of a device that rights know by no name no two calls are alike.
    let by_itself = matches!(approval.header.principal, Principal::Device(_));
    let alike = !by_itself || view.rights.name_of(&approval.origin).is_some();
    let hour = alike.then_some(AnswerChoice::Hour);
    let always = alike && tier == Some(Tier::Owner) && own.iter().all(may_rule);
    let always = always.then_some(AnswerChoice::Always);
    [AnswerChoice::Once].into_iter().chain(hour).chain(always).chain([AnswerChoice::No]).collect()
}

/// Answers a call as the person who sits at this device; gives the asks that this answers. The same answer again is answered
/// alike, also once the call is over; but for an `always`, which is a rule by then.
///
/// # Errors
/// [`ErrorCode::NotApprover`] for a token or login, and for whoever may not answer this call, or not at this device;
/// [`ErrorCode::UnknownCall`], [`ErrorCode::AlreadyDecided`], [`ErrorCode::AskOver`]; of an `always` also those of an edit.
pub async fn answer(
    mesh: &MeshHandle,
    who: &Identity,
    id: ReqId,
    choice: AnswerChoice,
    note: Note,
) -> Result<Vec<RuleRef>, OpError> {
    if !who.sits_here() {
        let detail = "an answer is given at a device of the person, and by no token or login";
        return Err(say_who(mesh, who, id, OpError::new(ErrorCode::NotApprover, detail)).await);
    }
    let by = mesh.view().rights.sits_at(&mesh.view().me).ok_or_else(|| OpError::from(Refusal::NotMember))?;
    let new = NewAnswer { id, by: by.clone(), choice, note };
    match mesh.command(Command::Answer(new)).await {
        Ok(Reply::Answered { of }) => Ok(of),
        Ok(_) => Err(OpError::new(ErrorCode::Internal, "the mesh answered something else")),
        // Calls that are over are not the core's any more.
        Err(MeshError::Refused(unknown @ Refusal::UnknownCall(_))) => {
            let Some(record) = mesh.call(id).await? else { return Err(unknown.into()) };
            let said = by.person().and_then(|person| said_before(&record, person, choice));
            said.ok_or_else(|| too_late(&record).into())
        }
        Err(error @ MeshError::Refused(Refusal::NotApprover(_))) => Err(say_who(mesh, who, id, error.into()).await),
        Err(error) => Err(error.into()),
    }
}

/// Adds who may answer, if the caller may see the call.
async fn say_who(mesh: &MeshHandle, who: &Identity, id: ReqId, error: OpError) -> OpError {
    let all = mesh.approvals().await.unwrap_or_default();
    let found = all.into_iter().find(|approval| approval.id == id);
    let view = mesh.view();
    let Some(found) = found.filter(|found| who.may_see_call(&found.header, &view.rights)) else { return error };
    let mut people: Vec<PersonId> = found.asks.into_iter().flat_map(|(_, people)| people).collect();
    people.sort();
    people.dedup();
    let names: Vec<String> = people.iter().map(ToString::to_string).collect();
    let hint = if names.is_empty() {
        "nobody may answer it; whoever manages the workspace can change its rules".to_owned()
    } else {
        format!("{} may, each with `sigil approvals` at a device that speaks for that person", names.join(" or "))
    };
    let approvers: Vec<String> = names.into_iter().map(|name| format!("person:{name}")).collect();
    error.hint(hint).with("approvers", approvers)
}
