//! Invites that this peer handed out: open ones, and those that were used, for when their reply is lost.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::ids::{Hash, NodeId, PublicKey};
use crate::io::{Now, Refusal};
use crate::limits;
use crate::record::{StayTerms, Tier};
use crate::rows::{self, InviteRow, Row as _};

/// A used or expired invite is kept this long after its expiry, so that a repeated redemption gets a true answer.
const KEPT_MS: u64 = 3_600_000;

/// Answer to the secret of an invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// The bearer is to be approved.
    Now {
        /// For this tier.
        tier: Tier,
        /// As an ephemeral device, how long and what for.
        stay: Option<StayTerms>,
        /// Under this name; `None`: under the one for which it asks.
        name: Option<NodeId>,
    },
    /// This very key was approved by it before: its reply was lost.
    Before,
}

/// All invites, by the hash of their secrets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Invites(BTreeMap<Hash, InviteRow>);

impl Invites {
    /// Restores a row of [`crate::io::Space::Invites`]. `None`: it is damaged.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8], now: Now) -> Option<()> {
        let (secret, row) = (Hash::from_slice(key)?, InviteRow::from_bytes(value)?);
        if row.expires_ms.saturating_add(KEPT_MS) > now.wall_ms {
            self.0.insert(secret, row);
        }
        Some(())
    }

    /// Keeps a new invite, and forgets old ones.
    pub(crate) fn open(
        &mut self,
        secret: Hash,
        (tier, stay): (Tier, Option<StayTerms>),
        ttl_ms: u64,
        name: Option<NodeId>,
        fx: &mut Effects<'_>,
    ) -> Result<(), Refusal> {
        let now = fx.now.wall_ms;
        for (hash, _) in self.0.extract_if(.., |_, row| row.expires_ms.saturating_add(KEPT_MS) < now) {
            fx.delete(rows::invite(&hash));
        }
        let is_open = |row: &&InviteRow| row.used_by.is_none() && !row.void && row.expires_ms > now;
        if self.0.values().filter(is_open).count() >= limits::INVITES_MAX {
            return Err(Refusal::Full(format!("{} invites are open already", limits::INVITES_MAX)));
        }
        if self.0.len() >= limits::INVITES_KEPT_MAX {
            // The one that has been over for longest tells nobody anything any more.
            let over = self.0.iter().filter(|(_, row)| !is_open(row)).min_by_key(|(_, row)| row.created_ms);
            if let Some(hash) = over.map(|(hash, _)| *hash) {
                self.0.remove(&hash);
                fx.delete(rows::invite(&hash));
            }
        }
        let expires_ms = now.saturating_add(ttl_ms);
        let row = InviteRow { tier, created_ms: now, expires_ms, used_by: None, void: false, name, stay };
        fx.put(rows::invite(&secret), &row);
        self.0.insert(secret, row);
        Ok(())
    }

    /// The answer to somebody with this key that shows the secret of an invite. `belongs`: it is a member already.
    pub(crate) fn judge(&self, secret: &Hash, key: PublicKey, belongs: bool, now: Now) -> Result<Redeemed, Refusal> {
        let row = self.0.get(secret).ok_or(Refusal::InviteUnknown)?;
        match row.used_by {
            Some(used) if used == key && belongs => Ok(Redeemed::Before),
            Some(_) => Err(Refusal::InviteUsed),
            None if row.void => Err(Refusal::InviteVoid),
            None if row.expires_ms <= now.wall_ms => Err(Refusal::InviteExpired),
            None => Ok(Redeemed::Now { tier: row.tier, stay: row.stay.clone(), name: row.name.clone() }),
        }
    }

    /// The invite has let in whoever has this key.
    pub(crate) fn use_up(&mut self, secret: Hash, key: PublicKey, fx: &mut Effects<'_>) {
        if let Some(row) = self.0.get_mut(&secret) {
            row.used_by = Some(key);
            fx.put(rows::invite(&secret), row);
        }
    }

    /// Takes an invite back. Harmless when that was done before.
    pub(crate) fn void(&mut self, secret: Hash, fx: &mut Effects<'_>) -> Result<(), Refusal> {
        let row = self.0.get_mut(&secret).ok_or(Refusal::InviteUnknown)?;
        if row.used_by.is_some() {
            return Err(Refusal::InviteUsed);
        }
        row.void = true;
        fx.put(rows::invite(&secret), row);
        Ok(())
    }

    /// Takes all open ones back: this store may be older than their use.
    pub(crate) fn void_all(&mut self, fx: &mut Effects<'_>) {
        for (secret, row) in self.0.iter_mut().filter(|(_, row)| row.used_by.is_none() && !row.void) {
            row.void = true;
            fx.put(rows::invite(secret), row);
        }
    }

    /// All that are kept, by the hash of their secrets.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Hash, &InviteRow)> {
        self.0.iter()
    }
}
