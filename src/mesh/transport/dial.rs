//! Dialling: all addresses of a peer in a race, each a step later than the one before; the first that proves its key wins.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use mesh_core::ids::{PeerId, PublicKey};
use tokio::time::{sleep, timeout};

use super::links::Shared;
use super::tls::{SERVER_NAME, peer_key};

/// Head start of each address over the next (RFC 8305 §5, "Happy Eyeballs", recommends 250 ms).
const RACE_STEP: Duration = Duration::from_millis(250);
/// Time for one handshake.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Addresses that one race tries.
const RACERS_MAX: usize = 40;
/// First and longest pause between two races. Longer ones, such as the half minute of mesh-protocol.md §3, would break its
/// own L1: six seconds after a cut is healed the mesh has settled (with 30 s it took up to 13 s).
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Nobody fit answered.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// What was tried.
    pub(super) tried: Vec<SocketAddr>,
    /// Someone else answered there.
    pub(super) stranger: Option<(SocketAddr, PeerId)>,
}

/// Connects to the first of `addresses` that answers with the key of `expected` (any key, if nobody is expected).
pub(super) async fn race(
    shared: &Arc<Shared>,
    addresses: &[SocketAddr],
    expected: Option<PeerId>,
) -> Result<(quinn::Connection, PublicKey, SocketAddr), Unanswered> {
    let mut distinct = BTreeSet::new();
    let tried: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| canonical(*address))
        .filter(|address| address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast())
        .filter(|address| distinct.insert(*address))
        .take(RACERS_MAX)
        .collect();
    let mut waiting = tried.iter().copied();
    let mut racing = FuturesUnordered::new();
    let mut stranger = None;
    let mut next = true;
    loop {
        if next && let Some(address) = waiting.next() {
            racing.push(connect(shared, address, expected));
        }
        if racing.is_empty() {
            return Err(Unanswered { tried, stranger });
        }
        next = tokio::select! {
            biased;
            ended = racing.next() => match ended {
                Some(Ok(winner)) => return Ok(winner),
                Some(Err(who)) => {
                    stranger = stranger.or(who);
                    true
                }
                None => true,
            },
            () = sleep(RACE_STEP), if waiting.len() > 0 => true,
        };
    }
}

async fn connect(
    shared: &Arc<Shared>,
    address: SocketAddr,
    expected: Option<PeerId>,
) -> Result<(quinn::Connection, PublicKey, SocketAddr), Option<(SocketAddr, PeerId)>> {
    let verifier = shared.credentials.verifier(expected);
    let connecting = shared
        .credentials
        .client(verifier.clone())
        .ok()
        .map(|crypto| {
            let mut config = quinn::ClientConfig::new(Arc::new(crypto));
            config.transport_config(shared.transport.clone());
            config
        })
        .and_then(|config| shared.endpoint.connect_with(config, address, SERVER_NAME).ok())
        .ok_or(None)?;
    match timeout(HANDSHAKE_MAX, connecting).await {
        Ok(Ok(connection)) => match peer_key(&connection) {
            Some(key) if key.peer_id() != shared.me => Ok((connection, key, address)),
            _ => Err(None),
        },
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no answer");
            Err(verifier.stranger().map(|peer| (address, peer)))
        }
        Err(_) => Err(None),
    }
}

/// IPv4 as IPv4, also where a dual-stack socket shows it mapped into IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (v4, v6.port()).into(),
            None => address,
        },
    }
}

/// Pauses that double from 0.2 s to 2 s, each drawn between half and all of its length, so that peers that lost each
/// other in the same moment do not stay in step.
#[derive(Debug, Clone, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// The next pause; `random` is any number.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let full = BACKOFF_MIN.saturating_mul(1 << self.0.min(16)).min(BACKOFF_MAX);
        self.0 = self.0.saturating_add(1);
        let half = full / 2;
        half + Duration::from_millis(random % (half.as_millis() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_longest_and_stay() {
        let mut backoff = Backoff::default();
        for n in 0..100 {
            let pause = backoff.next(n * 7919);
            let full = Duration::from_millis(200 * (1 << n.min(16))).min(BACKOFF_MAX);
            assert!(pause >= full / 2 && pause <= full, "{n}: {pause:?}");
        }
    }

    #[test]
    fn mapped_addresses_become_what_people_know() {
        assert_eq!(canonical("[::ffff:192.168.1.2]:7433".parse().unwrap()), "192.168.1.2:7433".parse().unwrap());
        assert_eq!(canonical("[fd00::1]:7433".parse().unwrap()), "[fd00::1]:7433".parse().unwrap());
    }
}
