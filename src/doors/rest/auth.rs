//! Who may use a door: peer credentials on the socket; host name, origin and token on loopback HTTP.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method};
use mesh_core::ids::Hash;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::status::{ErrorCode, Fault};

/// Where a connection came in. Put into the extensions of each of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The unix socket; whether the process at the other end runs as our user or as root.
    Socket {
        /// See above.
        owner: bool,
    },
    /// Loopback HTTP.
    Http {
        /// Port of the listener, for the host check.
        port: u16,
    },
}

/// Tokens kept; a new one beyond pushes out the one that has been unused for the longest time.
pub const TOKENS_MAX: usize = 32;

/// Bearer tokens of the loopback door. Only SHA-256 hashes are kept: the plain token is shown once, when it is made.
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

    /// Voids all tokens. Blocks on the disk.
    ///
    /// # Errors
    /// The file cannot be written: then all tokens stay good.
    pub fn revoke_all(&self) -> io::Result<()> {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&[])?;
        hashes.clear();
        Ok(())
    }

    /// Whether this is a token of ours. Takes the same time for every token that it is not.
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

/// Whether `authority` names our loopback door. A page of another site that gets its name resolved to 127.0.0.1 (DNS
/// rebinding) still sends its own name.
fn names_us(authority: &str, port: u16) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host().trim_end_matches('.');
    let ours = host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]";
    ours && !authority.as_str().contains('@') && authority.port_u16().unwrap_or(80) == port
}

/// Routes that anyone on this machine may ask: they say nothing but "yes" or "no".
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Lets a request pass, or says why not.
pub(super) fn check(tokens: &TokenStore, request: &Request) -> Result<(), Fault> {
    let port = match request.extensions().get::<Door>() {
        Some(Door::Socket { owner: true }) => return Ok(()),
        Some(Door::Http { port }) => *port,
        Some(Door::Socket { owner: false }) => {
            return Err(Fault::new(ErrorCode::Denied, "this socket serves only the user that the agent runs as")
                .hint("run the command as that user"));
        }
        None => return Err(Fault::new(ErrorCode::Internal, "the connection came in through no known door")),
    };
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|v| v.to_str().ok());
    let absolute = request.uri().authority().is_none_or(|authority| names_us(authority.as_str(), port));
    if !absolute || hosts.next().is_some() || !host.is_some_and(|host| names_us(host, port)) {
        return Err(Fault::new(ErrorCode::WrongHost, "this door answers as localhost, 127.0.0.1 or [::1] only")
            .hint(format!("use http://127.0.0.1:{port}")));
    }
    // A browser names the page's origin on everything that changes something, and on every cross-origin read.
    let unsafe_method = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if unsafe_method || request.uri().path() == "/api/v1/events" {
        let same_origin = headers.get_all(ORIGIN).iter().all(|origin| {
            origin.to_str().ok().and_then(|o| o.strip_prefix("http://")).is_some_and(|host| names_us(host, port))
        });
        let site = headers.get("sec-fetch-site").map(axum::http::HeaderValue::as_bytes);
        if !same_origin || !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Fault::new(ErrorCode::CrossOrigin, "a web page of another origin may not do this"));
        }
    }
    if is_public(request.uri().path()) {
        return Ok(());
    }
    match bearer(headers) {
        Some(token) if tokens.knows(token) => Ok(()),
        shown => {
            let detail = if shown.is_some() { "this token is not known here" } else { "the request carries no token" };
            Err(Fault::new(ErrorCode::Unauthorized, detail)
                .hint("`sigil token` prints one; send it as `Authorization: Bearer TOKEN`"))
        }
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

    #[test]
    fn only_loopback_names_are_ours() {
        for good in ["localhost:7434", "LOCALHOST:7434", "127.0.0.1:7434", "[::1]:7434"] {
            assert!(names_us(good, 7434), "{good}");
        }
        for bad in [
            "localhost",
            "localhost:7435",
            "evil.example:7434",
            "127.0.0.1.evil.example:7434",
            "a@localhost:7434",
            "",
            "127.0.0.2:7434",
            "localhost:7434/x",
        ] {
            assert!(!names_us(bad, 7434), "{bad}");
        }
        assert!(names_us("localhost", 80));
    }
}
