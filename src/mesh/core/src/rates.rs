//! Rates: how often somebody may use a tool, at the device where it is asked. Each pair of asker and tool has a bucket that
//! leaks (ITU-T I.371, "generic cell rate algorithm"); it is one number, the time at which it is empty.
//!
//! All agents of one person are one asker, since whoever asks for her may call itself by any name. Owners themselves have no
//! rate: they can do anything anyway. Nor has a device that asks for itself and has a budget, which is its rate.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::Rate;
use crate::ids::ToolName;
use crate::people::{PersonId, Principal, Role};

/// Most buckets that are kept; one that is empty is as good as none.
const BUCKETS_MAX: usize = 4_096;

/// A call that is refused since its asker uses its tool too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimited {
    /// The asker.
    pub who: Principal,
    /// The tool.
    pub tool: ToolName,
    /// Calls of one tool that one asker may make here.
    pub rate: Rate,
    /// When to try again, in milliseconds.
    pub retry_after_ms: u64,
}

impl fmt::Display for RateLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, tool, rate: Rate { per_s, burst }, .. } = self;
        let all = if matches!(who, Principal::Agent(..)) { ", all agents of one person together" } else { "" };
        write!(f, "{who} uses `{tool}` too often: {per_s} calls a second are taken here, {burst} at once{all}")
    }
}

/// True if calls of this asker are counted: of an owner's own they are not, nor of a device that asks for itself and has a
/// budget. `role`: of the person in the mesh.
#[must_use]
pub fn has_rate(principal: &Principal, role: Option<Role>, has_budget: bool) -> bool {
    match principal {
        Principal::Person(_) => role != Some(Role::Owner),
        Principal::Device(_) => !has_budget,
        Principal::Agent(..) => true,
    }
}

/// Whose calls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    /// A person or a device.
    Single(Principal),
    /// All agents of a person.
    AgentsOf(PersonId),
    /// Everyone for whom there was no bucket left.
    Rest,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    /// Microseconds, on our clock, at which each bucket is empty.
    empty_us: BTreeMap<(Asker, String), u64>,
}

impl Rates {
    /// Counts one more call.
    ///
    /// # Errors
    /// It is one too many, with the time after which there is room for it.
    pub(crate) fn ask(
        &mut self,
        principal: &Principal,
        tool: &ToolName,
        rate: Rate,
        now_ms: u64,
    ) -> Result<(), RateLimited> {
        let now = now_ms.saturating_mul(1_000);
        let asker = match principal {
            Principal::Agent(person, _) => Asker::AgentsOf(person.clone()),
            Principal::Person(_) | Principal::Device(_) => Asker::Single(principal.clone()),
        };
        let mut key = (asker, tool.folded().into_owned());
        if self.empty_us.len() >= BUCKETS_MAX && !self.empty_us.contains_key(&key) {
            self.empty_us.retain(|_, empty| *empty > now);
            if self.empty_us.len() >= BUCKETS_MAX {
                key = (Asker::Rest, String::new());
            }
        }
        let each = 1_000_000 / rate.per_s.max(1);
        let empty = self.empty_us.get(&key).copied().unwrap_or(0).max(now).saturating_add(each);
        let over = (empty - now).saturating_sub(each.saturating_mul(rate.burst.max(1)));
        if over > 0 {
            let (who, tool, retry_after_ms) = (principal.clone(), tool.clone(), over.div_ceil(1_000));
            return Err(RateLimited { who, tool, rate, retry_after_ms });
        }
        self.empty_us.insert(key, empty);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_s: 10, burst: 3 };

    fn ask(rates: &mut Rates, who: &str, tool: &str, now_ms: u64) -> Result<(), u64> {
        let asked = rates.ask(&who.parse().unwrap(), &tool.parse().unwrap(), RATE, now_ms);
        asked.map_err(|limited| limited.retry_after_ms)
    }

    #[test]
    fn so_many_are_had_at_once_and_the_rest_as_time_passes() {
        let mut rates = Rates::default();
        let mia = |rates: &mut Rates, now| ask(rates, "person:mia", "lights.on", now);
        assert_eq!((0..9).filter(|_| mia(&mut rates, 5).is_ok()).count(), 3);
        assert_eq!(mia(&mut rates, 5), Err(100));
        assert_eq!(mia(&mut rates, 104), Err(1));
        assert!(mia(&mut rates, 105).is_ok() && mia(&mut rates, 105).is_err());
        assert_eq!((0..9).filter(|_| mia(&mut rates, 60_000).is_ok()).count(), 3, "it holds no more after a pause");
    }

    #[test]
    fn whoever_comes_back_when_it_is_told_to_is_let_through() {
        let mut rates = Rates::default();
        let mut now = 0;
        for _ in 0..50 {
            while let Err(after) = ask(&mut rates, "person:mia", "lights.on", now) {
                assert!((1..=100).contains(&after), "{after}");
                now += after;
            }
        }
        assert_eq!(now, 4_700, "three at once, and ten a second from then on");
    }

    #[test]
    fn other_tools_and_askers_have_their_own_and_agents_of_one_person_share() {
        let mut rates = Rates::default();
        for _ in 0..3 {
            ask(&mut rates, "agent:mia/claude", "lights.on", 0).unwrap();
        }
        for other in ["agent:mia/other", "agent:mia/claude"] {
            assert!(ask(&mut rates, other, "Lights.On", 0).is_err(), "{other}: a name is no new bucket");
        }
        assert!(ask(&mut rates, "agent:mia/claude", "tv.on", 0).is_ok());
        assert!(ask(&mut rates, "agent:sean/claude", "lights.on", 0).is_ok());
        assert!(ask(&mut rates, "person:mia", "lights.on", 0).is_ok());
    }

    #[test]
    fn there_are_so_many_buckets_and_no_more() {
        let mut rates = Rates::default();
        for n in 0..BUCKETS_MAX + 50 {
            let _ = ask(&mut rates, "person:mia", &format!("t{n}"), 0);
        }
        assert_eq!(rates.empty_us.len(), BUCKETS_MAX + 1);
        assert!(ask(&mut rates, "person:mia", "another", 0).is_err(), "the rest share one");
        assert!(ask(&mut rates, "person:mia", "another", 10_000).is_ok());
        assert_eq!(rates.empty_us.len(), 1, "empty ones were let go");
    }
}
