//! Networks on which strangers may learn who this device is, and the answer to those who ask.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use mesh_core::ids::{Hash, NodeId};
use tokio::time::Instant;

use super::interfaces::{Interface, Interfaces};

/// Networks that are kept; the file then forgets any of them.
const NETWORKS_MAX: usize = 64;
/// Time after the first start of a home during which every network becomes known: it is being set up.
const SETTING_UP: Duration = Duration::from_mins(10);

/// Networks on which strangers may learn this device's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// All.
    EveryNetwork,
    /// Those on which the home was started first, or over which a device has joined.
    KnownNetworks,
}

/// The face of this device on local networks; none when discovery is switched off.
#[derive(Debug, Default)]
pub(super) struct Face(OnceLock<(NodeId, Networks)>);

impl Face {
    /// Begins to have one.
    pub(super) fn open(&self, name: NodeId, networks: Networks) {
        // There is one discovery for each run of the links.
        let _ = self.0.set((name, networks));
    }

    /// The name to tell a stranger that asks from this address, if it may know it.
    pub(super) fn name_for(&self, ip: IpAddr, zone: u32, own: &Interfaces) -> Option<&NodeId> {
        let (name, networks) = self.0.get()?;
        networks.is_known(own.of(ip, zone)).then_some(name)
    }

    /// The name to tell a member.
    pub(super) fn name(&self) -> Option<&NodeId> {
        self.0.get().map(|(name, _)| name)
    }

    /// True if strangers at this address may be asked who they are, which shows them our key.
    #[cfg(feature = "lan")]
    pub(super) fn may_ask(&self, ip: IpAddr, zone: u32, own: &Interfaces) -> bool {
        self.name_for(ip, zone, own).is_some()
    }

    /// A device has joined over the network of this address: it is one where devices of this mesh belong.
    pub(super) fn note_join(&self, from: SocketAddr, own: &Interfaces) {
        let zone = if let SocketAddr::V6(v6) = from { v6.scope_id() } else { 0 };
        if let (Some((_, networks)), Some(interface)) = (self.0.get(), own.of(from.ip().to_canonical(), zone)) {
            networks.add(interface);
        }
    }

    /// Looks where we are: while the home is being set up, that is known.
    #[cfg(feature = "lan")]
    pub(super) fn look(&self, own: &Interfaces) {
        if let Some((_, networks)) = self.0.get()
            && networks.is_set_up_until.is_some_and(|until| Instant::now() < until)
        {
            own.all.iter().for_each(|interface| networks.add(interface));
        }
    }
}

/// The networks that are known.
#[derive(Debug)]
pub(super) struct Networks {
    show: Show,
    file: PathBuf,
    is_set_up_until: Option<Instant>,
    known: Mutex<BTreeSet<Hash>>,
}

impl Networks {
    /// Reads the file; a home without one is being set up.
    pub(super) fn open(file: PathBuf, show: Show) -> Self {
        let text = std::fs::read_to_string(&file);
        let is_set_up_until = text.is_err().then(|| Instant::now() + SETTING_UP);
        let read = |line: &str| HEXLOWER.decode(line.as_bytes()).ok().and_then(|bytes| Hash::from_slice(&bytes));
        let known = text.unwrap_or_default().lines().filter_map(read).collect();
        let networks = Self { show, file, is_set_up_until, known: Mutex::new(known) };
        if is_set_up_until.is_some() {
            networks.keep(&networks.lock());
        }
        networks
    }

    fn is_known(&self, interface: Option<&Interface>) -> bool {
        match self.show {
            Show::EveryNetwork => true,
            Show::KnownNetworks => {
                interface.and_then(Interface::network).is_some_and(|network| self.lock().contains(&network))
            }
        }
    }

    fn add(&self, interface: &Interface) {
        let Some(network) = interface.network() else { return };
        let mut known = self.lock();
        if known.insert(network) {
            while known.len() > NETWORKS_MAX {
                let other = known.iter().find(|other| **other != network).copied();
                other.map(|other| known.remove(&other));
            }
            self.keep(&known);
        }
    }

    fn keep(&self, known: &BTreeSet<Hash>) {
        let text: String = known.iter().map(|network| HEXLOWER.encode(network.as_bytes()) + "\n").collect();
        if let Err(error) = std::fs::write(&self.file, text) {
            tracing::warn!(%error, file = %self.file.display(), "the known networks cannot be kept");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Hash>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::interfaces::Usefulness;
    use super::*;

    fn on(prefix: &str) -> Interfaces {
        let interface = Interface {
            name: "eth7".to_owned(),
            index: 7,
            ips: vec![(format!("{prefix}.7").parse().unwrap(), 24)],
            usefulness: Usefulness::Physical,
        };
        Interfaces { all: vec![interface], loopback: Vec::new() }
    }

    fn face(file: &std::path::Path, show: Show) -> Face {
        let face = Face::default();
        face.open("attic".parse().unwrap(), Networks::open(file.to_owned(), show));
        face
    }

    fn tells(face: &Face, ip: &str, own: &Interfaces) -> bool {
        face.name_for(ip.parse().unwrap(), 0, own).is_some()
    }

    #[test]
    fn s33_a_network_is_known_from_the_first_start_or_by_a_join() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("networks");
        let (home, cafe) = (on("192.168.1"), on("10.1.1"));
        let first = face(&file, Show::KnownNetworks);
        first.look(&home);
        assert!(tells(&first, "192.168.1.9", &home));

        let later = face(&file, Show::KnownNetworks);
        later.look(&cafe);
        assert!(tells(&later, "192.168.1.9", &home), "it was kept");
        assert!(!tells(&later, "10.1.1.9", &cafe));
        assert!(!later.may_ask("10.1.1.9".parse().unwrap(), 0, &cafe));
        // Not from elsewhere either, whatever network we are on.
        assert!(!tells(&later, "8.8.8.8", &home));
        later.note_join("10.1.1.9:7433".parse().unwrap(), &cafe);
        assert!(tells(&later, "10.1.1.9", &cafe));

        assert!(tells(&face(&file, Show::EveryNetwork), "8.8.8.8", &on("10.2.2")));
        assert!(!tells(&Face::default(), "192.168.1.9", &home), "discovery is off");
    }

    #[test]
    fn a_damaged_file_knows_nothing_and_many_networks_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("networks");
        std::fs::write(&file, "nonsense\n\u{0}\n").unwrap();
        let face = face(&file, Show::KnownNetworks);
        for n in 0..200 {
            face.note_join(format!("10.0.{n}.9:7").parse().unwrap(), &on(&format!("10.0.{n}")));
            assert!(tells(&face, &format!("10.0.{n}.9"), &on(&format!("10.0.{n}"))));
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), NETWORKS_MAX);
    }
}
