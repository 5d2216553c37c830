//! Tokens of the loopback door: made and revoked through the socket only, so that a stolen token cannot renew itself. Each
//! is a record of the mesh, and opens the doors of every device that speaks for its holder.

use std::time::Duration;

use mesh_core::io::{Edit, View};
use mesh_core::policy::{Key, NodePattern, Principal, Title, Token, TokenId, ToolPattern, Value};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::policy::{Held, write};
use crate::doors::identity::Identity;
use crate::doors::tokens::{Tokens, hash_of, is_over};
use crate::mesh::MeshHandle;
use crate::mesh::clock::now;
use crate::status::{ErrorCode, OpError};

/// Longest name of a token, in characters.
pub const TOKEN_NAME_MAX: usize = mesh_core::policy::bounds::TITLE_CHARS_MAX;
/// Longest lifetime of a token that has one: ten years.
pub const TOKEN_TTL_MAX: Duration = Duration::from_hours(10 * 365 * 24);
/// The view follows the answer of the mesh within one step of the driver; a second is far more.
const SHOWS_WITHIN: Duration = Duration::from_secs(1);
/// Characters of a token's id: with 50 bits of its hash no two of a mesh are called alike.
const ID_CHARS: usize = 10;

/// Terms of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenTerms {
    /// For people; may be empty.
    pub name: Title,
    /// Whom it is for; `None` = whoever sits at this device.
    pub holder: Option<Principal>,
    /// Devices that it opens; `None` = all that its holder may use, empty = none.
    pub nodes: Option<Vec<NodePattern>>,
    /// Tools that it opens; `None` = all that its holder may use, empty = none.
    pub tools: Option<Vec<ToolPattern>>,
    /// True if it only reads.
    pub read_only: bool,
    /// Time until it ends, 1 s to [`TOKEN_TTL_MAX`]; `None` = never.
    pub ttl: Option<Duration>,
}

/// A token as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its id.
    pub id: TokenId,
    /// All that is said of it.
    pub said: Token,
    /// Wall time at which it was made.
    pub created_ms: u64,
    /// Wall time of its last use at this device since that started; `None` = not used.
    pub used_ms: Option<u64>,
}

/// Makes a token; with `ttl` it ends by itself. This is the only moment at which it can be read. Those that are over are
/// taken out on the way.
///
/// # Errors
/// The caller did not come by the socket, the terms are out of their limits, this is no device of an owner, who sits here
/// may make none for that holder, or the mesh has as many as it may: then there is no new token.
pub async fn mint(mesh: &MeshHandle, who: &Identity, terms: TokenTerms) -> Result<(String, TokenInfo), OpError> {
    socket_only(who)?;
    let TokenTerms { name, holder, nodes, tools, read_only, ttl } = terms;
    if ttl.is_some_and(|ttl| !(Duration::from_secs(1)..=TOKEN_TTL_MAX).contains(&ttl)) {
        let detail = format!("a token ends after 1 to {} seconds, or never", TOKEN_TTL_MAX.as_secs());
        return Err(OpError::new(ErrorCode::Invalid, detail));
    }
    let held = Held::of(mesh.view());
    let by = held.editor()?;
    let holder = holder.unwrap_or_else(|| by.clone());
    check_holder(&mesh.view(), &holder)?;
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| OpError::new(ErrorCode::Internal, "the system gives no random bytes"))?;
    let text = format!("sigil_{}", data_encoding::BASE32_NOPAD.encode(&secret).to_ascii_lowercase());
    let (hash, now_ms) = (hash_of(&text), now().wall_ms);
    let end = |ttl: Duration| now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let mut id = data_encoding::BASE32_NOPAD.encode(&hash.0).to_ascii_lowercase();
    id.truncate(ID_CHARS);
    let id: TokenId = id.parse()?;
    let said = Token { title: name, holder, hash, nodes, tools, read_only, expires_ms: ttl.map(end) };
    let view = mesh.view();
    let over = view.rights.tokens().filter(|(_, said)| is_over(said, now_ms)).map(|(id, _)| Key::Token(id.clone()));
    let mut changes: Vec<_> =
        over.filter(|key| view.rights.may_edit(&by, key, None).is_ok()).map(|key| (key, None)).collect();
    changes.push((Key::Token(id.clone()), Some(Value::Token(said.clone()))));
    write(mesh, Edit { by, changes, declared: false, force: false, seen: Vec::new() }).await?;
    let mut watch = mesh.watch_view();
    // If it takes longer, the token counts a moment after its answer.
    let _ = tokio::time::timeout(SHOWS_WITHIN, watch.wait_for(|view| view.rights.token(&id).is_some())).await;
    Ok((text, TokenInfo { id, said, created_ms: now_ms, used_ms: None }))
}

/// `Err` if the mesh knows of no such holder.
fn check_holder(view: &View, holder: &Principal) -> Result<(), OpError> {
    match holder {
        Principal::Person(person) | Principal::Agent(person, _) => {
            if person.is_owner() || view.rights.person(person).is_some() {
                return Ok(());
            }
            Err(OpError::new(ErrorCode::UnknownPerson, format!("nobody is called `{person}`"))
                .hint("`sigil person list` shows who is; `sigil person add` adds somebody"))
        }
        Principal::Device(node) => {
            if view.rights.known_as(node).is_some() {
                return Ok(());
            }
            if view.rights.named(node).is_some() {
                let detail = format!("device `{node}` named itself, and no owner has confirmed that");
                return Err(OpError::new(ErrorCode::UnknownNode, detail)
                    .hint(format!("`sigil rename {node} {node}` confirms it, or gives it another name")));
            }
            Err(OpError::new(ErrorCode::UnknownNode, format!("no device is called `{node}`"))
                .hint("`sigil nodes` lists the devices of this mesh"))
        }
    }
}

/// The tokens that concern the caller and are not over, the newest first; never the tokens themselves.
#[must_use]
pub fn list(mesh: &MeshHandle, who: &Identity, tokens: &Tokens) -> Vec<TokenInfo> {
    let (view, now_ms) = (mesh.view(), now().wall_ms);
    let shown = |(id, said): (&TokenId, &[Token])| {
        let said = said.first().filter(|_| !is_over(said, now_ms))?;
        let heads = view.said.heads(&Key::Token(id.clone()));
        let created_ms = heads.iter().map(|(_, statement)| statement.hlc >> 16).min().unwrap_or_default();
        let info = TokenInfo { id: id.clone(), said: said.clone(), created_ms, used_ms: tokens.used_ms(id) };
        who.may_see(&said.holder, &view.rights).then_some(info)
    };
    let mut list: Vec<_> = view.rights.tokens().filter_map(shown).collect();
    list.sort_by(|a, b| (b.created_ms, &a.id).cmp(&(a.created_ms, &b.id)));
    list
}

/// Revokes one token, at all devices.
///
/// # Errors
/// The caller did not come by the socket, there is no such token, this is no device of an owner, or who sits here may not.
pub async fn revoke(mesh: &MeshHandle, who: &Identity, id: TokenId) -> Result<(), OpError> {
    socket_only(who)?;
    if mesh.view().rights.token(&id).is_none() {
        return Err(OpError::new(ErrorCode::UnknownToken, "there is no token of that id")
            .hint("`sigil token --list` shows them"));
    }
    take_back(mesh, vec![Key::Token(id)]).await
}

/// Revokes all tokens of the mesh.
///
/// # Errors
/// The caller did not come by the socket, this is no device of an owner, or who sits here may not revoke one of them: then
/// none is.
pub async fn revoke_all(mesh: &MeshHandle, who: &Identity) -> Result<(), OpError> {
    socket_only(who)?;
    let keys = mesh.view().rights.tokens().map(|(id, _)| Key::Token(id.clone())).collect();
    take_back(mesh, keys).await
}

async fn take_back(mesh: &MeshHandle, keys: Vec<Key>) -> Result<(), OpError> {
    let by = Held::of(mesh.view()).editor()?;
    let changes = keys.into_iter().map(|key| (key, None)).collect();
    write(mesh, Edit { by, changes, declared: false, force: false, seen: Vec::new() }).await.map(drop)
}

fn socket_only(who: &Identity) -> Result<(), OpError> {
    who.require_socket("tokens are made and revoked", "run `sigil token` on this machine")
}
