//! The rule of a mesh without workspaces, as the points of a call ask it: by tiers, which devices may call which tools. Asked at acceptance, when the target takes a dispatch, and
//! again after `started` is durable. What else keeps a call from running is checked by `Peer::handle_dispatch`,
//! [`crate::executor`] and [`Facts::hold`].

use crate::facts::Facts;
use crate::ids::PeerId;
use crate::protocol_rule::ProtocolRule;
use crate::record::{Header, Tier, ToolDecl};
use crate::trust::Trust;

/// Reason for which a call of a device that was removed, or awaits re-approval, does not run.
pub(crate) const STRANGER: &str = "the device that asked does not belong to the mesh any more";

/// Decides if a device may call a tool as its node declares it: owner-tier devices every one, others those that are not
/// for owners only. `Err` is the reason, for people.
pub(crate) fn permits(origin: &PeerId, tool: &ToolDecl, facts: &Facts<'_>) -> Result<(), String> {
    let Some(tier) = facts.trust.tier(origin) else { return Err(STRANGER.to_owned()) };
    if tier != Tier::Owner && tool.owner_only && facts.trust.enforces(ProtocolRule::Tier) {
        return Err(format!(
            "`{}` may be called by devices of tier owner only, and the one that asks is {tier:?}",
            tool.name
        ));
    }
    Ok(())
}

/// The same of a call as its header says it, by what is known of its target's tools here.
pub(crate) fn permits_call(origin: &PeerId, header: &Header, facts: &Facts<'_>) -> bool {
    let declared = facts.nodes.declared(&header.target, header.tool.as_str());
    declared.is_some_and(|tool| permits(origin, tool, facts).is_ok())
}

/// True if a device may be chosen for a call that names none: ourselves, and owners, who may see its arguments anyway.
/// Everyone else gets only what is meant for it by name, whatever tools it says it has.
pub(crate) fn may_be_chosen(peer: &PeerId, facts: &Facts<'_>) -> bool {
    *peer == facts.me() || facts.trust.is_owner(peer) || !facts.trust.enforces(ProtocolRule::AnyIsOwners)
}

/// The namespace of an origin's client keys. The owners of a mesh share one, since a script of theirs may ask from any
/// of their devices; everyone else has his own, so that nobody takes a key of another's.
pub(crate) fn namespace(origin: &PeerId, trust: &Trust) -> PeerId {
    if trust.is_owner(origin) { PeerId([0; 32]) } else { *origin }
}

/// The same at the target, of what it declares itself.
pub(crate) fn permits_here(origin: &PeerId, header: &Header, facts: &Facts<'_>) -> Result<(), String> {
    match facts.nodes.declared(&facts.me(), header.tool.as_str()) {
        Some(tool) => permits(origin, tool, facts),
        None if facts.trust.tier(origin).is_none() => Err(STRANGER.to_owned()),
        None => Err(format!("this node offers no tool `{}`", header.tool)),
    }
}
