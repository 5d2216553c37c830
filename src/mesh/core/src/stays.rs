//! Ends of the stays of ephemeral devices (`docs/decisions/0081`): who is to go, when, and who says so.
//!
//! A stay ends by the clock that it began by, that of the device which approved it; so a wrong clock there makes it neither
//! longer nor shorter. Other owners end it some time later, in case that one is away. Of a device that was let in for one
//! call the gateway says that it has made it, with the call's own ending.

use crate::ids::PeerId;
use crate::io::Now;
use crate::limits;
use crate::trust::{Member, Trust};

/// Time between two tries of what could not be signed.
const AGAIN_MS: u64 = 1_000;

/// Something that an owner is to say about a stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Its time is over: the device goes.
    Removal(PeerId),
    /// Its one call is over: the device asks for nothing more, and goes once it has had time to read the result.
    LastRead(PeerId),
}

/// Stays as one owner sees them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stays {
    /// Before this nothing is tried again, on the clock of [`Now::mono_ms`].
    again_at: u64,
}

impl Stays {
    /// Everything that `me` is to say by now. `spent`: whose one call is over, as far as it was seen here; whoever begins to
    /// lead says it, if nobody has. `news`: one of them is new, and is said with the ending of its call.
    pub(crate) fn due(
        &mut self,
        trust: &Trust,
        me: &PeerId,
        (leads, news): (bool, bool),
        spent: impl Iterator<Item = PeerId>,
        now: Now,
    ) -> Vec<Due> {
        if self.again_at > now.mono_ms && !news {
            return Vec::new();
        }
        let is_over = |member: &Member| ends_ms(member, me).is_some_and(|end| end <= now.wall_ms);
        let over = all(trust).filter(|(_, member)| is_over(member)).map(|(peer, _)| Due::Removal(*peer));
        let mut due: Vec<Due> = over.collect();
        if leads {
            due.extend(spent.map(Due::LastRead));
        }
        if !due.is_empty() {
            self.again_at = now.mono_ms.saturating_add(AGAIN_MS);
        }
        due
    }

    /// When [`Self::due`] has something to say, on the clock of [`Now::mono_ms`]. `says_spent`: we lead, and somebody's one call
    /// is over.
    pub(crate) fn poll_timeout(self, trust: &Trust, me: &PeerId, says_spent: bool, now: Now) -> Option<u64> {
        if !trust.is_owner(me) {
            return None;
        }
        let ends = all(trust).filter_map(|(_, member)| ends_ms(member, me)).min();
        let ends = ends.map(|end_ms| now.mono_ms.saturating_add(end_ms.saturating_sub(now.wall_ms)));
        let spent = says_spent.then_some(now.mono_ms);
        Some(ends.into_iter().chain(spent).min()?.max(self.again_at))
    }
}

/// The members that stay for a while.
fn all(trust: &Trust) -> impl Iterator<Item = (&PeerId, &Member)> {
    let membership = trust.membership();
    membership.stays.iter().filter_map(|peer| membership.members.get_key_value(peer))
}

/// True of a member that was let in for one call, and of which nobody has said yet that it has made it.
pub(crate) fn has_its_call(member: &Member) -> bool {
    let stay = member.stay.as_ref().filter(|stay| stay.one_time);
    stay.is_some_and(|stay| stay.scope.as_ref().is_none_or(|scope| !scope.is_empty()))
}

/// Wall time at which `me` removes a member, if it stays for a while.
fn ends_ms(member: &Member, me: &PeerId) -> Option<u64> {
    let until_ms = member.stay.as_ref()?.until_ms;
    let grace_ms = if member.by == Some(*me) { 0 } else { limits::STAY_GRACE_MS };
    Some(until_ms.saturating_add(grace_ms))
}
