//! Several homes in one mesh.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Home, PATIENCE, text, wait_for, wait_until};

const ENDINGS: [&str; 7] = ["done", "failed", "interrupted", "expired", "cancelled", "denied", "undeliverable"];

/// True if a call has an ending.
pub(crate) fn call_is_over(call: &Value) -> bool {
    ENDINGS.contains(&text(call, "state"))
}

/// Waits until all these homes name the same gateway in the same epoch, and list each other as online, with their tools.
#[track_caller]
pub(crate) fn wait_converged(homes: &[&Home], within: Duration) {
    wait_until("one gateway, one epoch, everyone online at everyone", within, || {
        let gateways: Vec<_> = homes.iter().map(|home| home.gateway()).collect();
        gateways[0].is_some()
            && gateways.windows(2).all(|pair| pair[0] == pair[1])
            && homes
                .iter()
                .all(|home| homes.iter().all(|other| home.node_state(&other.name).as_deref() == Some("online")))
            && homes
                .iter()
                .all(|home| homes.iter().all(|other| home.tool(&format!("node:{}:device.info", other.name)).is_some()))
    });
}

/// Homes in one mesh. The founder is the first.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) homes: Vec<Home>,
}

impl Mesh {
    /// Starts these homes and joins all to the first.
    #[track_caller]
    pub(crate) fn of(homes: Vec<Home>) -> Self {
        let mut mesh = Self { homes };
        for home in &mut mesh.homes {
            home.start();
        }
        let (founder, others) = mesh.homes.split_first().expect("a mesh has a founder");
        for other in others {
            let response = other.join(&founder.invite());
            assert!((200..300).contains(&response.status), "{} cannot join: {}", other.name, response.text());
        }
        mesh.wait_converged();
        mesh
    }

    /// Homes with these names and nothing special.
    #[track_caller]
    pub(crate) fn named(names: &[&str]) -> Self {
        Self::of(names.iter().map(|name| Home::new(name)).collect())
    }

    /// Waits until the running homes agree.
    #[track_caller]
    pub(crate) fn wait_converged(&self) {
        let running: Vec<&Home> = self.homes.iter().filter(|home| home.runs()).collect();
        wait_converged(&running, PATIENCE);
    }

    /// Which home leads, as the others say, too.
    #[track_caller]
    pub(crate) fn leader(&self) -> usize {
        let by_peer: BTreeMap<String, usize> = self
            .homes
            .iter()
            .enumerate()
            .filter(|(_, home)| home.runs())
            .map(|(index, home)| (home.peer_id(), index))
            .collect();
        wait_for("all running homes name one of them as gateway", PATIENCE, || {
            let mut named = by_peer.values().map(|&index| self.homes[index].gateway());
            let first = named.next()??;
            if !named.all(|other| other.as_ref() == Some(&first)) {
                return None;
            }
            by_peer.get(&first.0).copied()
        })
    }

    /// A running home that does not lead.
    #[track_caller]
    pub(crate) fn follower(&self) -> usize {
        let leader = self.leader();
        (0..self.homes.len()).find(|&index| index != leader && self.homes[index].runs()).expect("a follower runs")
    }

    /// Fails when an (id, attempt) ran twice, over all homes.
    #[track_caller]
    pub(crate) fn assert_nothing_ran_twice(&self) {
        let mut runs: BTreeMap<(String, u8), Vec<&str>> = BTreeMap::new();
        for home in &self.homes {
            for run in home.witness() {
                runs.entry(run).or_default().push(&home.name);
            }
        }
        let doubles: Vec<_> = runs.iter().filter(|(_, at)| at.len() > 1).collect();
        assert!(doubles.is_empty(), "ran more than once: {doubles:?}");
    }

    /// All runs of a call, over all homes.
    #[track_caller]
    pub(crate) fn runs_of(&self, id: &str) -> Vec<u8> {
        self.homes.iter().flat_map(|home| home.runs_of(id)).collect()
    }

    /// Fails when the witness files do not bear out what the books say of a finished call of a `once` tool.
    #[track_caller]
    pub(crate) fn assert_told_truly(&self, call: &Value) {
        let runs = self.runs_of(text(call, "id")).len();
        match text(call, "state") {
            "done" => assert_eq!(runs, 1, "{call}"),
            "expired" | "cancelled" | "denied" if call["confirmed"] == true => assert_eq!(runs, 0, "{call}"),
            "interrupted" | "failed" | "expired" | "cancelled" | "denied" | "undeliverable" => {
                assert!(runs <= 1, "{call}");
            }
            _ => panic!("no ending: {call}"),
        }
    }
}
