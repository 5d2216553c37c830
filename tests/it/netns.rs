//! A small network of namespaces: one per peer, all attached to a switch in a namespace of its own. Which peers can
//! reach each other is chosen by plugging their cables into one bridge or another.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The network. Its namespaces go when it goes.
#[derive(Debug)]
pub(crate) struct Network {
    prefix: String,
    peers: usize,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Network {
    /// A switch and `peers` namespaces, all of which can reach each other. The reason when this machine cannot have it.
    pub(crate) fn new(peers: usize) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::Uid::effective().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let prefix = format!("sgl{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let network = Self { prefix, peers };
        let switch = network.switch();
        ip(&format!("netns add {switch}"))?;
        for bridge in 0..peers {
            ip(&format!("-n {switch} link add br{bridge} type bridge"))?;
            // With snooping, a bridge drops multicast until it has seen reports: not what a home network does.
            ip(&format!("-n {switch} link set br{bridge} up type bridge mcast_snooping 0"))?;
        }
        for peer in 0..peers {
            let name = network.namespace(peer);
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!("-n {switch} link add port{peer} type veth peer name eth0 netns {name}"))?;
            ip(&format!("-n {switch} link set port{peer} master br0 up"))?;
            ip(&format!("-n {name} addr add 10.77.0.{}/24 dev eth0", peer + 1))?;
            ip(&format!("-n {name} link set eth0 up"))?;
        }
        Ok(network)
    }

    fn switch(&self) -> String {
        format!("{}s", self.prefix)
    }

    /// Name of a peer's namespace.
    pub(crate) fn namespace(&self, peer: usize) -> String {
        format!("{}p{peer}", self.prefix)
    }

    /// Splits the network: `groups` gives each peer's group.
    #[track_caller]
    pub(crate) fn split(&self, groups: &[usize]) {
        assert_eq!(groups.len(), self.peers);
        for (peer, group) in groups.iter().enumerate() {
            ip(&format!("-n {} link set port{peer} master br{group}", self.switch())).expect("a cable can be moved");
        }
    }

    /// Makes the network whole again.
    #[track_caller]
    pub(crate) fn heal(&self) {
        self.split(&vec![0; self.peers]);
    }

    /// Changes something in a peer's network: `ip -n NAMESPACE …`.
    #[track_caller]
    pub(crate) fn ip(&self, peer: usize, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.namespace(peer))).expect("the network can be changed");
    }

    /// Lets no multicast through at a peer.
    #[track_caller]
    pub(crate) fn without_multicast(&self, peer: usize) {
        ip(&format!("-n {} link set eth0 multicast off", self.namespace(peer))).expect("multicast can be turned off");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was never made cannot be removed, and nothing depends on it: the names are never used again.
        for peer in 0..self.peers {
            let _ = ip(&format!("netns del {}", self.namespace(peer)));
        }
        let _ = ip(&format!("netns del {}", self.switch()));
    }
}

#[test]
fn the_network_of_the_tests_splits_and_heals() {
    let network = match Network::new(2) {
        Ok(network) => network,
        Err(why) => return crate::harness::skip("the_network_of_the_tests_splits_and_heals", &why),
    };
    // Connects over TCP: refused when the other is there (nobody listens), silent when it is not.
    let reach = |from: usize| {
        let namespace = network.namespace(from);
        let to = format!("10.77.0.{}", 2 - from);
        let script = format!("exec 3<>/dev/tcp/{to}/9");
        let output = Command::new("ip")
            .args(["netns", "exec", &namespace, "timeout", "2", "bash", "-c", &script])
            .output()
            .expect("bash is there");
        String::from_utf8_lossy(&output.stderr).contains("refused")
    };
    assert!(reach(0) && reach(1));
    network.split(&[0, 1]);
    assert!(!reach(0));
    network.heal();
    assert!(reach(0));
}
