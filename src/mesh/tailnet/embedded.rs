//! A node of a tailnet that lives in this program: what it needs, what it tells, and the trait behind which the crate is that
//! makes it. Pure, but for the channels of [`Running`].

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::answers::{self, Node};
use crate::config::{check_control_url, is_hostname};
use crate::tasks::TaskGroup;

/// Longest auth key, in bytes. Those of Tailscale have some 60.
const AUTH_KEY_BYTES_MAX: usize = 1024;
/// Characters of a wrong value that its error repeats.
const SHOWN_MAX: usize = 80;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A key with which a node joins a tailnet. Neither `Debug` nor any error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey(String);

impl AuthKey {
    /// A key of this text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Its text, for whoever sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(..)")
    }
}

/// Everything that a node in this program needs to join a tailnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailscaleConfig {
    /// Host name that it asks for: 1 to 63 of a-z, 0-9 and `-`.
    pub hostname: String,
    /// Key with which it joins; without one a person logs in by a URL. Tags come with a key alone.
    pub auth_key: Option<AuthKey>,
    /// URL of the control server; `None`: that of Tailscale.
    pub control_url: Option<String>,
    /// File that keeps its keys, readable by the user of the agent only. An absolute path.
    pub state_file: PathBuf,
}

/// The reason for which a node cannot be made. Fit for a person; never with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TailscaleConfigError {
    /// The host name is none.
    #[error("`{0}` is no host name of a tailnet: it has 1 to 63 of a-z, 0-9 and `-`, and `-` neither first nor last")]
    Hostname(String),
    /// The auth key cannot be one.
    #[error("the auth key of the tailnet is {0}")]
    AuthKey(&'static str),
    /// The control server cannot be there.
    #[error("`{url}` is no control server: {why}")]
    ControlUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file for its keys is nowhere.
    #[error("`{}` is no absolute path", .0.display())]
    StateFile(PathBuf),
}

impl TailscaleConfig {
    /// Checks all of it, without a look at the network or the disk.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn validate(&self) -> Result<(), TailscaleConfigError> {
        if !is_hostname(&self.hostname) {
            let shown = self.hostname.chars().take(SHOWN_MAX).collect();
            return Err(TailscaleConfigError::Hostname(shown));
        }
        let why = match self.auth_key.as_ref().map(AuthKey::reveal) {
            Some("") => Some("empty"),
            Some(key) if key.len() > AUTH_KEY_BYTES_MAX => Some("longer than 1,024 bytes"),
            Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Some("none: it has spaces, line ends or other signs that no key has")
            }
            Some(_) | None => None,
        };
        if let Some(why) = why {
            return Err(TailscaleConfigError::AuthKey(why));
        }
        if let Some(url) = &self.control_url {
            let wrong = |why| TailscaleConfigError::ControlUrl { url: url.chars().take(SHOWN_MAX).collect(), why };
            check_control_url(url).map_err(wrong)?;
        }
        if !self.state_file.is_absolute() {
            return Err(TailscaleConfigError::StateFile(self.state_file.clone()));
        }
        Ok(())
    }
}

/// Whom a tag of the tailnet makes one of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TailscaleAuth {
    /// The tag, such as `tag:agent-node`; `None`: no tag is asked for.
    pub required_tag: Option<String>,
}

/// The reason for which a node is not one of ours by its tags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// It lacks the tag.
    #[error("its node of the tailnet has no tag `{0}`")]
    Missing(String),
    /// Its key has ended.
    #[error("the key of its node of the tailnet has expired")]
    KeyEnded,
}

impl TailscaleAuth {
    /// Looks if a node has the tag that is asked for. It only says what the tailnet says: it lets nobody in.
    ///
    /// # Errors
    /// It has not, or its key has ended.
    pub fn check_tag(&self, node: &Node, now_ms: u64) -> Result<(), TagError> {
        let Some(tag) = &self.required_tag else { return Ok(()) };
        if !node.tags.contains(tag) {
            return Err(TagError::Missing(tag.clone()));
        }
        if node.has_ended(now_ms) { Err(TagError::KeyEnded) } else { Ok(()) }
    }
}

/// Condition of the node in this program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EmbeddedCondition {
    /// The settings ask for none, or nobody has looked yet.
    #[default]
    Off,
    /// It would be used, and cannot join: why.
    NoWay(String),
    /// On its way.
    Starting,
    /// A person has to log it in at this URL.
    NeedsLogin(String),
    /// It does not work now, and is tried again: why.
    Failed(String),
    /// It works.
    Running {
        /// The node, as its tailnet knows it.
        node: Node,
        /// It lacks the tag that the settings ask of others: why that matters.
        untagged: Option<TagError>,
    },
    /// It ends soon, since the tailscaled of this machine does better.
    Leaving,
}

impl EmbeddedCondition {
    /// The URL at which a person logs it in.
    #[must_use]
    pub fn login_url(&self) -> Option<&str> {
        match self {
            Self::NeedsLogin(url) => Some(url),
            Self::Off | Self::NoWay(_) | Self::Starting | Self::Failed(_) | Self::Running { .. } | Self::Leaving => {
                None
            }
        }
    }

    /// The state in words, and the next step if there is something to do.
    #[must_use]
    pub fn told(&self, now_ms: u64) -> (String, Option<String>) {
        match self {
            Self::Off => ("there is no node of a tailnet in this program".to_owned(), None),
            Self::NoWay(why) => (
                format!("the node of the tailnet in this program cannot join: {why}"),
                Some("mend that in sigil.toml (`tailnet`), then `sigil down` and `sigil up`".to_owned()),
            ),
            Self::Starting => ("the node of the tailnet in this program is starting".to_owned(), None),
            Self::NeedsLogin(url) => (
                "the node of the tailnet in this program waits for a person to log it in".to_owned(),
                Some(format!("open {url} in a browser, or give it an auth key (`tailnet.auth_key`)")),
            ),
            Self::Failed(why) => (
                format!("the node of the tailnet in this program does not work: {why}; it is tried again by itself"),
                Some("see that this device reaches the control server, and that its auth key is good".to_owned()),
            ),
            Self::Leaving => {
                ("the node of the tailnet in this program ends, since a tailscaled runs here".to_owned(), None)
            }
            Self::Running { node, untagged } => {
                let ip = node.ip().map(|ip| ip.to_string()).unwrap_or_default();
                let told = format!(
                    "on the tailnet as `{}` at {ip}, by a node in this program, which is slow: large results take long",
                    node.name
                );
                let soon = answers::EXPIRY_TOLD.as_millis() as u64;
                match (node.key_expiry_ms.map(|end| end.saturating_sub(now_ms)), untagged) {
                    (Some(0), _) => (
                        format!("{told}; its key has expired"),
                        Some("give it a new auth key (`tailnet.auth_key`), or log it in anew".to_owned()),
                    ),
                    (Some(left), _) if left <= soon => (
                        format!("{told}; its key expires in {} days", left.div_ceil(DAY_MS)),
                        Some("give it a new auth key (`tailnet.auth_key`) before that".to_owned()),
                    ),
                    (_, Some(why)) => (
                        format!(
                            "{told}; {why}, so that no tag lets it in elsewhere: only a tagged auth key gives tags"
                        ),
                        None,
                    ),
                    (_, None) => (told, None),
                }
            }
        }
    }
}

/// Makes nodes of a tailnet that live in this program. The one that there is stands on the crate `tailscale`; tests have one of
/// their own, and the links know neither.
pub trait Device: fmt::Debug + Send + Sync {
    /// Begins to make a node and to listen on it at UDP [`super::EMBEDDED_PORT`]. It ends, and what it had with it, when
    /// [`Running`] is dropped or `tasks` stops.
    ///
    /// # Errors
    /// The system gives no thread.
    fn begin(&self, config: TailscaleConfig, tasks: &TaskGroup) -> io::Result<Running>;
}

/// A node that was begun.
#[derive(Debug)]
pub struct Running {
    /// All that it tells; closed when it has ended.
    pub told: mpsc::Receiver<Told>,
    /// Questions to it.
    pub asks: mpsc::Sender<Ask>,
}

/// News of a node.
#[derive(Debug)]
pub enum Told {
    /// A person has to log it in at this URL.
    Login(String),
    /// It is on the tailnet, and listens.
    Open {
        /// Itself, as its tailnet knows it.
        node: Node,
        /// The address at which it listens.
        at: SocketAddr,
        /// Packets to and from it.
        packets: Packets,
    },
    /// Its tailnet knows it as another now: other tags, another end of its key.
    Node(Node),
    /// It has ended: why. Nothing comes after this.
    Ended(String),
}

/// The packets of a socket on the tailnet.
#[derive(Debug)]
pub struct Packets {
    /// To be sent, each to its address; full: its sender waits.
    pub out: mpsc::Sender<(SocketAddr, Bytes)>,
    /// What came, each with its source; full: what comes is dropped, as by any socket.
    pub come: mpsc::Receiver<(SocketAddr, Bytes)>,
}

/// A question to a node. One that cannot be answered is dropped.
#[derive(Debug)]
pub enum Ask {
    /// Who is at this address of the tailnet.
    WhoIs(IpAddr, oneshot::Sender<Option<Node>>),
    /// Which node has this name.
    Named(String, oneshot::Sender<Option<Node>>),
}

/// Reads the settings of a node anew: a key may have been set since. The error is fit for a person.
pub type ReadConfig = Arc<dyn Fn() -> BoxFuture<'static, Result<TailscaleConfig, String>> + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TailscaleConfig {
        TailscaleConfig {
            hostname: "attic".to_owned(),
            auth_key: Some(AuthKey::new("tskey-auth-abc".to_owned())),
            control_url: None,
            state_file: "/home/u/state".into(),
        }
    }

    #[test]
    fn a_config_is_checked() {
        assert_eq!(config().validate(), Ok(()));
        for hostname in ["", "-a", "a-", "Attic", "a.b", "a b", &"x".repeat(64)] {
            let wrong = TailscaleConfig { hostname: hostname.to_owned(), ..config() };
            assert!(matches!(wrong.validate(), Err(TailscaleConfigError::Hostname(_))), "{hostname}");
        }
        for key in ["", "two words", "a\nb", &"k".repeat(1025)] {
            let wrong = TailscaleConfig { auth_key: Some(AuthKey::new(key.to_owned())), ..config() };
            let error = wrong.validate().unwrap_err();
            assert!(matches!(error, TailscaleConfigError::AuthKey(_)), "{key}");
            assert!(key.is_empty() || !format!("{error} {wrong:?}").contains(key), "a key is told");
        }
        for url in ["https://control.example", "https://control.example:8443/", "https://[fd00::1]:443"] {
            assert_eq!(TailscaleConfig { control_url: Some(url.to_owned()), ..config() }.validate(), Ok(()), "{url}");
        }
        for url in [
            "",
            "https://",
            "ftp://a",
            "https://u:p@a",
            "https://a/path",
            "https://a?x",
            &format!("https://{}", "a".repeat(600)),
        ] {
            let wrong = TailscaleConfig { control_url: Some(url.to_owned()), ..config() };
            assert!(matches!(wrong.validate(), Err(TailscaleConfigError::ControlUrl { .. })), "{url}");
        }
        let plain = TailscaleConfig { control_url: Some("http://10.0.0.1:8500".to_owned()), ..config() };
        assert_eq!(plain.validate().is_ok(), cfg!(feature = "tailnet-test"), "plain HTTP is for tests alone");
        let nowhere = TailscaleConfig { state_file: "state".into(), ..config() };
        assert!(matches!(nowhere.validate(), Err(TailscaleConfigError::StateFile(_))));
    }

    #[test]
    fn a_tag_is_looked_for() {
        let auth = TailscaleAuth { required_tag: Some("tag:agent-node".to_owned()) };
        let node = |tags: &[&str], end| Node {
            tags: tags.iter().map(ToString::to_string).collect(),
            key_expiry_ms: end,
            ..Node::default()
        };
        assert_eq!(auth.check_tag(&node(&["tag:other", "tag:agent-node"], None), 5), Ok(()));
        assert_eq!(
            auth.check_tag(&node(&["tag:agent-nod"], None), 5),
            Err(TagError::Missing("tag:agent-node".to_owned()))
        );
        assert_eq!(auth.check_tag(&node(&["tag:agent-node"], Some(5)), 5), Err(TagError::KeyEnded));
        assert_eq!(TailscaleAuth::default().check_tag(&node(&[], Some(5)), 5), Ok(()));
    }

    #[test]
    fn what_a_person_should_do_is_told() {
        let node = Node { name: "attic".to_owned(), ips: vec!["100.64.0.7".parse().unwrap()], ..Node::default() };
        let running =
            |end, untagged| EmbeddedCondition::Running { node: Node { key_expiry_ms: end, ..node.clone() }, untagged };
        let (told, step) = running(None, None).told(0);
        assert!(told.contains("`attic` at 100.64.0.7") && told.contains("slow") && step.is_none(), "{told}");
        let (told, step) = running(Some(10 * DAY_MS), None).told(0);
        assert!(told.contains("expires in 10 days") && step.is_some(), "{told}");
        assert!(running(Some(20 * DAY_MS), None).told(0).1.is_none());
        assert!(running(Some(DAY_MS), None).told(DAY_MS).0.contains("has expired"));
        assert!(running(None, Some(TagError::Missing("tag:x".to_owned()))).told(0).0.contains("`tag:x`"));
        let login = EmbeddedCondition::NeedsLogin("https://login.example/a/1".to_owned());
        assert_eq!(login.login_url(), Some("https://login.example/a/1"));
        assert!(login.told(0).1.unwrap().contains("https://login.example/a/1"));
    }
}
