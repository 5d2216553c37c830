//! Decisions of an owner about who belongs, and how membership changes are shown to others.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::entry::{self, SignedEntry};
use crate::epoch::{Claim, Fence};
use crate::facts::Facts;
use crate::frame::{EntryItem, Frame};
use crate::ids::{Hash, Incarnation, NodeId, PeerId, PublicKey};
use crate::io::{Refusal, Welcome};
use crate::limits;
use crate::nodes::Nodes;
use crate::protocol_rule::ProtocolRule;
use crate::record::{ChangeKind, MembershipChange, Stay, StayTerms, TaggedNode, Tier};
use crate::trust::Member;

/// The envelope of a membership change with its salt, and room to spare.
const ENVELOPE_BYTES_MAX: usize = 512;

/// `Err` unless this peer is an owner.
pub(crate) fn require_owner(facts: &Facts<'_>) -> Result<(), Refusal> {
    if facts.is_excluded_here() {
        Err(Refusal::NotMember)
    } else if facts.trust.is_owner(&facts.me()) {
        Ok(())
    } else {
        Err(Refusal::NotOwner)
    }
}

/// The name that an approval gives to a device.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Naming<'a> {
    /// This one, which a person saw, if the device belongs to no mesh yet: who belongs keeps the name by which it is called.
    First(&'a NodeId),
    /// This one, which the invite gives: the device comes anew, also where it is not known yet that it left.
    Invited(&'a NodeId),
    /// This one, for which the device itself asks, with an invite that names nobody. Who has a name that an owner gave or
    /// saw keeps that: nobody sheds it by another invite.
    Unseen(&'a NodeId),
}

/// The approval of a device; `None` when it belongs already, with that tier, under that name, and no stay is given to it.
pub(crate) fn approve(
    key: PublicKey,
    naming: Naming<'_>,
    (tier, stay): (Tier, Option<Stay>),
    facts: &Facts<'_>,
) -> Result<Option<MembershipChange>, Refusal> {
    require_owner(facts)?;
    let (trust, peer) = (facts.trust, key.peer_id());
    let known = trust.member(&peer);
    if known.is_none() && trust.membership().members.len() >= limits::PEERS_MAX {
        return Err(Refusal::Full(format!("a mesh has at most {} peers", limits::PEERS_MAX)));
    }
    let chosen = facts.nodes.chosen_names(trust);
    let (wanted, seen) = match (naming, known) {
        (Naming::First(_), Some(member)) if member.tier == tier => (&member.node_id, true),
        // What it is called is what a person sees who gives it another tier.
        (Naming::First(_), Some(member)) => (chosen.get(&peer).unwrap_or(&member.node_id), true),
        (Naming::Unseen(_), Some(member)) if member.confirmed => (&member.node_id, true),
        (Naming::Unseen(name), _) => (name, false),
        (Naming::First(name) | Naming::Invited(name), _) => (name, true),
    };
    let is_named =
        |member: &Member| member.node_id == *wanted && (member.confirmed || !matches!(naming, Naming::Invited(_)));
    // Who was let in for a tag needs it no more once a person has let it in.
    let is_as_wanted = |member: &Member| member.tier == tier && member.of.is_none() && is_named(member);
    if stay.is_none() && known.is_some_and(is_as_wanted) {
        return Ok(None);
    }
    let node_id = trust.free_name(wanted, &peer, seen, &chosen);
    say_approved(key, Terms { tier, stay, of: None }, node_id, seen, facts).map(Some)
}

/// The approval of a device for the tag of its node of a tailnet; `None` when it belongs already, by whatever approval. A tag
/// lets nobody in who was removed or has left: a person does.
pub(crate) fn approve_tagged(
    key: PublicKey,
    node_id: &NodeId,
    (tier, of): (Tier, TaggedNode),
    facts: &Facts<'_>,
) -> Result<Option<MembershipChange>, Refusal> {
    require_owner(facts)?;
    let (trust, peer) = (facts.trust, key.peer_id());
    if trust.member(&peer).is_some() {
        return Ok(None);
    }
    if trust.membership().members.len() >= limits::PEERS_MAX {
        return Err(Refusal::Full(format!("a mesh has at most {} peers", limits::PEERS_MAX)));
    }
    if trust.is_excluded(&peer) || !trust.known_about(&peer).is_empty() {
        return Err(Refusal::Invalid("it belonged before, and a tag lets nobody in again".to_owned()));
    }
    if tier == Tier::Ephemeral || !of.is_within_limits() {
        return Err(Refusal::Invalid(
            "a tag lets in shared devices and owners, each for a node of a tailnet".to_owned(),
        ));
    }
    // No owner has seen the name.
    let node_id = trust.free_name(node_id, &peer, false, &facts.nodes.chosen_names(trust));
    say_approved(key, Terms { tier, stay: None, of: Some(of) }, node_id, false, facts).map(Some)
}

/// An owner gives a member the name that rights are to know it by: an approval to the tier that it has.
pub(crate) fn rename(peer: PeerId, name: &NodeId, facts: &Facts<'_>) -> Result<Option<MembershipChange>, Refusal> {
    require_owner(facts)?;
    let trust = facts.trust;
    let member = trust.member(&peer).ok_or_else(|| Refusal::UnknownNode(peer.to_string()))?;
    if member.tier == Tier::Owner {
        return Err(Refusal::Invalid("an owner's device chooses its name itself: rename it there".to_owned()));
    }
    if member.confirmed && member.node_id == *name {
        return Ok(None);
    }
    require_free(name, Some(&peer), facts)?;
    let terms = Terms { tier: member.tier, stay: member.stay.clone(), of: member.of.clone() };
    say_approved(member.key, terms, name.clone(), true, facts).map(Some)
}

/// An ephemeral device has made the one call that it was let in for: it may ask for nothing more, and stays long enough to
/// read the result.
pub(crate) fn let_read(peer: &PeerId, now_ms: u64, facts: &Facts<'_>) -> Result<Option<MembershipChange>, Refusal> {
    let Some(member) = facts.trust.member(peer) else { return Ok(None) };
    let ends_ms = now_ms.saturating_add(limits::STAY_AFTER_CALL_MS);
    let until_ms = member.stay.as_ref().map_or(ends_ms, |stay| stay.until_ms.min(ends_ms));
    let stay = Stay { until_ms, scope: Some(Vec::new()), one_time: true };
    let terms = Terms { tier: Tier::Ephemeral, stay: Some(stay), of: member.of.clone() };
    say_approved(member.key, terms, member.node_id.clone(), member.confirmed, facts).map(Some)
}

/// `Err` unless these terms may be given: to an ephemeral device, within their limits.
pub(crate) fn may_stay(tier: Tier, stay: Option<&StayTerms>) -> Result<(), Refusal> {
    match stay {
        Some(stay) if tier != Tier::Ephemeral || !stay.is_within_limits() => Err(Refusal::Invalid(format!(
            "a device stays for up to {} days, with up to {} patterns of tools, and is neither owner nor shared",
            limits::STAY_MS_MAX / (24 * 3_600_000),
            limits::STAY_SCOPE_MAX
        ))),
        Some(_) | None => Ok(()),
    }
}

/// `Err` if an invite of ours may not say so.
pub(crate) fn may_invite(
    name: Option<&NodeId>,
    (tier, stay): (Tier, Option<&StayTerms>),
    facts: &Facts<'_>,
) -> Result<(), Refusal> {
    require_owner(facts)?;
    may_stay(tier, stay)?;
    name.map_or(Ok(()), |name| require_free(name, None, facts))
}

/// `Err` if another than `of` has this name, but for who took it by itself.
fn require_free(name: &NodeId, of: Option<&PeerId>, facts: &Facts<'_>) -> Result<(), Refusal> {
    let chosen = facts.nodes.chosen_names(facts.trust);
    if facts.trust.names_of_others(of, true, &chosen).contains(name) || Nodes::begins_an_id(name, facts.trust) {
        return Err(Refusal::NameTaken(name.clone()));
    }
    Ok(())
}

/// All that an approval gives but the name, and what it rests on.
struct Terms {
    tier: Tier,
    stay: Option<Stay>,
    of: Option<TaggedNode>,
}

fn say_approved(
    key: PublicKey,
    Terms { tier, stay, of }: Terms,
    node_id: NodeId,
    seen: bool,
    facts: &Facts<'_>,
) -> Result<MembershipChange, Refusal> {
    let trust = facts.trust;
    let after = trust.known_about(&key.peer_id());
    if after.len() > limits::CHANGES_NAMED_MAX {
        return Err(Refusal::NeedsNewKey);
    }
    let change = change(key, ChangeKind::Approved { tier, node_id, after, unseen: !seen, stay, of }, facts)?;
    // Before it is signed: what is not kept would let in nobody, and the invite would be used up.
    if trust.has_room(&facts.me(), ENVELOPE_BYTES_MAX + entry::encode(&change).len()) {
        Ok(change)
    } else {
        Err(Refusal::Invalid(
            "this mesh holds as many approvals and revocations by you as it has room for; let another owner approve the device"
                .to_owned(),
        ))
    }
}

/// Manner in which a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revoking {
    /// It leaves; it is ourselves.
    Leave,
    /// It is removed. What it said about rights stands as far as we hold it.
    Plain,
    /// It is removed, and what it said about rights with it.
    Unsaid,
}

impl Revoking {
    /// That of another, by what becomes of what it said about rights.
    pub(crate) const fn removal(unsaid: bool) -> Self {
        if unsaid { Self::Unsaid } else { Self::Plain }
    }
}

/// The revocation of a peer.
pub(crate) fn revoke(peer: PeerId, how: Revoking, facts: &Facts<'_>) -> Result<MembershipChange, Refusal> {
    let (left, unsaid) = (how == Revoking::Leave, how == Revoking::Unsaid);
    if !left {
        require_owner(facts)?;
    }
    let membership = facts.trust.membership();
    let member = membership.members.get(&peer).map(|member| member.key);
    // No is an answer too.
    let awaiting = || membership.awaiting_reapproval.get(&peer).map(|awaiting| awaiting.key);
    let key = member.or_else(awaiting).ok_or_else(|| Refusal::UnknownNode(peer.to_string()))?;
    let cutoffs = cutoffs(&peer, facts).into_iter().collect();
    let change = change(key, ChangeKind::Revoked { cutoffs, left, unsaid }, facts)?;
    if peer == facts.me() && !left {
        return Err(Refusal::Invalid("to remove this device itself, use leave".to_owned()));
    }
    Ok(change)
}

/// A change as we sign it. `Err` when it leaves no owner where others remain.
fn change(subject: PublicKey, what: ChangeKind, facts: &Facts<'_>) -> Result<MembershipChange, Refusal> {
    let (trust, peer) = (facts.trust, subject.peer_id());
    let members = &trust.membership().members;
    let (removes, raises) = match what {
        ChangeKind::Approved { tier, .. } => (false, tier == Tier::Owner),
        ChangeKind::Revoked { .. } => (true, false),
    };
    let remain = members.keys().any(|member| !removes || *member != peer);
    let owners = members.iter().filter(|(_, member)| member.tier == Tier::Owner);
    if remain && !raises && owners.filter(|(owner, _)| **owner != peer).count() == 0 {
        return Err(Refusal::LastOwner);
    }
    let grant = trust.member(&facts.me()).ok_or(Refusal::NotMember)?.grant;
    let stands = if raises { Vec::new() } else { trust.statements(&peer) };
    let lowers = matches!(what, ChangeKind::Approved { .. }) && !raises && trust.may_say_rights(&peer);
    let rights = if lowers { cutoffs(&peer, facts).into_iter().collect() } else { Vec::new() };
    let fence = if raises { 0 } else { facts.election.fence().epoch.counter };
    Ok(MembershipChange { subject, grant, stands, rights, fence, what })
}

/// Places up to which we hold what `peer` wrote that counts: of its logs, and of changes that came before their place.
fn cutoffs(peer: &PeerId, facts: &Facts<'_>) -> BTreeMap<Incarnation, u64> {
    let mut cutoffs = facts.trust.cutoffs(peer);
    for (incarnation, seq) in facts.logs.incarnations(peer) {
        let stands = facts.trust.standing(peer, incarnation, seq);
        let cutoff = cutoffs.entry(incarnation).or_default();
        *cutoff = stands.max(*cutoff);
    }
    cutoffs
}

/// All that a newcomer needs. It always fits into one message: all changes that are held do, and directories are bounded
/// in number and bytes.
pub(crate) fn welcome(peer: &PeerId, facts: &Facts<'_>) -> Result<Welcome, Refusal> {
    let member = facts.trust.member(peer).ok_or(Refusal::NotMember)?;
    let tells_rights = facts.trust.enforces(ProtocolRule::WelcomePolicy);
    Ok(Welcome {
        mesh: facts.trust.mesh(),
        trust: facts.trust.records_in_order(),
        directory: small_directories(facts),
        rights: facts.rights.in_force().filter(|_| tells_rights).cloned().collect(),
        fence: proven_fence(facts),
        node_id: member.node_id.clone(),
        tier: member.tier,
    })
}

/// The latest directories of members, the smallest first, up to [`limits::WELCOME_DIRECTORIES_MAX`] and
/// [`limits::WELCOME_DIRECTORIES_BYTES_MAX`].
fn small_directories(facts: &Facts<'_>) -> Vec<SignedEntry> {
    let of_members = facts.nodes.entries().filter(|entry| facts.trust.member(&entry.author).is_some());
    let mut entries: Vec<&SignedEntry> = of_members.collect();
    entries.sort_by_key(|entry| entry.len());
    let mut bytes = 0;
    let fits = entries.into_iter().take(limits::WELCOME_DIRECTORIES_MAX).take_while(|entry| {
        bytes += entry.len();
        bytes <= limits::WELCOME_DIRECTORIES_BYTES_MAX
    });
    fits.cloned().collect()
}

/// The fence with a proof: one of our own that does not lead yet, or not any more since a restart, we sign for.
fn proven_fence(facts: &Facts<'_>) -> Fence {
    let mut fence = facts.election.fence().clone();
    if fence.proof.is_none() && fence.epoch.peer == facts.me() {
        fence.proof = Some(Claim::sign(facts.local.signer.as_ref(), facts.trust.mesh(), fence.epoch, 1));
    }
    fence
}

/// Shows a peer all membership changes, in an order in which each author is known before it speaks.
pub(crate) fn send_records(to: PeerId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
    let records = facts.trust.records_in_order().into_iter().filter(|entry| facts.logs.may_show(entry));
    for frame in in_frames(records) {
        fx.send(to, frame);
    }
}

/// Shows a peer that it is excluded: what is said of it and, that it may believe that, of those who said so.
pub(crate) fn send_exclusion(to: PeerId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
    let records = facts.trust.records_about(&to).into_iter().filter(|entry| facts.logs.may_show(entry));
    for frame in in_frames(records) {
        fx.send(to, frame);
    }
}

/// Shows peers changes that no log brings, since their place is void: those go from hand to hand.
pub(crate) fn send_void(void: &[Hash], to: &[PeerId], facts: &Facts<'_>, fx: &mut Effects<'_>) {
    let entries: Vec<SignedEntry> = void
        .iter()
        .filter_map(|hash| facts.trust.record(hash))
        .filter(|entry| facts.logs.may_show(entry))
        .cloned()
        .collect();
    if entries.is_empty() {
        return;
    }
    for peer in to {
        for frame in in_frames(entries.iter().cloned()) {
            fx.send(*peer, frame);
        }
    }
}

/// Entries in as many frames as it takes, none over [`limits::SYNC_BYTES_MAX`] unless a single entry is.
pub(crate) fn in_frames(records: impl Iterator<Item = SignedEntry>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut entries = Vec::new();
    let mut bytes = 0;
    for entry in records {
        if bytes > 0 && bytes + entry.len() > limits::SYNC_BYTES_MAX {
            frames.push(Frame::Entries { entries: std::mem::take(&mut entries), more: false });
            bytes = 0;
        }
        bytes += entry.len();
        entries.push(EntryItem { entry, left_ms: None });
    }
    frames.push(Frame::Entries { entries, more: false });
    frames
}
