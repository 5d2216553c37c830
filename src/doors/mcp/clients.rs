//! MCP clients as this device knows them: whom they ask for, what they are shown, when they were here, and which of them may not
//! come any more.
//!
//! What a person has said of them is kept in a file of the home; when they were here is not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mesh_core::policy::Principal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::mesh::clock::now;
use crate::platform;
use crate::status::{ErrorCode, OpError};
use crate::text::visible;

/// File in the home.
pub(crate) const FILE: &str = "mcp-clients.json";
/// Clients that are known; of more the one that was here longest ago is forgotten.
const CLIENTS_MAX: usize = 256;
/// Tools that are pinned for one client.
pub(crate) const PINNED_MAX: usize = 64;
/// Longest name that a client gives itself, characters.
const NAME_CHARS_MAX: usize = 100;
/// Version of the file.
const VERSION: u8 = 1;

/// Tools that a client is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// All, as long as these are few; else as `compact`, with those that are pinned.
    #[default]
    Auto,
    /// All that it may use.
    Full,
    /// Those by which all others are found and called.
    Compact,
}

impl Profile {
    /// Reads the word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [("auto", Self::Auto), ("full", Self::Full), ("compact", Self::Compact)]
            .into_iter()
            .find_map(|(name, profile)| (name == word).then_some(profile))
    }
}

/// What a person has said of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Tools that it is shown.
    #[serde(default)]
    pub(crate) profile: Profile,
    /// Names of tools that it is shown besides, if not all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) pinned: Vec<String>,
    /// True if it may not come any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) revoked: bool,
}

/// A client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Client {
    /// What a person has said of it; `None`: nothing.
    pub(crate) terms: Option<Terms>,
    /// Name and version that it gives itself; empty: it has not.
    pub(crate) says: String,
    /// Wall time when it was here last, milliseconds since 1970; `None`: not since the agent started.
    pub(crate) seen_ms: Option<u64>,
    /// Tools in the list that it got last.
    pub(crate) listed: Option<usize>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    v: u8,
    #[serde(default)]
    clients: BTreeMap<String, Terms>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Clients {
    path: PathBuf,
    all: Mutex<BTreeMap<String, Client>>,
    /// Told when somebody has said something of a client.
    edited: watch::Sender<()>,
    /// Writers take turns.
    writing: tokio::sync::Mutex<()>,
}

impl Clients {
    /// Those that the file of a home tells of. One that cannot be read closes the door to nobody who was let in by rights.
    pub(crate) fn load(home: &Path) -> Self {
        let path = home.join(FILE);
        let kept = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice::<Kept>(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
            Err(error) => Err(error.to_string()),
        };
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(error, "what was said of MCP clients cannot be read, and does not count: {FILE}");
            Kept::default()
        });
        let all =
            kept.clients.into_iter().map(|(who, terms)| (who, Client { terms: Some(terms), ..Client::default() }));
        Self {
            path,
            all: Mutex::new(all.collect()),
            edited: watch::Sender::new(()),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Client>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The terms of a client that comes.
    ///
    /// # Errors
    /// [`ErrorCode::Denied`]: it may not come any more.
    pub(crate) fn admit(&self, who: &Principal, says: Option<String>) -> Result<Terms, OpError> {
        let (mut all, key) = (self.locked(), who.to_string());
        let revoked = all.get(&key).and_then(|client| client.terms.as_ref()).is_some_and(|terms| terms.revoked);
        if revoked {
            let detail = format!("MCP clients that ask as `{key}` may not come in here any more");
            return Err(
                OpError::new(ErrorCode::Denied, detail).hint("a person lets it in again with `sigil mcp clients`")
            );
        }
        if all.len() >= CLIENTS_MAX && !all.contains_key(&key) {
            let unsaid = all.iter().filter(|(_, client)| client.terms.is_none());
            let oldest = unsaid.min_by_key(|(_, client)| client.seen_ms).map(|(key, _)| key.clone());
            match oldest {
                Some(oldest) => drop(all.remove(&oldest)),
                None => return Ok(Terms::default()),
            }
        }
        let client = all.entry(key).or_default();
        client.seen_ms = Some(now().wall_ms);
        if let Some(says) = says {
            client.says = visible(&says).chars().take(NAME_CHARS_MAX).collect();
        }
        Ok(client.terms.clone().unwrap_or_default())
    }

    /// Tells when something was said of a client.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.edited.subscribe()
    }

    /// True unless it may not come any more.
    pub(crate) fn is_admitted(&self, who: &Principal) -> bool {
        !self.locked().get(&who.to_string()).and_then(|client| client.terms.as_ref()).is_some_and(|terms| terms.revoked)
    }

    /// Notes how many tools a client was shown.
    pub(crate) fn note_listed(&self, who: &Principal, tools: usize) {
        if let Some(client) = self.locked().get_mut(&who.to_string()) {
            client.listed = Some(tools);
        }
    }

    /// All of them, by whom they ask for.
    pub(crate) fn list(&self) -> Vec<(String, Client)> {
        self.locked().iter().map(|(who, client)| (who.clone(), client.clone())).collect()
    }

    /// Says something of a client; durable when it comes back.
    ///
    /// # Errors
    /// [`ErrorCode::Conflict`]: too many are known; [`ErrorCode::StoreFailed`].
    pub(crate) async fn set(&self, who: &Principal, terms: Terms) -> Result<Client, OpError> {
        let _turn = self.writing.lock().await;
        let (client, kept) = {
            let (mut all, key) = (self.locked(), who.to_string());
            if all.len() >= CLIENTS_MAX && !all.contains_key(&key) {
                let detail = format!("{CLIENTS_MAX} MCP clients are known, and no more can be");
                return Err(OpError::new(ErrorCode::Conflict, detail));
            }
            let client = all.entry(key).or_default();
            client.terms = Some(terms);
            let client = client.clone();
            self.edited.send_replace(());
            let said = all.iter().filter_map(|(who, client)| Some((who.clone(), client.terms.clone()?)));
            (client, Kept { v: VERSION, clients: said.collect() })
        };
        let path = self.path.clone();
        let text = serde_json::to_vec_pretty(&kept).unwrap_or_default();
        let written = tokio::task::spawn_blocking(move || platform::replace_file(&path, &text)).await;
        let written = written.map_err(io::Error::other).and_then(|it| it);
        written.map_err(|error| OpError::new(ErrorCode::StoreFailed, format!("writing {FILE}: {error}")))?;
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_of_a_client_is_kept_and_when_it_was_here_is_not() {
        let home = tempfile::tempdir().unwrap();
        let (who, clients) = ("agent:owner/claude".parse().unwrap(), Clients::load(home.path()));
        assert_eq!(clients.admit(&who, Some("Claude\u{200b} 1".to_owned())).unwrap(), Terms::default());
        clients.note_listed(&who, 31);
        let terms = Terms { profile: Profile::Compact, pinned: vec!["x__y".to_owned()], revoked: false };
        clients.set(&who, terms.clone()).await.unwrap();
        let [(_, shown)] = clients.list().try_into().unwrap();
        assert_eq!((shown.says.as_str(), shown.listed, shown.terms), ("Claude 1", Some(31), Some(terms.clone())));
        let again = Clients::load(home.path());
        assert_eq!((again.admit(&who, None).unwrap(), again.list().len()), (terms, 1));
        again.set(&who, Terms { revoked: true, ..Terms::default() }).await.unwrap();
        assert_eq!(Clients::load(home.path()).admit(&who, None).unwrap_err().code, ErrorCode::Denied);
        std::fs::write(home.path().join(FILE), "nonsense").unwrap();
        assert!(Clients::load(home.path()).admit(&who, None).is_ok());
    }

    #[test]
    fn those_of_whom_nothing_was_said_make_room() {
        let home = tempfile::tempdir().unwrap();
        let clients = Clients::load(home.path());
        for n in 0..CLIENTS_MAX + 10 {
            clients.admit(&format!("agent:owner/c{n}").parse().unwrap(), None).unwrap();
        }
        assert_eq!(clients.list().len(), CLIENTS_MAX);
    }
}
