//! Bearer tokens of the loopback door. What they open is a record of the mesh, [`Token`]; here is only whether a text is one
//! of them, and when each was used last at this device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::ids::{Hash, PeerId};
use mesh_core::policy::{Principal, Token, TokenId, View};
use subtle::ConstantTimeEq;

/// Tokens of a mesh, as one door takes them.
#[derive(Debug, Default)]
pub struct Tokens {
    /// Wall time of the last use here since the start, in milliseconds.
    used_ms: Mutex<BTreeMap<TokenId, u64>>,
}

/// What a token is kept as: nothing leads back from it, since a token has 256 random bits.
#[must_use]
pub fn hash_of(text: &str) -> Hash {
    Hash::of(text.as_bytes())
}

/// True if it has expired, or if those who edited it without knowing of each other do not agree on what it is.
#[must_use]
pub fn is_over(said: &[Token], now_ms: u64) -> bool {
    let Some((first, rest)) = said.split_first() else { return true };
    let ends = said.iter().filter_map(|token| token.expires_ms).min();
    ends.is_some_and(|end| end <= now_ms)
        || rest.iter().any(|token| (&token.hash, &token.holder) != (&first.hash, &first.holder))
}

/// Whom a token is for, if it counts at this device now.
fn holder<'a>(said: &'a [Token], rights: &View, me: &PeerId, now_ms: u64) -> Option<&'a Principal> {
    let holder = &said.first()?.holder;
    (!is_over(said, now_ms) && rights.admits(me, holder)).then_some(holder)
}

/// A token that was shown, and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub id: TokenId,
    /// Whom it is for.
    pub holder: Principal,
    /// True if it calls nothing and changes nothing.
    pub read_only: bool,
    /// True if it opens whatever its holder may use.
    pub is_whole: bool,
}

impl Shown {
    /// True if it still counts at this device, and for the same.
    #[must_use]
    pub fn still_counts(&self, rights: &View, me: &PeerId, now_ms: u64) -> bool {
        let now = rights.token(&self.id).and_then(|said| holder(said, rights, me, now_ms));
        now == Some(&self.holder)
    }
}

impl Tokens {
    /// The token that this text is, if it counts at this device now. Takes the same time for every text that is none.
    pub fn find(&self, text: &str, rights: &View, me: &PeerId, now_ms: u64) -> Option<Arc<Shown>> {
        let shown = hash_of(text);
        let mut found = None;
        for (id, said) in rights.tokens() {
            for token in said {
                if bool::from(token.hash.as_bytes().ct_eq(shown.as_bytes())) {
                    found = Some((id, said));
                }
            }
        }
        let (id, said) = found?;
        let holder = holder(said, rights, me, now_ms)?;
        let mut used = self.used_ms.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are gone leave with the next one that is used.
        used.retain(|id, _| rights.token(id).is_some());
        used.insert(id.clone(), now_ms);
        drop(used);
        Some(Arc::new(Shown {
            id: id.clone(),
            holder: holder.clone(),
            read_only: said.iter().any(|token| token.read_only),
            is_whole: said.iter().all(|token| token.nodes.is_none() && token.tools.is_none()),
        }))
    }

    /// Wall time of the last use at this device since it started, in milliseconds.
    #[must_use]
    pub fn used_ms(&self, id: &TokenId) -> Option<u64> {
        self.used_ms.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn token(text: &str, holder: &str, expires_ms: Option<u64>) -> Token {
        let holder: Principal = holder.parse().unwrap();
        let hash = hash_of(text);
        Token { title: "".parse().unwrap(), holder, hash, nodes: None, tools: None, read_only: false, expires_ms }
    }

    #[test]
    fn s28_the_earliest_end_of_those_that_were_said_ends_it() {
        let one = token("a", "person:mia", Some(NOW));
        let only = std::slice::from_ref(&one);
        assert!(!is_over(only, NOW - 1) && is_over(only, NOW) && is_over(&[], 0));
        let later = token("a", "person:mia", Some(NOW + 9));
        assert!(is_over(&[later.clone(), one.clone()], NOW) && !is_over(&[later, one.clone()], NOW - 1));
        for other in [token("b", "person:mia", None), token("a", "person:kai", None)] {
            assert!(is_over(&[one.clone(), other], 0), "two tokens in one are none");
        }
    }
}
