//! The foreign nodes that were let in, one file each: `<home>/nodes/NAME.json`; and the certificate by which they know this device.
//! Read anew whenever one comes, so that one that was removed is out at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE32_NOPAD, BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::platform;
use crate::plugin::PluginName;

/// Nodes that one device hosts.
pub const NODES_MAX: usize = 64;
/// Longest life of a token that has an end.
pub const EXPIRES_MAX: Duration = Duration::from_hours(10 * 365 * 24);
/// Bytes of a token that are looked at.
const TOKEN_BYTES_MAX: usize = 256;
/// Name of this device in its certificate: what the node expects it to say, whatever address it has.
pub const CERTIFICATE_NAME: &str = "sigil";

/// The foreign nodes of a home. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Nodes {
    dir: PathBuf,
    /// What was seen of their tools.
    pins: PathBuf,
}

/// A node that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name, before those of its tools.
    pub name: PluginName,
    /// Hash of its token.
    hash: String,
    /// Wall time when it was let in.
    pub created_ms: u64,
    /// Wall time when its token is over; `None`: never.
    pub expires_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    token_sha256: String,
    created_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

/// A reason for which a node is not let in, or not taken out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodesError {
    /// There is one.
    #[error("there is a node `{name}` already: `sigil node remove {name}` takes it out", name = .0.as_str())]
    Taken(PluginName),
    /// There are as many as there may be.
    #[error("this device hosts {NODES_MAX} nodes already")]
    TooMany,
    /// A life that is out of bounds.
    #[error("a token ends after one second to ten years, or never")]
    Life,
    /// The system.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The cause.
        why: String,
    },
}

/// A reason for which a token opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// None of ours, or it was revoked.
    #[error("this token is not known here: it was never made, or it was revoked")]
    Unknown,
    /// It was one.
    #[error("this token is over: `sigil node remove` and `sigil node add` make another")]
    Expired,
}

/// The directory of what was seen of the tools of foreign nodes: apart from those of MCP servers, which may have the same name.
#[must_use]
pub fn pins_of(home: &Path) -> PathBuf {
    home.join("pins").join("nodes")
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> NodesError {
    move |error| NodesError::System { what, why: error.to_string() }
}

fn hash_of(token: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, token.as_bytes()).as_ref())
}

impl Nodes {
    /// Those of a home.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        Self { dir: home.join("nodes"), pins: pins_of(home) }
    }

    /// Lets a node in. Returns its token, which is kept nowhere.
    ///
    /// # Errors
    /// There is one of this name, there are too many, or the disk.
    pub fn add(&self, name: &PluginName, expires: Option<Duration>, now_ms: u64) -> Result<String, NodesError> {
        if expires.is_some_and(|life| !(Duration::from_secs(1)..=EXPIRES_MAX).contains(&life)) {
            return Err(NodesError::Life);
        }
        let all = self.list().map_err(failed("reading the nodes of this device"))?;
        if all.iter().any(|record| record.name == *name) {
            return Err(NodesError::Taken(name.clone()));
        }
        if all.len() >= NODES_MAX {
            return Err(NodesError::TooMany);
        }
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| NodesError::System {
            what: "making a token",
            why: "the system gives no random bytes".to_owned(),
        })?;
        let token = format!("sigil_node_{}", BASE32_NOPAD.encode(&secret).to_ascii_lowercase());
        let life = expires.map(|life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let written = Written {
            token_sha256: hash_of(&token),
            created_ms: now_ms,
            expires_ms: life.map(|life| now_ms.saturating_add(life)),
        };
        let bytes =
            serde_json::to_vec_pretty(&written).map_err(io::Error::other).map_err(failed("writing the node"))?;
        platform::create_private_dir(&self.dir).map_err(failed("making the directory of nodes"))?;
        platform::replace_file(&self.path(name), &bytes).map_err(failed("writing the node"))?;
        Ok(token)
    }

    /// Takes a node out, and revokes its token with that; false if there is none. What was seen of its tools is forgotten: another of
    /// its name may be another program.
    ///
    /// # Errors
    /// The disk.
    pub fn remove(&self, name: &PluginName) -> Result<bool, NodesError> {
        match fs::remove_file(self.path(name)) {
            Ok(()) => {
                let _ = fs::remove_file(self.pins.join(format!("{}.json", name.as_str())));
                platform::sync_dir(&self.dir).map(|()| true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
        .map_err(failed("removing the node"))
    }

    /// All of them, by name. One whose file cannot be read is none.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")?.parse::<PluginName>().ok());
            let Some(name) = name else { continue };
            match read(&path) {
                Ok(Written { token_sha256: hash, created_ms, expires_ms }) => {
                    all.push(Record { name, hash, created_ms, expires_ms });
                }
                Err(why) => tracing::warn!(node = %name, "its record cannot be read, so it is not let in: {why}"),
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.truncate(NODES_MAX);
        Ok(all)
    }

    /// The node that a token is of.
    ///
    /// # Errors
    /// None of ours, or it is over.
    pub fn by_token(&self, token: &str, now_ms: u64) -> Result<Record, TokenRefused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenRefused::Unknown);
        }
        let (hash, all) = (hash_of(token), self.list().unwrap_or_default());
        let found = all.into_iter().find(|record| record.hash.as_bytes().ct_eq(hash.as_bytes()).into());
        let record = found.ok_or(TokenRefused::Unknown)?;
        if record.expires_ms.is_some_and(|end| end <= now_ms) { Err(TokenRefused::Expired) } else { Ok(record) }
    }

    /// The certificate that nodes are to trust, as PEM, and its key, as DER (PKCS #8). Made the first time.
    ///
    /// # Errors
    /// The disk, or they cannot be made.
    pub fn certificate(&self) -> io::Result<(String, Vec<u8>)> {
        let (certificate, key) = (self.dir.join("tls.crt"), self.dir.join("tls.key"));
        if let (Ok(certificate), Ok(key)) = (fs::read_to_string(&certificate), fs::read(&key)) {
            return Ok((certificate, key));
        }
        platform::create_private_dir(&self.dir)?;
        // Not Ed25519, which many libraries do not take from a server.
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(io::Error::other)?;
        let names = vec![CERTIFICATE_NAME.to_owned(), "localhost".to_owned()];
        let made = rcgen::CertificateParams::new(names).and_then(|terms| terms.self_signed(&pair));
        let text = BASE64.encode(made.map_err(io::Error::other)?.der());
        let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        // First the key: a certificate without one would be shown to people.
        platform::replace_file(&key, &pair.serialize_der())?;
        platform::replace_file(&certificate, pem.as_bytes())?;
        Ok((pem, pair.serialize_der()))
    }

    /// The file of the certificate.
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        self.dir.join("tls.crt")
    }

    fn path(&self, name: &PluginName) -> PathBuf {
        self.dir.join(format!("{}.json", name.as_str()))
    }
}

fn read(path: &Path) -> Result<Written, String> {
    let found = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !found.is_file() || platform::open_to_others(&found).is_some() || found.len() > 4096 {
        return Err("it is no file of this user alone".to_owned());
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_until_it_is_over_or_its_node_is_removed_and_is_nowhere_on_disk() {
        let home = tempfile::tempdir().unwrap();
        let nodes = Nodes::of(home.path());
        let name: PluginName = "cam".parse().unwrap();
        let token = nodes.add(&name, Some(Duration::from_secs(10)), 1_000).unwrap();
        assert!(matches!(nodes.add(&name, None, 1_000), Err(NodesError::Taken(_))));
        assert_eq!(nodes.by_token(&token, 10_999).unwrap().name, name);
        assert_eq!(nodes.by_token(&token, 11_000), Err(TokenRefused::Expired));
        for wrong in ["", "sigil_node_", &token[..token.len() - 1], &"x".repeat(1 << 20)] {
            assert_eq!(nodes.by_token(wrong, 1_000), Err(TokenRefused::Unknown));
        }
        let file = fs::read_to_string(home.path().join("nodes/cam.json")).unwrap();
        assert!(!file.contains(&token[12..]) && file.contains(&hash_of(&token)));
        assert_eq!((nodes.remove(&name).unwrap(), nodes.remove(&name).unwrap()), (true, false));
        assert_eq!(nodes.by_token(&token, 1_000), Err(TokenRefused::Unknown));
        assert!(matches!(nodes.add(&name, Some(Duration::ZERO), 0), Err(NodesError::Life)));
    }

    #[test]
    fn the_certificate_stays_and_its_key_is_private() {
        let home = tempfile::tempdir().unwrap();
        let nodes = Nodes::of(home.path());
        let made = nodes.certificate().unwrap();
        assert_eq!(nodes.certificate().unwrap(), made);
        assert!(made.0.starts_with("-----BEGIN CERTIFICATE-----\n") && nodes.list().unwrap().is_empty());
        let key = fs::metadata(home.path().join("nodes/tls.key")).unwrap();
        assert_eq!(platform::open_to_others(&key), None);
        for n in 0..NODES_MAX {
            nodes.add(&format!("n{n}").parse().unwrap(), None, 0).unwrap();
        }
        assert!(matches!(nodes.add(&"more".parse().unwrap(), None, 0), Err(NodesError::TooMany)));
    }
}
