//! Checks of a dispatch before it reaches the executor: whether this device is halted, whether the header is
//! for it, and whether the origin belongs and is the only one with its key. `Peer::handle_dispatch` checks link and
//! epoch before.

use crate::effects::Effects;
use crate::entry::Place;
use crate::facts::Facts;
use crate::frame::{AnswerKind, Dispatch};
use crate::ids::{ATTEMPTS_MAX, PeerId};
use crate::protocol_rule::ProtocolRule;
use crate::record::Header;

/// `Err` is the reason for rejecting a dispatch: it is not for this device, or its origin does not count here. The gateway's right
/// to dispatch was checked before.
pub(crate) fn screen(dispatch: &Dispatch, header: &Header, facts: &Facts<'_>, fx: &Effects<'_>) -> Result<(), String> {
    let reject = |why: &str| Err(why.to_owned());
    if let Some(reason) = facts.halt().filter(|_| fx.enforces(ProtocolRule::OwnRevocation)) {
        return Err(reason);
    }
    let place = dispatch.header.place();
    if !header.is_for(facts.logs.incarnation()) {
        return reject("this device was restored from an old state since");
    }
    let proper = header.target == facts.me()
        && header.id.is_of(&place.author)
        && dispatch.header.entry.audience.is_of_call(&place.author, &header.target)
        && dispatch.header.entry.mesh == facts.trust.mesh()
        && (1..=ATTEMPTS_MAX).contains(&dispatch.attempt)
        && header.is_within_limits();
    if !proper {
        return reject("the header is not one for this device");
    }
    if !facts.trust.admits(&place.author, place.incarnation, place.seq) {
        return reject("the call's origin does not belong to the mesh here");
    }
    Ok(())
}

/// The reason beyond trust for which nothing new of this author begins here, if there is one.
pub(crate) fn reason_to_defer(from: &PeerId, place: &Place, facts: &Facts<'_>) -> Option<AnswerKind> {
    if *from != facts.me() && !facts.logs.is_compared_with(from) {
        // A state that was restored shows in our own log first.
        return Some(AnswerKind::Busy);
    }
    let why = if facts.links.is_copied(&place.author, facts.now_ms) {
        "two devices use the key of the one that asks"
    } else if facts.logs.is_forked(&place.author, place.incarnation, place.seq) {
        "the one that asks contradicts its own log"
    } else {
        return None;
    };
    Some(AnswerKind::Rejected(why.to_owned()))
}
