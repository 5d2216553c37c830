//! Invites that this peer handed out: open ones, and those that were used, for when their reply is lost.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::ids::{Hash, PublicKey};
use crate::io::{Now, Refusal};
use crate::limits;
use crate::record::Tier;
use crate::rows::{self, InviteRow, Row as _};

/// A used or expired invite is kept this long after its expiry, so that a repeated redemption gets a true answer.
const KEPT_MS: u64 = 3_600_000;

/// Answer to the secret of an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// The bearer is to be approved for this tier.
    Now(Tier),
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
        if row.expires_ms + KEPT_MS > now.wall_ms {
            self.0.insert(secret, row);
        }
        Some(())
    }

    /// Keeps a new invite, and forgets old ones.
    pub(crate) fn open(&mut self, secret: Hash, tier: Tier, ttl_ms: u64, fx: &mut Effects<'_>) -> Result<(), Refusal> {
        let now = fx.now.wall_ms;
        for (hash, _) in self.0.extract_if(.., |_, row| row.expires_ms + KEPT_MS < now) {
            fx.delete(rows::invite(&hash));
        }
        if self.0.values().filter(|row| row.used_by.is_none()).count() >= limits::INVITES_MAX {
            return Err(Refusal::Invalid(format!("{} invites are open already", limits::INVITES_MAX)));
        }
        let row = InviteRow { tier, expires_ms: now + ttl_ms, used_by: None };
        fx.put(rows::invite(&secret), &row);
        self.0.insert(secret, row);
        Ok(())
    }

    /// Somebody with this key shows the secret of an invite. `belongs`: it is a member already.
    pub(crate) fn redeem(
        &mut self,
        secret: Hash,
        key: PublicKey,
        belongs: bool,
        fx: &mut Effects<'_>,
    ) -> Result<Redeemed, Refusal> {
        let row = self.0.get_mut(&secret).ok_or(Refusal::InviteUnknown)?;
        match row.used_by {
            Some(used) if used == key && belongs => return Ok(Redeemed::Before),
            Some(_) => return Err(Refusal::InviteUsed),
            None if row.expires_ms <= fx.now.wall_ms => return Err(Refusal::InviteExpired),
            None => {}
        }
        row.used_by = Some(key);
        fx.put(rows::invite(&secret), row);
        Ok(Redeemed::Now(row.tier))
    }
}
