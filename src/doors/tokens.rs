//! Bearer tokens of the loopback door.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mesh_core::ids::Hash;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

/// Tokens kept; a new one beyond pushes out the one that has been unused for the longest time.
pub const TOKENS_MAX: usize = 32;

/// The tokens of a home. Only SHA-256 hashes are kept: the plain token is shown once, when it is made.
/// (A token has 256 random bits, so a slow password hash would add nothing.)
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    /// Most recently used last.
    hashes: Mutex<Vec<Hash>>,
}

impl TokenStore {
    /// Reads the tokens of a home; a missing file means that there are none.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut hashes = Vec::new();
        for line in text.lines() {
            let hash = data_encoding::HEXLOWER.decode(line.trim().as_bytes()).ok().and_then(|b| Hash::from_slice(&b));
            hashes.push(hash.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the token file holds a line that is not a SHA-256 in hex")
            })?);
        }
        Ok(Self { path, hashes: Mutex::new(hashes) })
    }

    /// Makes a token: the only moment at which it can be read. Blocks on the disk.
    ///
    /// # Errors
    /// No entropy, or the file cannot be written: then there is no new token.
    pub fn mint(&self) -> io::Result<String> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| io::Error::other("the system gives no random bytes"))?;
        let token = format!("sigil_{}", data_encoding::BASE32_NOPAD.encode(&secret).to_ascii_lowercase());
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = hashes.clone();
        if next.len() >= TOKENS_MAX {
            next.remove(0);
        }
        next.push(Hash::of(token.as_bytes()));
        self.write(&next)?;
        *hashes = next;
        Ok(token)
    }

    /// Revokes all tokens. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be written: then all tokens stay valid.
    pub fn revoke_all(&self) -> io::Result<()> {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&[])?;
        hashes.clear();
        Ok(())
    }

    /// True if this is a valid token. Takes the same time for every token that is not.
    #[must_use]
    pub fn knows(&self, token: &str) -> bool {
        let shown = Hash::of(token.as_bytes());
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (index, hash) in hashes.iter().enumerate() {
            if bool::from(hash.as_bytes().ct_eq(shown.as_bytes())) {
                found = Some(index);
            }
        }
        if let Some(index) = found {
            let hash = hashes.remove(index);
            hashes.push(hash);
        }
        found.is_some()
    }

    /// Replaces the file in one step, readable by its owner only.
    fn write(&self, hashes: &[Hash]) -> io::Result<()> {
        let mut text = String::new();
        for hash in hashes {
            let _ = writeln!(text, "{}", data_encoding::HEXLOWER.encode(hash.as_bytes()));
        }
        let fresh = self.path.with_extension("new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_restart_and_are_not_kept_in_plain() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let token = TokenStore::open(path.clone()).unwrap().mint().unwrap();
        let again = TokenStore::open(path.clone()).unwrap();
        assert!(again.knows(&token));
        assert!(!again.knows("sigil_") && !again.knows(""));
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&token));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        again.revoke_all().unwrap();
        assert!(!again.knows(&token));
        assert!(!TokenStore::open(path).unwrap().knows(&token));
    }

    #[test]
    fn the_token_unused_for_longest_goes_first() {
        let home = tempfile::tempdir().unwrap();
        let store = TokenStore::open(home.path().join("tokens")).unwrap();
        let tokens: Vec<_> = (0..TOKENS_MAX).map(|_| store.mint().unwrap()).collect();
        assert!(store.knows(&tokens[0]));
        store.mint().unwrap();
        assert!(store.knows(&tokens[0]));
        assert!(!store.knows(&tokens[1]));
    }
}
