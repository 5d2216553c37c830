//! What goes out of networks that are restricted: a proxy of the agent, which programs there reach by a socket of their own
//! loopback, and nothing else. What its plugin's `egress` names is let out, all of it is told of.

mod ledger;
mod proxy;
mod target;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what a test starts ends with its runtime")]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use sigil_shim::wire::PROXY_PORT;

use crate::plugin::{Egress, EgressHost};

pub use ledger::{Behalf, Told};
pub use proxy::{Gate, Pass, Proxy};

/// The environment by which programs find the proxy.
#[must_use]
pub fn environment(rules: &[Egress]) -> BTreeMap<String, String> {
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    // What listens in its own network is its own, unless it may reach that of the device by such an address.
    let is_loopback = |rule: &Egress| match rule.host {
        EgressHost::Net(IpAddr::V4(net), _) => net.is_loopback(),
        EgressHost::Name(ref name) => name == "localhost",
        EgressHost::Net(IpAddr::V6(_), _) | EgressHost::Below(_) => false,
    };
    let direct = if rules.iter().any(is_loopback) { "" } else { "localhost,127.0.0.1" };
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"].map(|name| (name, proxy.as_str()));
    let others = [("NO_PROXY", direct), ("no_proxy", direct), ("NODE_USE_ENV_PROXY", "1")];
    proxies.into_iter().chain(others).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
