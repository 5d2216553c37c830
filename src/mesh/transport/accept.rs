//! The accepting side of one underlay: who comes in, how fast, and how far a stranger gets.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::address::canonical;
use super::dial::HANDSHAKE_MAX;
use super::embedded_door::Visit;
use super::join;
use super::quic::Code;
use super::relay;
use super::session::{self, HELLO_MAX};
use super::shared::LinksState;
use super::strangers::{Knock, Screening};
use super::stream::{self, Tag};
use super::tls::peer_key;
use super::underlay::{Underlay, UnderlayKind};
use crate::mesh::tailnet::Identity;

/// Accepts until the endpoint of the underlay closes.
pub(super) async fn run(shared: Arc<LinksState>, underlay: Arc<Underlay>) {
    while let Some(incoming) = underlay.endpoint.accept().await {
        let ip = canonical(incoming.remote_address()).ip();
        // Whose address cannot be asked for a proof has given one.
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        let knock = Knock { ip, proven, known: shared.is_known_address(ip) };
        let place = match underlay.strangers.admit(knock, Instant::now()) {
            Screening::Begin(place) => place,
            Screening::Prove => {
                let _ = incoming.retry();
                continue;
            }
            Screening::Ignore => {
                incoming.ignore();
                continue;
            }
        };
        let (shared, underlay) = (shared.clone(), underlay.clone());
        shared.tasks.clone().spawn(async move {
            let Ok(connecting) = incoming.accept() else { return };
            let Ok(Ok(connection)) = timeout(HANDSHAKE_MAX, connecting).await else { return };
            drop(place);
            greet(&shared, &underlay, connection).await;
        });
    }
}

/// The handshake is done and the key proven: sees what the peer wants.
async fn greet(shared: &Arc<LinksState>, underlay: &Underlay, connection: quinn::Connection) {
    let Some(key) = peer_key(&connection) else { return Code::Protocol.close(&connection) };
    let peer = key.peer_id();
    // By a relay come members alone, each at the address that its relay opened for it.
    if underlay.kind == UnderlayKind::Relay && (!shared.is_member(peer) || !relay::prove(shared, &connection, peer)) {
        return Code::Protocol.close(&connection);
    }
    // The socket takes packets of the tailnet alone, and the handshake shows that answers arrive: who is at the address
    // is the one that we hear.
    let from = connection.remote_address();
    let tailnet = match underlay.kind {
        UnderlayKind::Tailnet => shared.underlays.tailnet.who_is(from).await,
        UnderlayKind::TailnetEmbedded => shared.underlays.embedded.who_is(from).await,
        UnderlayKind::Udp | UnderlayKind::Relay => None,
    };
    if tailnet.is_none() && underlay.kind.is_tailnet() {
        return Code::Protocol.close(&connection);
    }
    if let Some(Identity { node, .. }) = &tailnet
        && !shared.may_come_from(peer, node, from)
    {
        return Code::OtherNode.close(&connection);
    }
    let ip = canonical(connection.remote_address()).ip();
    let is_member = shared.is_member(peer);
    if let Some(Identity { node, .. }) = tailnet.as_ref().filter(|_| !is_member) {
        shared.underlays.embedded.note_visit(Visit { peer, from: canonical(from), node: node.clone() });
    }
    let (place, greeting) = if is_member {
        if underlay.kind == UnderlayKind::Udp {
            shared.member_addresses.note(peer, ip);
        }
        (None, shared.greetings.enter(peer))
    } else {
        (underlay.strangers.enter(ip), None)
    };
    if place.is_none() && greeting.is_none() {
        return Code::Overload.close(&connection);
    }
    let first = async {
        let (send, mut recv) = connection.accept_bi().await.ok()?;
        let tag = stream::read_tag(&mut recv).await.ok()?;
        Some((tag, send, recv))
    };
    match timeout(HELLO_MAX, first).await {
        Ok(Some((Tag::Join, send, recv))) => {
            let guest = join::Guest { key, underlay: underlay.kind, tailnet, place };
            join::serve(shared, &connection, guest, send, recv).await;
            Code::Done.close(&connection);
        }
        Ok(Some((Tag::Who, send, _))) => {
            tell_name(shared, underlay, connection.remote_address(), is_member, send).await;
            Code::Done.close(&connection);
        }
        Ok(Some((tag @ (Tag::Mesh | Tag::Moved), send, recv))) if shared.may_link(peer) => {
            drop(greeting);
            session::accepted(shared, connection, key, underlay.kind, tag == Tag::Moved, send, recv).await;
        }
        Ok(Some((Tag::Mesh | Tag::Moved | Tag::Service(_) | Tag::Blob, ..))) if !shared.is_member(peer) => {
            Code::Revoked.close(&connection);
        }
        Ok(Some((Tag::Mesh | Tag::Moved | Tag::Service(_) | Tag::Blob, ..)) | None) => {
            Code::Protocol.close(&connection);
        }
        Err(_) => Code::Timeout.close(&connection),
    }
}

/// Tells our name to one that asks from there, if it may know it.
async fn tell_name(
    shared: &LinksState,
    underlay: &Underlay,
    from: SocketAddr,
    is_member: bool,
    mut send: quinn::SendStream,
) {
    let zone = if let SocketAddr::V6(v6) = from { v6.scope_id() } else { 0 };
    let own = underlay.own.borrow().interfaces.clone();
    let name = if is_member { shared.lan.name() } else { shared.lan.name_for(canonical(from).ip(), zone, &own) };
    let Some(name) = name else { return };
    let telling = async {
        let told = stream::write_message(&mut send, name.as_str().to_owned().into()).await;
        if told.is_ok() && send.finish().is_ok() {
            let _ = send.stopped().await;
        }
    };
    let _ = timeout(HELLO_MAX, telling).await;
}
