//! Check words: four words by which two people see that they mean the same device.
//!
//! They stand for its identity alone, so that they are the same on every screen, in every mesh and at every time: what
//! one device shows of another can be compared with what that one shows of itself. A link still proves the whole key.
//!
//! Each word is 11 bits of a hash that takes [`ROUNDS`] rounds of SHA-256, so a key that shows the words of another costs
//! 2^44 keys and 2^54 rounds to find (`docs/protocol.md`, Joining).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use mesh_core::ids::{Hash, PeerId};

/// Rounds of SHA-256 over an identity: as many as nobody notices on one, and as slow down whoever tries 2^44.
pub const ROUNDS: usize = 1024;

/// Sets this hash apart from every other of an identity.
const CONTEXT: &[u8] = b"sigil check words 1\0";

/// Identities whose words are remembered: those of a whole mesh, and strangers besides.
const REMEMBERED_MAX: usize = 4096;

/// 2,048 words in alphabetical order, no two of which begin with the same four letters: the English list of BIP-39, as the crate
/// `bip39` gives it to the public domain. It never changes.
static WORDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("check_words.txt").lines().collect());

static REMEMBERED: Mutex<BTreeMap<PeerId, CheckWords>> = Mutex::new(BTreeMap::new());

/// Four words of the list. They are shown with spaces, and read with spaces or hyphens, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckWords([u16; 4]);

/// A text that is not four words of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("check words are four words of the list, such as `amber canoe ...`: copy them as the other device shows them")]
pub struct NoCheckWords;

impl CheckWords {
    /// The words of a device.
    #[must_use]
    pub fn of(peer: &PeerId) -> Self {
        let mut remembered = REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = remembered.get(peer) {
            return *words;
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        let words = Self::compute(peer);
        remembered.insert(*peer, words);
        words
    }

    fn compute(peer: &PeerId) -> Self {
        let first = Hash::of(&[CONTEXT, &peer.0].concat());
        let hash = (1..ROUNDS).fold(first, |hash, _| Hash::of(&hash.0));
        let bits = hash.0.iter().take(6).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let word = |n: u32| u16::try_from(bits >> (48 - 11 * n) & 0x7ff).unwrap_or(0);
        Self([word(1), word(2), word(3), word(4)])
    }

    /// The words.
    #[must_use]
    pub fn words(self) -> [&'static str; 4] {
        self.0.map(|word| WORDS.get(usize::from(word)).copied().unwrap_or_default())
    }
}

impl fmt::Display for CheckWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}

impl FromStr for CheckWords {
    type Err = NoCheckWords;

    fn from_str(text: &str) -> Result<Self, NoCheckWords> {
        let mut words =
            text.split(|letter: char| letter == '-' || letter.is_whitespace()).filter(|word| !word.is_empty());
        let mut next = || {
            let word = words.next().ok_or(NoCheckWords)?.to_lowercase();
            let place = WORDS.binary_search(&word.as_str()).map_err(|_| NoCheckWords)?;
            u16::try_from(place).map_err(|_| NoCheckWords)
        };
        let read = Self([next()?, next()?, next()?, next()?]);
        if words.next().is_some() { Err(NoCheckWords) } else { Ok(read) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn s08_the_list_has_2048_words_that_cannot_be_taken_for_each_other() {
        assert_eq!(WORDS.len(), 2048);
        assert!(WORDS.is_sorted() && WORDS.iter().all(|word| (3..=8).contains(&word.len())));
        assert!(WORDS.iter().all(|word| word.bytes().all(|letter| letter.is_ascii_lowercase())));
        let beginnings: BTreeSet<_> = WORDS.iter().map(|word| word.get(..4).unwrap_or(word)).collect();
        assert_eq!(beginnings.len(), 2048);
        // What people have written down, or put into a script, stays true.
        let list = Hash::of(include_bytes!("check_words.txt"));
        assert_eq!(data_encoding::HEXLOWER.encode(list.as_bytes()), LIST);
        assert_eq!(CheckWords::of(&PeerId([7; 32])).to_string(), OF_SEVENS);
    }

    const LIST: &str = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda";
    const OF_SEVENS: &str = "usual renew voice focus";

    #[test]
    fn words_read_back_in_every_form_and_differ_from_device_to_device() {
        let (one, other) = (CheckWords::of(&PeerId([1; 32])), CheckWords::of(&PeerId([2; 32])));
        assert_ne!(one, other);
        assert_eq!(CheckWords::of(&PeerId([1; 32])), one);
        let shown = one.to_string();
        for form in [shown.clone(), shown.replace(' ', "-"), shown.to_uppercase(), format!("  {shown}\n")] {
            assert_eq!(form.parse(), Ok(one), "{form}");
        }
        for bad in [
            "",
            "abandon",
            "abandon ability able",
            "abandon ability able about above",
            "a b c d",
            "abandon ability able abouts",
        ] {
            assert_eq!(bad.parse::<CheckWords>(), Err(NoCheckWords), "{bad}");
        }
    }
}
