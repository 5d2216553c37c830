//! Calls: made, waited for, read, listed, cancelled.

use std::time::Duration;

use bytes::Bytes;
use mesh_core::frame::Phase;
use mesh_core::ids::{Hash, NodeId, PeerId, ReqId, ToolName};
use mesh_core::io::{CallRecord, CallState, Command, NewCall, NodeView, Refusal, Reply, View};
use mesh_core::limits;
use mesh_core::policy::{AgentName, Credential, Domain, Principal};
use mesh_core::record::{Effect, Payload};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::devices::{Named, is_online, resolve};
use super::providers;
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::mesh::clock::{now, rfc3339};
use crate::mesh::{CallCursor, CallFilter, CallPage, CallStateFilter, ForNode, MeshError, ResultBody};
use crate::node::roster::Roster;
use crate::status::{ErrorCode, OpError};

/// Longest run that a caller may ask for, and what a call that names none asks for: the tool's own timeout is shorter
/// and decides.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(24);
/// Outputs up to this size are read together with their call; larger ones are read by [`result`].
pub const OUTPUT_SHOWN_BYTES_MAX: u64 = 256 * 1024;
/// Longest reason of a cancellation, characters: with 4 bytes each half of what an entry may carry.
pub const REASON_MAX: usize = 500;
/// An alias of an alias of … is followed this far; two peers' crossing retries make one step.
const ALIAS_STEPS_MAX: usize = 4;

/// A call to make.
#[derive(Debug)]
pub struct Request<'a> {
    /// Name or peer id of the device, or `any`.
    pub node: &'a str,
    /// Name of the tool.
    pub tool: &'a ToolName,
    /// JSON.
    pub arguments: &'a str,
    /// Time within which it must start, 1 s to [`limits::TTL_MS_MAX`].
    pub ttl: Duration,
    /// Longest run, at most [`TIMEOUT_MAX`].
    pub timeout: Duration,
    /// Only stricter than what the tool declares.
    pub effect: Option<Effect>,
    /// The workspace in which it is asked; `None`: in that which gives it.
    pub workspace: Option<Domain>,
    /// An agent of the person who asks; `None`: she herself.
    pub agent: Option<AgentName>,
    /// The client's own key for the call.
    pub client_key: Option<String>,
}

/// A call that is durable here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: ReqId,
    /// False if the client's key named a call that was there already.
    pub created: bool,
}

/// Makes a call, and answers once it is durable here: from then on it has exactly one ending.
///
/// # Errors
/// The arguments are too long, `node` names no device or two, or the mesh refuses. Of a tool that this very device would have, and
/// does not offer now, those who look after it are told why, by its `roster`.
pub async fn call(
    mesh: &MeshHandle,
    who: &Identity,
    roster: &Roster,
    request: Request<'_>,
) -> Result<Accepted, OpError> {
    let Request { node, tool, arguments, ttl, timeout, effect, workspace, agent, client_key } = request;
    if arguments.len() > limits::ARGUMENTS_BYTES_MAX {
        let detail = format!("the arguments may have at most {} bytes", limits::ARGUMENTS_BYTES_MAX);
        return Err(OpError::new(ErrorCode::TooLarge, detail).hint("put large data into a file and pass its path"));
    }
    let node = if node == "any" { node.to_owned() } else { name_meant(&mesh.view(), node)? };
    let new = NewCall {
        node,
        tool: tool.clone(),
        arguments: mesh.payloads().keep(Bytes::copy_from_slice(arguments.as_bytes())).await?,
        ttl_ms: millis(ttl),
        timeout_ms: millis(timeout),
        effect,
        principal: asker(&mesh.view(), who, agent)?,
        credential: who.token().map(|shown| Credential { token: shown.id.clone(), over: false }),
        workspace,
        client_key: client_key.map(|key| own_key(who, key)),
    };
    let reply = mesh.command(Command::Call(new)).await;
    if let Err(MeshError::Refused(Refusal::UnknownTool { node, tool })) = &reply
        && *node == mesh.view().node_id
        && let Some(absent) = providers::absent(mesh, who, roster, tool)
    {
        return Err(absent);
    }
    match reply? {
        Reply::Call { id, created } => Ok(Accepted { id, created }),
        Reply::Refused(refusal) => Err(refusal.into()),
        Reply::Cancelled
        | Reply::Invited
        | Reply::InviteVoided
        | Reply::Approved(_)
        | Reply::Renamed
        | Reply::Revoked
        | Reply::RevokedAll(_)
        | Reply::Left
        | Reply::Noted
        | Reply::Edited { .. }
        | Reply::Answered { .. }
        | Reply::TakenBack { .. }
        | Reply::Stopped => Err(OpError::new(ErrorCode::Internal, "the mesh answered something else")),
    }
}

/// A client's own key, as the mesh gets it. A narrowed token was given away: its keys are not those of its holder, whose calls
/// it would keep out, or take for its own.
fn own_key(who: &Identity, key: String) -> String {
    match who.token() {
        Some(shown) if !shown.is_whole => {
            let hash = Hash::of(&[shown.id.to_string().as_bytes(), &[0], key.as_bytes()].concat());
            format!("token {} {}", shown.id, data_encoding::HEXLOWER.encode(hash.as_bytes()))
        }
        Some(_) | None => key,
    }
}

/// Whom a call is made for: the holder of the token, or the person of the login, else whoever sits at this device, which the mesh knows (`None`); of a
/// person her agent of this name, if one is named.
fn asker(view: &View, who: &Identity, agent: Option<AgentName>) -> Result<Option<Principal>, OpError> {
    let holder = who.holder().cloned();
    let Some(agent) = agent else { return Ok(holder) };
    match holder.or_else(|| view.rights.sits_at(&view.me)) {
        Some(Principal::Person(person)) => Ok(Some(Principal::Agent(person, agent))),
        Some(Principal::Agent(..) | Principal::Device(_)) | None => {
            Err(OpError::new(ErrorCode::Denied, "no person asks here, so that no agent of hers does")
                .hint("an owner says whose a device is: `sigil person set PERSON --device NODE`"))
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The member that `text` means; `None` for a name that none has here (any more).
fn member_meant<'a>(view: &'a View, text: &str) -> Result<Option<&'a NodeView>, OpError> {
    match resolve(view, &[], text) {
        Ok(Named::Member(node)) => Ok(Some(node)),
        Ok(Named::Pending(_)) => Ok(None),
        Err(error) if error.code == ErrorCode::UnknownNode && text.parse::<NodeId>().is_ok() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name that `text` means: of a member, or `text` itself.
fn name_meant(view: &View, text: &str) -> Result<String, OpError> {
    Ok(member_meant(view, text)?.map_or_else(|| text.to_owned(), |node| node.node_id.to_string()))
}

/// The device whose calls `text` means: a member, or one that has been.
pub(super) fn device_meant(view: &View, text: &str) -> Result<ForNode, OpError> {
    if let Ok(peer) = text.parse::<PeerId>() {
        return Ok(ForNode::Peer(peer));
    }
    Ok(member_meant(view, text)?.map_or_else(|| ForNode::gone(text, view), |node| ForNode::Peer(node.peer)))
}

/// A call as it is shown.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The call itself.
    pub own: CallRecord,
    /// The call that it repeats, if it is an alias.
    pub original: Option<CallRecord>,
    /// Its output, when it is here and at most [`OUTPUT_SHOWN_BYTES_MAX`] long.
    pub output: Option<Bytes>,
    /// True if nobody keeps the output any more.
    pub is_gone: bool,
}

impl Reading {
    /// The record whose state and output are shown.
    #[must_use]
    pub fn record(&self) -> &CallRecord {
        self.original.as_ref().unwrap_or(&self.own)
    }

    /// True if the call has an ending.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.record().state, CallState::Ended(_))
    }
}

/// Reads a call. Waits for its ending, for that of the call which it repeats, and for the bytes of its output: at most
/// `wait` together, and not at all once `stop` is cancelled.
///
/// # Errors
/// [`ErrorCode::UnknownCall`], or the mesh cannot answer.
pub async fn read(
    mesh: &MeshHandle,
    who: &Identity,
    stop: &CancellationToken,
    id: ReqId,
    wait: Duration,
) -> Result<Reading, OpError> {
    find(mesh, who, id).await?;
    let deadline = Instant::now() + wait;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut own = wait_for(mesh, stop, id, wait).await?;
    if !wait.is_zero()
        && let Some(original) = original_of(mesh, &own).await?
    {
        wait_for(mesh, stop, original.header.id, left()).await?;
        // Its own row may have changed meanwhile.
        own = mesh.call(id).await?.unwrap_or(own);
    }
    let mut reading = read_through(mesh, own).await?;
    if let Payload::Blob { hash, len } = &reading.record().output
        && *len <= OUTPUT_SHOWN_BYTES_MAX
    {
        let here = mesh.blobs().wait_for(*hash, left()).await;
        // A file that vanished just now is away, like one that has not come yet.
        reading.output =
            if here { tokio::fs::read(mesh.blobs().path(*hash)).await.ok().map(Bytes::from) } else { None };
        reading.is_gone = mesh.payloads().is_gone(reading.record(), &reading.record().output);
    }
    if !wait.is_zero() {
        check_again(mesh, who)?;
    }
    Ok(reading)
}

/// What was shown when something was asked has to count still when it is answered, however long that waited.
///
/// # Errors
/// [`ErrorCode::Unauthorized`].
fn check_again(mesh: &MeshHandle, who: &Identity) -> Result<(), OpError> {
    if who.still_counts(&mesh.view(), now().wall_ms) {
        return Ok(());
    }
    Err(OpError::new(ErrorCode::Unauthorized, "what this was asked with does not count any more")
        .hint("sign in again, or show another token"))
}

async fn wait_for(
    mesh: &MeshHandle,
    stop: &CancellationToken,
    id: ReqId,
    wait: Duration,
) -> Result<CallRecord, OpError> {
    let waited = if wait.is_zero() { None } else { stop.run_until_cancelled(mesh.wait_call(id, wait)).await };
    match waited {
        Some(found) => found?.ok_or_else(|| MeshError::from(Refusal::UnknownCall(id)).into()),
        None => mesh.call(id).await?.ok_or_else(|| MeshError::from(Refusal::UnknownCall(id)).into()),
    }
}

/// A call that concerns the caller. Of another's it is not told that there is one.
pub(super) async fn find(mesh: &MeshHandle, who: &Identity, id: ReqId) -> Result<CallRecord, OpError> {
    let found = mesh.call(id).await?.filter(|call| who.may_see_call(&call.header, &mesh.view().rights));
    Ok(found.ok_or(MeshError::from(Refusal::UnknownCall(id)))?)
}

/// True if the caller may see this call.
pub async fn concerns(mesh: &MeshHandle, who: &Identity, id: ReqId) -> bool {
    who.is_admin(&mesh.view().rights) || find(mesh, who, id).await.is_ok()
}

/// The call that `record` repeats, if its target named one that it can repeat.
async fn original_of(mesh: &MeshHandle, record: &CallRecord) -> Result<Option<CallRecord>, OpError> {
    let Some(id) = record.alias_of else { return Ok(None) };
    Ok(mesh.call(id).await?.filter(|original| record.repeats(original)))
}

/// Follows `own` to the call that it repeats; outputs that are not inside the record are left out, so that a list stays
/// cheap.
async fn read_through(mesh: &MeshHandle, own: CallRecord) -> Result<Reading, OpError> {
    let mut original = None;
    for _ in 0..ALIAS_STEPS_MAX {
        let Some(found) = original_of(mesh, original.as_ref().unwrap_or(&own)).await? else { break };
        original = Some(found);
    }
    let record = original.as_ref().unwrap_or(&own);
    let is_gone = mesh.payloads().is_gone(record, &record.output);
    let mut reading = Reading { own, original, output: None, is_gone };
    if let Payload::Inline(bytes) = &reading.record().output {
        reading.output = Some(bytes.clone());
    }
    Ok(reading)
}

/// The reason why an open call has not started, and what happens next; `None` when it is not known.
#[must_use]
pub fn why_waiting(view: &View, record: &CallRecord) -> Option<String> {
    if !CallStateFilter::Queued.passes(record.state) {
        return None;
    }
    let until = rfc3339(record.header.accepted_ms.saturating_add(record.header.ttl_ms));
    if record.state == CallState::Open(Phase::Asking) {
        return Some(format!("somebody has to say yes, until {until}; `sigil approvals` shows who may"));
    }
    let node = view.by_peer(&record.header.target)?;
    let ends = [view.by_peer(&record.origin), Some(node)];
    if let Some((of, why)) = ends.into_iter().flatten().find_map(|node| Some((node, node.untagged?))) {
        let name = &of.node_id;
        return Some(format!(
            "`{name}` was let in for its tag on the tailnet, and {}; it waits until {until}, `sigil doctor` says what to do",
            why.sentence()
        ));
    }
    if view.gateway.is_none() {
        return Some(format!("no gateway elected; it is dispatched when there is one, until {until}"));
    }
    if !is_online(view, node) {
        return Some(format!("`{}` is offline; it runs when that device is back, until {until}", node.node_id));
    }
    let tool = record.header.tool.folded();
    let at_once = node.tools().iter().find(|decl| decl.name.folded() == tool)?.at_once?;
    Some(format!("`{tool}` has at most {at_once} runs at once on `{}`; it waits its turn, until {until}", node.node_id))
}

/// A page of calls, newest first, with the outputs that are inside their records.
#[derive(Debug)]
pub struct Page {
    /// The calls.
    pub items: Vec<Reading>,
    /// Start of the next page.
    pub next: Option<CallCursor>,
}

/// Lists calls that concern the caller, newest first: those for the device that `node` names, those in `state`, at most `limit`.
///
/// # Errors
/// `node` is ambiguous or can be no name, or the mesh cannot answer.
pub async fn list(
    mesh: &MeshHandle,
    who: &Identity,
    node: Option<&str>,
    state: Option<CallStateFilter>,
    after: Option<CallCursor>,
    limit: usize,
) -> Result<Page, OpError> {
    let view = mesh.view();
    let node = node.map(|text| device_meant(&view, text)).transpose()?;
    let asker = who.calls_of(&view.rights);
    let CallPage { items, next } =
        mesh.calls(CallFilter { node, state, asker, ..CallFilter::default() }, after, limit).await?;
    let mut readings = Vec::with_capacity(items.len());
    for record in items {
        readings.push(read_through(mesh, record).await?);
    }
    Ok(Page { items: readings, next })
}

/// The output of a call, however large. Bytes that are on their way here are waited for, at most `wait`.
///
/// # Errors
/// [`ErrorCode::UnknownCall`], [`ErrorCode::NotEnded`], [`ErrorCode::NoOutput`]; or the bytes are on a device that
/// cannot be reached.
pub async fn result(mesh: &MeshHandle, who: &Identity, id: ReqId, wait: Duration) -> Result<ResultBody, OpError> {
    let reading = read_through(mesh, find(mesh, who, id).await?).await?;
    let record = reading.record();
    let state = record.state.as_str();
    if !reading.has_ended() {
        return Err(OpError::new(ErrorCode::NotEnded, format!("the call is {state}, so it has no result yet"))
            .with("state", state));
    }
    if record.output.is_empty() {
        let error = OpError::new(ErrorCode::NoOutput, format!("the call ended as {state} and gave no output"));
        let error = error.with("state", state);
        return Err(if record.reason.is_empty() { error } else { error.hint(record.reason.clone()) });
    }
    Ok(mesh.payloads().result(record, &record.output, wait).await?)
}

/// A part of a result.
#[derive(Debug)]
pub struct PartRead {
    /// Type of its bytes, as its device says.
    pub media_type: String,
    /// Its name; empty for none.
    pub name: String,
    /// Its bytes.
    pub body: ResultBody,
}

/// One part of the result of a call, however large. Bytes that are on their way here are waited for, at most `wait`.
///
/// # Errors
/// As [`result`]; [`ErrorCode::NoOutput`] where there is no such part.
pub async fn part(
    mesh: &MeshHandle,
    who: &Identity,
    id: ReqId,
    number: usize,
    wait: Duration,
) -> Result<PartRead, OpError> {
    let reading = read_through(mesh, find(mesh, who, id).await?).await?;
    let record = reading.record();
    if !reading.has_ended() {
        let state = record.state.as_str();
        return Err(OpError::new(ErrorCode::NotEnded, format!("the call is {state}, so it has no result yet"))
            .with("state", state));
    }
    let Some(part) = record.parts.get(number) else {
        let detail = format!("the result of the call has {} parts, counted from 0", record.parts.len());
        return Err(OpError::new(ErrorCode::NoOutput, detail).hint("GET the call: it lists its parts"));
    };
    let payload = part.payload.as_ref().unwrap_or(&record.output);
    let body = mesh.payloads().result(record, payload, wait).await?;
    check_again(mesh, who)?;
    Ok(PartRead { media_type: part.media_type.clone(), name: part.name.clone(), body })
}

/// Cancels a call, or the one that it repeats. One that has ended stays as it ended.
///
/// # Errors
/// `reason` is longer than [`REASON_MAX`], [`ErrorCode::UnknownCall`], or the mesh cannot answer.
pub async fn cancel(mesh: &MeshHandle, who: &Identity, id: ReqId, reason: Option<String>) -> Result<Reading, OpError> {
    let reason = reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "cancelled by its owner".to_owned());
    if reason.chars().count() > REASON_MAX {
        return Err(OpError::new(ErrorCode::Invalid, format!("reason may have at most {REASON_MAX} characters")));
    }
    let reading = read_through(mesh, find(mesh, who, id).await?).await?;
    if reading.has_ended() {
        return Ok(reading);
    }
    let asked = mesh.command(Command::Cancel { id: reading.record().header.id, reason }).await;
    let reading = read_through(mesh, find(mesh, who, id).await?).await?;
    match asked {
        Ok(_) => Ok(reading),
        // It ended in between: the book holds open calls only.
        Err(MeshError::Refused(Refusal::UnknownCall(_))) if reading.has_ended() => Ok(reading),
        Err(error) => Err(error.into()),
    }
}
