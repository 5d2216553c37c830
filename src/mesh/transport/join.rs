//! Joining: the one conversation that a stranger may have. It asks once and waits on the same stream for the answer.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{PeerId, PublicKey};
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::address::{Address, canonical};
use super::dial::{self, Unanswered};
use super::event::LinkEvent;
use super::join_messages::{JoinAnswer, JoinAttempt, JoinConversation, JoinDialError, JoinRequest, RefusalCode};
use super::link::Answered;
use super::quic::{self, Code};
use super::shared::LinksState;
use super::strangers::Place;
use super::stream::{self, Tag};
use super::underlay::UnderlayKind;
use super::wire;
use crate::mesh::tailnet::Identity;

/// Time for the request after the stream is open.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Time for the first answer: a redeemed invite needs one fsync.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// A join request keeps its connection for this long; whoever still wants in asks again.
const WAIT_MAX: Duration = Duration::from_mins(15);
/// Time for the other end to take the last answer: a welcome may have megabytes.
const LAST_MAX: Duration = Duration::from_secs(30);

/// The peer that answers there, and at which of the addresses; nothing is asked of it.
pub(super) async fn identify(
    shared: &Arc<LinksState>,
    addresses: &[Address],
) -> Result<(PeerId, Address), JoinDialError> {
    let answered = dial::race(shared, addresses, None).await;
    let Answered { connection, key, address, .. } = answered.map_err(nobody)?;
    Code::Done.close(&connection);
    Ok((key.peer_id(), address))
}

/// The newcomer's side.
pub(super) async fn ask(
    shared: &Arc<LinksState>,
    addresses: &[Address],
    expected: Option<PeerId>,
    request: &JoinRequest,
) -> Result<JoinConversation, JoinDialError> {
    let Answered { connection, key, address, .. } = dial::race(shared, addresses, expected).await.map_err(nobody)?;
    quic::raise_window(&connection);
    let opening = async {
        let (mut send, recv) = stream::open(&connection, Tag::Join).await?;
        stream::write_message(&mut send, wire::encode_join_request(request)).await?;
        let _ = send.finish();
        Ok::<_, stream::StreamError>(recv)
    };
    let Ok(Ok(recv)) = timeout(REQUEST_MAX, opening).await else {
        let busy = Code::Overload.is_why(&connection);
        return Err(if busy { JoinDialError::Busy { address } } else { JoinDialError::Broken { address } });
    };
    let (answers_tx, answers) = mpsc::channel(4);
    let task = shared.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = hear(&task, &connection, recv, &answers_tx) => {}
            () = answers_tx.closed() => {}
        }
        Code::Done.close(&connection);
    });
    Ok(JoinConversation { key, peer: key.peer_id(), address, answers })
}

/// The reason for which nobody was met.
fn nobody(unanswered: Unanswered) -> JoinDialError {
    let Unanswered { tried, stranger, not_found } = unanswered;
    match (stranger, not_found.into_iter().next()) {
        (Some((address, peer)), _) => JoinDialError::Stranger { address, peer },
        (None, Some(name)) if tried.len() == 1 => JoinDialError::UnknownHost { host: name.host().to_owned() },
        (None, _) => JoinDialError::Nobody { tried },
    }
}

/// Passes on what the other end answers, until its last answer or the end of the connection.
async fn hear(
    shared: &LinksState,
    connection: &quinn::Connection,
    mut recv: RecvStream,
    answers: &mpsc::Sender<JoinAnswer>,
) {
    while let Ok(Some(bytes)) = stream::read_message(&mut recv, wire::WELCOME_BYTES_MAX).await {
        let answer = match wire::decode_join_answer(bytes, &shared.verifier) {
            Ok(answer) => answer,
            Err(error) => return tracing::debug!(%error, "an answer to our join does not check"),
        };
        let more = matches!(answer, JoinAnswer::Waiting { .. });
        if matches!(answer, JoinAnswer::Welcome(_)) {
            note_join(shared, connection);
        }
        if answers.send(answer).await.is_err() || !more {
            return;
        }
    }
    if Code::Overload.is_why(connection) {
        let detail = "too many devices ask there just now; try again in a minute".to_owned();
        let _ = answers.send(JoinAnswer::Refused { code: RefusalCode::TooMany, detail }).await;
    }
}

/// A newcomer, as the handshake and the endpoint know it.
pub(super) struct Guest {
    pub(super) key: PublicKey,
    pub(super) underlay: UnderlayKind,
    /// The node of the tailnet that it comes from, if it comes over one.
    pub(super) tailnet: Option<Identity>,
    /// Its place among the strangers; a member that asks again has none.
    pub(super) place: Option<Place>,
}

/// The other side: reads the request, hands it on, and passes the answers back until the last one. A newcomer that
/// waits for a person has one of the places that the mesh gives to such; its stranger's place is free for the next,
/// which may have an invite.
pub(super) async fn serve(
    shared: &Arc<LinksState>,
    connection: &quinn::Connection,
    guest: Guest,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let Guest { key, underlay, tailnet, mut place } = guest;
    let request = match timeout(REQUEST_MAX, stream::read_message(&mut recv, wire::JOIN_REQUEST_BYTES_MAX)).await {
        Ok(Ok(Some(bytes))) => wire::decode_join_request(bytes),
        _ => return,
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            let detail = error.to_string();
            last(&mut send, &JoinAnswer::Refused { code: RefusalCode::Invalid, detail }).await;
            return;
        }
    };
    let (answers, mut inbox) = mpsc::channel(4);
    let address = canonical(connection.remote_address());
    let attempt = JoinAttempt { key, peer: key.peer_id(), underlay, tailnet, address, request, answers };
    if shared.events.send(LinkEvent::JoinAttempt(attempt)).await.is_err() {
        return;
    }
    let mut patience = ANSWER_MAX;
    loop {
        let answer = tokio::select! {
            answer = timeout(patience, inbox.recv()) => answer,
            _ = connection.closed() => return,
        };
        match answer {
            Ok(Some(answer @ JoinAnswer::Waiting { .. })) => {
                patience = WAIT_MAX;
                drop(place.take());
                let Ok(bytes) = wire::encode_join_answer(&answer) else { return };
                if stream::write_message(&mut send, bytes).await.is_err() {
                    return;
                }
            }
            Ok(Some(answer @ (JoinAnswer::Welcome(_) | JoinAnswer::Refused { .. }))) => {
                if matches!(answer, JoinAnswer::Welcome(_)) {
                    note_join(shared, connection);
                }
                last(&mut send, &answer).await;
                return;
            }
            Ok(None) | Err(_) => return,
        }
    }
}

/// The network over which a device joins is one that our devices know.
fn note_join(shared: &LinksState, connection: &quinn::Connection) {
    shared.lan.note_join(connection.remote_address(), &shared.underlays.udp.own.borrow().interfaces);
}

/// Sends the last answer and waits until it has arrived.
async fn last(send: &mut SendStream, answer: &JoinAnswer) {
    let Ok(bytes) = wire::encode_join_answer(answer) else { return };
    let sending = async {
        if stream::write_message(send, bytes).await.is_ok() && send.finish().is_ok() {
            let _ = send.stopped().await;
        }
    };
    let _ = timeout(LAST_MAX, sending).await;
}
