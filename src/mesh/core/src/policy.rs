//! The rule of tiers: which devices may call which tools. Asked at acceptance, when the target takes a dispatch, and
//! again after `started` is durable. What else keeps a call from running is checked by `Peer::handle_dispatch`,
//! [`crate::executor`] and [`Facts::hold`].

use crate::facts::Facts;
use crate::ids::PeerId;
use crate::protocol_rule::ProtocolRule;
use crate::record::Header;
use crate::record::{Tier, ToolDecl};

/// Reason for which a call of a device that was removed, or awaits re-approval, does not run.
pub(crate) const STRANGER: &str = "the device that asked does not belong to the mesh any more";

/// Decides if a device may call a tool as its node declares it: owner-tier devices every one, others those that are not
/// for owners only. `Err` is the reason, for people.
pub(crate) fn permits(origin: &PeerId, tool: &ToolDecl, facts: &Facts<'_>) -> Result<(), String> {
    let Some(tier) = facts.trust.tier(origin) else { return Err(STRANGER.to_owned()) };
    if tool.owner_only && tier != Tier::Owner && facts.trust.enforces(ProtocolRule::Tier) {
        return Err(format!(
            "`{}` may be called by devices of tier owner only, and the one that asks is {tier:?}",
            tool.name
        ));
    }
    Ok(())
}

/// The same at the target, of what it declares itself.
pub(crate) fn permits_here(origin: &PeerId, header: &Header, facts: &Facts<'_>) -> Result<(), String> {
    match facts.nodes.declared(&facts.me(), header.tool.as_str()) {
        Some(tool) => permits(origin, tool, facts),
        None if facts.trust.tier(origin).is_none() => Err(STRANGER.to_owned()),
        None => Err(format!("this node offers no tool `{}`", header.tool)),
    }
}
