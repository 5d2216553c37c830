//! Bearer tokens of the loopback door.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mesh_core::ids::Hash;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::doors::identity::Access;

/// Tokens kept; a new one beyond pushes out the one that has been unused for the longest time.
pub const TOKENS_MAX: usize = 32;
/// The last use of a token is written down when the one on disk is older than this.
const USE_NOTED_EVERY_MS: u64 = 3_600_000;

/// Terms of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenTerms {
    /// For people; may be empty.
    pub name: String,
    /// Wall time at which it ends; `None` = never.
    pub expires_ms: Option<u64>,
    /// True if it only reads.
    pub read_only: bool,
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its short name: 10 characters of its hash.
    pub id: String,
    /// Its terms.
    pub terms: TokenTerms,
    /// Wall time at which it was made.
    pub created_ms: u64,
    /// Wall time of its last use; `None` = not used yet.
    pub used_ms: Option<u64>,
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    /// SHA-256 in hex.
    hash: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    created_ms: u64,
    #[serde(default)]
    expires_ms: Option<u64>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    used_ms: Option<u64>,
}

#[derive(Debug, Clone)]
struct Token {
    hash: Hash,
    terms: TokenTerms,
    created_ms: u64,
    used_ms: Option<u64>,
    /// Last use as it is on disk.
    noted_ms: Option<u64>,
}

impl Token {
    /// Reads a line; a bare hash is a token without a name.
    fn read(line: &str) -> Option<Self> {
        let line = match line {
            bare if bare.len() == 64 => Line {
                hash: bare.to_owned(),
                name: String::new(),
                created_ms: 0,
                expires_ms: None,
                read_only: false,
                used_ms: None,
            },
            json => serde_json::from_str(json).ok()?,
        };
        let Line { hash, name, created_ms, expires_ms, read_only, used_ms } = line;
        let hash = Hash::from_slice(&data_encoding::HEXLOWER.decode(hash.as_bytes()).ok()?)?;
        let terms = TokenTerms { name, expires_ms, read_only };
        Some(Self { hash, terms, created_ms, used_ms, noted_ms: used_ms })
    }

    fn line(&self) -> Line {
        let TokenTerms { name, expires_ms, read_only } = self.terms.clone();
        let hash = data_encoding::HEXLOWER.encode(self.hash.as_bytes());
        Line { hash, name, created_ms: self.created_ms, expires_ms, read_only, used_ms: self.used_ms }
    }

    fn id(&self) -> String {
        let head = self.hash.0.first_chunk::<7>().map_or(&[][..], <[u8; 7]>::as_slice);
        let mut id = data_encoding::BASE32_NOPAD.encode(head).to_ascii_lowercase();
        id.truncate(10);
        id
    }

    fn is_over(&self, now_ms: u64) -> bool {
        self.terms.expires_ms.is_some_and(|end| end <= now_ms)
    }

    fn info(&self) -> TokenInfo {
        TokenInfo { id: self.id(), terms: self.terms.clone(), created_ms: self.created_ms, used_ms: self.used_ms }
    }
}

/// The tokens of a home. Only SHA-256 hashes are kept: the plain token is shown once, when it is made.
/// (A token has 256 random bits, so a slow password hash would add nothing.)
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    /// Most recently used last.
    tokens: Mutex<Vec<Token>>,
}

impl TokenStore {
    /// Reads the tokens of a home; a missing file means that there are none. A line that says nothing is passed over: a
    /// token can be made again, and a home that does not start helps nobody.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let tokens: Vec<_> = lines.iter().filter_map(|line| Token::read(line)).collect();
        let unread = lines.len() - tokens.len();
        if unread > 0 {
            tracing::warn!(path = %path.display(), lines = unread, "the token file has lines that name no token; make those anew with `sigil token`");
        }
        Ok(Self { path, tokens: Mutex::new(tokens) })
    }

    /// Makes a token: the only moment at which it can be read. Blocks on the disk.
    ///
    /// # Errors
    /// No entropy, or the file cannot be written: then there is no new token.
    pub fn mint(&self, terms: TokenTerms, now_ms: u64) -> io::Result<(String, TokenInfo)> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| io::Error::other("the system gives no random bytes"))?;
        let text = format!("sigil_{}", data_encoding::BASE32_NOPAD.encode(&secret).to_ascii_lowercase());
        let token = Token { hash: Hash::of(text.as_bytes()), terms, created_ms: now_ms, used_ms: None, noted_ms: None };
        let info = token.info();
        self.change(|tokens| {
            tokens.retain(|token| !token.is_over(now_ms));
            if tokens.len() >= TOKENS_MAX {
                tokens.remove(0);
            }
            tokens.push(token);
        })?;
        Ok((text, info))
    }

    /// All tokens that are not over, the newest first.
    #[must_use]
    pub fn list(&self, now_ms: u64) -> Vec<TokenInfo> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = tokens.iter().filter(|token| !token.is_over(now_ms)).map(Token::info).collect();
        list.sort_by(|a, b| (b.created_ms, &a.id).cmp(&(a.created_ms, &b.id)));
        list
    }

    /// Revokes the token of this short name. False: there is none. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be written: then the token stays valid.
    pub fn revoke(&self, id: &str) -> io::Result<bool> {
        let before = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).len();
        let after = self.change(|tokens| tokens.retain(|token| token.id() != id))?;
        Ok(after < before)
    }

    /// Revokes all tokens. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be written: then all tokens stay valid.
    pub fn revoke_all(&self) -> io::Result<()> {
        self.change(Vec::clear).map(drop)
    }

    /// The reach of a token; `None`: it is not valid. Takes the same time for every token that is not. Once an hour and
    /// token its use is written down, which blocks on the disk.
    #[must_use]
    pub fn access(&self, token: &str, now_ms: u64) -> Option<Access> {
        let shown = Hash::of(token.as_bytes());
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (index, token) in tokens.iter().enumerate() {
            if bool::from(token.hash.as_bytes().ct_eq(shown.as_bytes())) {
                found = Some(index);
            }
        }
        let mut token = tokens.remove(found?);
        let valid = !token.is_over(now_ms);
        let is_due = valid && token.noted_ms.is_none_or(|noted| now_ms.saturating_sub(noted) >= USE_NOTED_EVERY_MS);
        if valid {
            token.used_ms = Some(now_ms);
        }
        if is_due {
            token.noted_ms = Some(now_ms);
        }
        let access = if token.terms.read_only { Access::ReadOnly } else { Access::Full };
        tokens.push(token);
        if is_due && let Err(error) = self.write(&tokens) {
            tracing::warn!(%error, "the use of a token could not be written down");
        }
        valid.then_some(access)
    }

    /// Changes the tokens, on the disk first; returns how many there are then.
    fn change(&self, change: impl FnOnce(&mut Vec<Token>)) -> io::Result<usize> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = tokens.clone();
        change(&mut next);
        self.write(&next)?;
        *tokens = next;
        Ok(tokens.len())
    }

    /// Replaces the file in one step, readable by its owner only.
    fn write(&self, tokens: &[Token]) -> io::Result<()> {
        let mut text = String::new();
        for token in tokens {
            text.push_str(&serde_json::to_string(&token.line())?);
            text.push('\n');
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

    const NOW: u64 = 1_800_000_000_000;

    fn named(name: &str) -> TokenTerms {
        TokenTerms { name: name.to_owned(), ..TokenTerms::default() }
    }

    #[test]
    fn tokens_survive_a_restart_and_are_not_kept_in_plain() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let (token, _) = TokenStore::open(path.clone()).unwrap().mint(named("n"), NOW).unwrap();
        let again = TokenStore::open(path.clone()).unwrap();
        assert_eq!(again.access(&token, NOW), Some(Access::Full));
        assert!(again.access("sigil_", NOW).is_none() && again.access("", NOW).is_none());
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&token));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        again.revoke_all().unwrap();
        assert!(again.access(&token, NOW).is_none());
        assert!(TokenStore::open(path).unwrap().access(&token, NOW).is_none());
    }

    #[test]
    fn the_token_unused_for_longest_goes_first() {
        let home = tempfile::tempdir().unwrap();
        let store = TokenStore::open(home.path().join("tokens")).unwrap();
        let tokens: Vec<_> = (0..TOKENS_MAX).map(|_| store.mint(named(""), NOW).unwrap().0).collect();
        assert!(store.access(&tokens[0], NOW).is_some());
        store.mint(named(""), NOW).unwrap();
        assert!(store.access(&tokens[0], NOW).is_some());
        assert!(store.access(&tokens[1], NOW).is_none());
    }

    #[test]
    fn s28_a_token_has_a_name_an_end_and_a_last_use_and_goes_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let store = TokenStore::open(path.clone()).unwrap();
        let terms = TokenTerms { name: "panel".to_owned(), expires_ms: Some(NOW + 1_000), read_only: true };
        let (panel, info) = store.mint(terms.clone(), NOW).unwrap();
        let (script, _) = store.mint(named("script"), NOW + 1).unwrap();
        assert_eq!((info.terms, info.used_ms), (terms, None));
        assert_eq!(store.access(&panel, NOW + 999), Some(Access::ReadOnly));
        // What is listed is also what the next start finds.
        for store in [&store, &TokenStore::open(path.clone()).unwrap()] {
            let list = store.list(NOW + 999);
            let shown: Vec<_> = list.iter().map(|token| (token.terms.name.as_str(), token.used_ms)).collect();
            assert_eq!(shown, [("script", None), ("panel", Some(NOW + 999))]);
        }
        assert_eq!(store.access(&panel, NOW + 1_000), None, "it is over");
        assert_eq!(store.list(NOW + 1_000).len(), 1);
        assert!(!store.revoke("nothing").unwrap());
        let id = store.list(NOW)[0].id.clone();
        assert!(store.revoke(&id).unwrap());
        assert!(store.access(&script, NOW).is_none());
    }

    #[test]
    fn s07_a_damaged_token_file_keeps_nobody_from_starting() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tokens");
        let (token, _) = TokenStore::open(path.clone()).unwrap().mint(named("good"), NOW).unwrap();
        let old = data_encoding::HEXLOWER.encode(Hash::of(b"sigil_old").as_bytes());
        let good = std::fs::read_to_string(&path).unwrap();
        let damaged =
            [b"\xff\xfe\nnonsense\n{\"hash\":3}\n{\"hash\":\"00\"}\n\n", good.as_bytes(), old.as_bytes()].concat();
        std::fs::write(&path, damaged).unwrap();
        let store = TokenStore::open(path).unwrap();
        assert_eq!(store.list(NOW).len(), 2);
        assert!(store.access(&token, NOW).is_some() && store.access("sigil_old", NOW).is_some());
    }
}
