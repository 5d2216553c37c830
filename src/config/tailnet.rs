//! `[tailnet]`, checked.

use mesh_core::limits;
use mesh_core::record::Tier;
use mesh_core::tailnet::TagRule;
use serde::Deserialize;

use super::checker::Checker;
use super::settings::{ConfigError, TAILNET_SOCKET_DEFAULT, Tailnet, TailnetMode};
use crate::plugin::{RawValue, Value};

/// The keys of [`RawTailnet`].
pub(super) const KEYS: &[&str] =
    &["mode", "socket", "required_tag", "tier", "door", "hostname", "auth_key", "control_url"];
/// The key whose value is never shown, and the variable that sets it.
const AUTH_KEY: &str = "tailnet.auth_key";
const AUTH_KEY_VARIABLE: &str = "SIGIL_TAILNET_AUTH_KEY";

/// Longest host name of a node, in bytes: a label of a DNS name (RFC 1035 §2.3.4).
const HOSTNAME_BYTES_MAX: usize = 63;
/// Longest URL of a control server, in bytes.
const URL_BYTES_MAX: usize = 512;

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawTailnet {
    mode: Option<String>,
    socket: Option<String>,
    required_tag: Option<String>,
    tier: Option<String>,
    door: Option<bool>,
    hostname: Option<String>,
    auth_key: Option<RawValue>,
    control_url: Option<String>,
}

/// True for what may be the host name of a node.
#[must_use]
pub fn is_hostname(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.len() <= HOSTNAME_BYTES_MAX
        && text.bytes().all(|byte| is_letter(byte) || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A host name out of the name of a device, whatever that is.
#[must_use]
pub fn hostname_of(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = name.chars().map(fit).take(HOSTNAME_BYTES_MAX).collect();
    let text = text.trim_matches('-');
    if text.is_empty() { "sigil".to_owned() } else { text.to_owned() }
}

/// What is wrong with the URL of a control server.
///
/// # Errors
/// It, in words.
pub fn check_control_url(url: &str) -> Result<(), &'static str> {
    if url.len() > URL_BYTES_MAX {
        return Err("it is longer than 512 bytes");
    }
    let rest = if let Some(rest) = url.strip_prefix("https://") {
        rest
    } else if let Some(rest) = url.strip_prefix("http://") {
        // Whoever is on the way could name a key of its own for the control server.
        if !cfg!(feature = "tailnet-test") {
            return Err("it must begin with https://");
        }
        rest
    } else {
        return Err("it must begin with https://");
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.is_empty() {
        return Err("it names no host");
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    if !host.bytes().all(fits) {
        return Err("it must be https://, a host and perhaps a port, and nothing more");
    }
    Ok(())
}

impl Checker<'_> {
    pub(super) fn tailnet(&self, raw: RawTailnet) -> Result<Tailnet, ConfigError> {
        let modes = [
            ("off", TailnetMode::Off),
            ("auto", TailnetMode::Auto),
            ("host", TailnetMode::Host),
            ("embedded", TailnetMode::Embedded),
        ];
        let mode = self.one_of("tailnet.mode", raw.mode, TailnetMode::Off, &modes)?;
        if mode == TailnetMode::Embedded && !cfg!(feature = "tailnet") {
            let rule = "off, auto or host: this program was built without a node of its own (feature `tailnet`)";
            return Err(self.bad("tailnet.mode", "embedded", rule));
        }
        let socket = raw.socket.unwrap_or_else(|| TAILNET_SOCKET_DEFAULT.to_owned());
        if !socket.starts_with('/') {
            return Err(self.bad("tailnet.socket", socket, "an absolute path"));
        }
        let tiers = [("shared", Tier::Shared), ("owner", Tier::Owner)];
        let tier = self.one_of("tailnet.tier", raw.tier, Tier::Shared, &tiers)?;
        let tag_rule = raw.required_tag.map(|tag| self.tag(tag)).transpose()?.map(|tag| TagRule { tag, tier });
        let door = raw.door.unwrap_or(false);
        if door && matches!(mode, TailnetMode::Off | TailnetMode::Embedded) {
            return Err(self.bad("tailnet.door", "true", "false, or `tailnet.mode` auto or host"));
        }
        if let Some(name) = raw.hostname.as_ref().filter(|name| !is_hostname(name)) {
            return Err(self.bad(
                "tailnet.hostname",
                name,
                "1 to 63 of a-z, 0-9 and `-`, and `-` neither first nor last",
            ));
        }
        if let Some((url, why)) = raw.control_url.as_ref().and_then(|url| Some((url, check_control_url(url).err()?))) {
            return Err(self.bad("tailnet.control_url", url, format!("the URL of a control server: {why}")));
        }
        let auth_key = raw.auth_key.map(|key| self.auth_key(key)).transpose()?;
        Ok(Tailnet {
            mode,
            socket: socket.into(),
            tag_rule,
            door,
            hostname: raw.hostname,
            auth_key,
            control_url: raw.control_url,
        })
    }

    /// A tag as tailnets have them: `tag:`, a letter, and letters, digits or dashes.
    fn tag(&self, tag: String) -> Result<String, ConfigError> {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if tag.len() <= limits::TAILNET_TEXT_BYTES_MAX && tag.strip_prefix("tag:").is_some_and(is_name) {
            Ok(tag)
        } else {
            Err(self.bad("tailnet.required_tag", tag, "a tag of a tailnet, such as tag:agent-node"))
        }
    }

    /// Where the key is read when it is needed. One that stands in the file is refused: the file is copied, shown and mailed.
    fn auth_key(&self, key: RawValue) -> Result<Value, ConfigError> {
        match Value::try_from(key) {
            Ok(Value::Text(_)) if self.origins.contains_key(AUTH_KEY) => Ok(Value::Env(AUTH_KEY_VARIABLE.to_owned())),
            Ok(Value::Text(_)) => {
                let rule =
                    "{ secret = \"NAME\" } (`sigil secret set NAME`), { file = \"/path\" } or { env = \"VARIABLE\" }";
                Err(self.bad(AUTH_KEY, "(not shown)", rule))
            }
            Ok(place @ (Value::Secret(_) | Value::Env(_) | Value::File(_))) => Ok(place),
            Err((said, rule)) => Err(self.bad(AUTH_KEY, said, rule)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_comes_of_any_name() {
        for (name, hostname) in [("attic", "attic"), ("Ada's_Phone", "ada-s-phone"), ("--", "sigil"), ("ä", "sigil")] {
            assert_eq!(hostname_of(name), hostname);
        }
        assert!(is_hostname(&hostname_of(&"x-".repeat(80))));
    }
}
