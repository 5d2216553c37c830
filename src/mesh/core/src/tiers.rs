//! What tiers alone decide about calls: who may be chosen for one that names no device, and whose client keys are one.
//! Who may call what is [`crate::policy::View::decide`]'s.

use crate::facts::Facts;
use crate::ids::PeerId;
use crate::protocol_rule::ProtocolRule;
use crate::trust::Trust;

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
