//! Client keys, by which an asker that asks twice gets one call.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::TIMES;
use crate::effects::Effects;
use crate::facts::Facts;
use crate::ids::{Hash, PeerId, Series};
use crate::people::Principal;
use crate::protocol_rule::ProtocolRule;
use crate::record::{Header, Payload};
use crate::rows::{self, KeyRow, Row as _};
use crate::tiers;
use crate::trust::Trust;

/// Keys that one step forgets.
const FORGOTTEN_AT_ONCE: usize = 8;
/// Time for which a key outlives its call's TTL.
const AFTER_TTL_MS: u64 = 24 * 3600 * 1000;

/// Name of a client key in the store: the namespace of whose it is, principal and key, hashed together. Of a device that
/// asks for itself it is that device's, whatever its tier and whatever it is called by now.
pub(crate) fn key_id(origin: &PeerId, principal: &Principal, key: &str, trust: &Trust) -> Hash {
    if !trust.enforces(ProtocolRule::KeyScope) {
        return Hash::of(key.as_bytes());
    }
    let (namespace, principal) = match principal {
        Principal::Device(_) => (*origin, "device".to_owned()),
        Principal::Person(_) | Principal::Agent(..) => (tiers::namespace(origin, trust), principal.to_string()),
    };
    Hash::of(&[namespace.0.as_slice(), principal.as_bytes(), &[0], key.as_bytes()].concat())
}

/// Hash of all that two calls under one client key must agree in.
pub(crate) fn request_fingerprint(target: &PeerId, tool: &str, arguments: &Payload) -> Hash {
    Hash::of(&[target.0.as_slice(), tool.as_bytes(), &[0], &arguments.hash().0].concat())
}

/// The client keys that are bound here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    bound: BTreeMap<Hash, KeyRow>,
    /// Number of keys that the calls of each series have bound.
    by_series: BTreeMap<Series, usize>,
    /// Keys by the age of our store at which they may be forgotten.
    ends: BTreeSet<(u64, Hash)>,
}

impl Keys {
    /// Restores a row of [`crate::io::Space::Keys`]. `None`: it is damaged.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8], age_ms: u64) -> Option<()> {
        let row = KeyRow::from_bytes(value)?;
        let key = Hash::from_slice(key)?;
        if row.until_ms > age_ms {
            self.note(key, row);
        } else {
            self.ends.insert((row.until_ms, key));
        }
        Some(())
    }

    /// The call that a key is bound to.
    pub(crate) fn get(&self, key: &Hash) -> Option<&KeyRow> {
        self.bound.get(key)
    }

    /// Number of keys that calls of this origin have bound.
    pub(crate) fn count_of(&self, origin: &PeerId) -> usize {
        self.by_series.range(Series::all_of(origin)).map(|(_, keys)| keys).sum()
    }

    /// Binds the key of a call to it, unless its origin has too many. One that its target will deny binds nothing.
    pub(super) fn bind(&mut self, origin: &PeerId, header: &Header, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let Some(key) = &header.client_key else { return };
        if !facts.rights.permits(header, *origin) {
            return;
        }
        self.forget(fx);
        let max = facts.config().budgets.of(facts.trust.tier(origin)).keys * TIMES as usize;
        let key = key_id(origin, &header.principal, key, facts.trust);
        if self.count_of(origin) >= max || self.bound.contains_key(&key) {
            return;
        }
        let fingerprint = request_fingerprint(&header.target, header.tool.as_str(), &header.arguments);
        let until_ms = fx.age_ms + header.ttl_ms + AFTER_TTL_MS;
        let row = KeyRow { id: header.id, fingerprint, target: header.target, until_ms };
        fx.put(rows::client_key(&key), &row);
        self.note(key, row);
    }

    fn note(&mut self, key: Hash, row: KeyRow) {
        *self.by_series.entry(row.id.series()).or_default() += 1;
        self.ends.insert((row.until_ms, key));
        self.bound.insert(key, row);
    }

    /// Forgets some keys whose time is over. Before keys are counted: or whoever has used up all of his would stay so.
    pub(crate) fn forget(&mut self, fx: &mut Effects<'_>) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let Some((_, key)) = self.ends.first().copied().filter(|(until_ms, _)| *until_ms <= fx.age_ms) else {
                return;
            };
            self.ends.pop_first();
            fx.delete(rows::client_key(&key));
            let series = self.bound.remove(&key).map(|row| row.id.series());
            if let Some(keys) = series.and_then(|series| self.by_series.get_mut(&series)) {
                *keys = keys.saturating_sub(1);
            }
        }
    }
}
