//! Joining: the one conversation that a stranger may have. It asks once and waits on the same stream for the answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{NodeId, PeerId, PublicKey};
use mesh_core::io::Welcome;
use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::accept::Place;
use super::dial::{self, Unanswered};
use super::links::{LinkEvent, Shared};
use super::quic::{self, Code};
use super::stream::{self, Tag};
use super::wire;

/// Time for the request after the stream is open.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Time for the first answer: a redeemed invite needs one fsync.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// A join request keeps its connection for this long; whoever still wants in asks again.
const WAIT_MAX: Duration = Duration::from_mins(15);
/// Time for the other end to take the last answer: a welcome may have megabytes.
const LAST_MAX: Duration = Duration::from_secs(30);

/// What a newcomer says. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Secret of an invite; none = a join request, to be approved by hand.
    pub secret: Option<[u8; 16]>,
    /// Name that it asks for.
    pub node_id: NodeId,
    /// "linux", …; at most 64 bytes, no control characters.
    pub platform: String,
    /// Version of its program; the same limits.
    pub version: String,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("secret", &self.secret.map(|_| "…"))
            .field("node_id", &self.node_id)
            .field("platform", &self.platform)
            .field("version", &self.version)
            .finish()
    }
}

/// An answer to a newcomer. `Waiting` may come first, once; the others end the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinAnswer {
    /// The join request was noted and waits for a person.
    Waiting {
        /// Handle of the peer that was asked.
        node_id: NodeId,
    },
    /// You are in.
    Welcome(Box<Welcome>),
    /// No.
    Refused {
        /// See `JoinRefusal` in `mesh.proto`.
        code: String,
        /// For people.
        detail: String,
    },
}

/// Someone asks to join. Its key is proven; nothing else of it is.
#[derive(Debug)]
pub struct JoinAttempt {
    /// Its key.
    pub key: PublicKey,
    /// Its identity.
    pub peer: PeerId,
    /// Where it asks from.
    pub address: SocketAddr,
    /// What it says.
    pub request: JoinRequest,
    /// Where the answers go; holds 4. Closed when the newcomer has gone; dropping it ends the conversation unanswered.
    pub answers: mpsc::Sender<JoinAnswer>,
}

/// What the newcomer hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinStep {
    /// A person over there must say yes; another step follows.
    Waiting {
        /// Handle of the peer that was asked.
        node_id: NodeId,
    },
    /// We are in; every entry has been checked.
    Welcome(Box<Welcome>),
    /// No.
    Refused {
        /// See `JoinRefusal` in `mesh.proto`.
        code: String,
        /// For people.
        detail: String,
    },
    /// The conversation broke before its end: ask again.
    Lost,
}

/// A conversation under way. Dropping it ends it.
#[derive(Debug)]
pub struct JoinConversation {
    /// Who answers; its key is proven.
    pub key: PublicKey,
    /// Its identity.
    pub peer: PeerId,
    /// Where it answers.
    pub address: SocketAddr,
    /// What it says. Ends after `Welcome`, `Refused` or `Lost`.
    pub steps: mpsc::Receiver<JoinStep>,
}

/// Why no conversation began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinDialError {
    /// Nobody answers.
    #[error("nobody answers at {}", shown(.tried))]
    Nobody {
        /// What was tried.
        tried: Vec<SocketAddr>,
    },
    /// Someone answers, with another key than expected.
    #[error("another device, {}, answers at {address}", .peer.short())]
    Stranger {
        /// Where.
        address: SocketAddr,
        /// Who it says it is.
        peer: PeerId,
    },
    /// Someone answers, and has too many guests.
    #[error("the device at {address} has too many guests just now; try again in a minute")]
    Busy {
        /// Where.
        address: SocketAddr,
    },
    /// The connection broke before the request was excluded.
    #[error("the connection to {address} broke")]
    Broken {
        /// To where.
        address: SocketAddr,
    },
}

fn shown(addresses: &[SocketAddr]) -> String {
    if addresses.is_empty() {
        return "any address: none is known".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The newcomer's side.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    addresses: &[SocketAddr],
    expected: Option<PeerId>,
    request: &JoinRequest,
) -> Result<JoinConversation, JoinDialError> {
    let (connection, key, address) =
        dial::race(shared, addresses, expected).await.map_err(|Unanswered { tried, stranger }| match stranger {
            Some((address, peer)) => JoinDialError::Stranger { address, peer },
            None => JoinDialError::Nobody { tried },
        })?;
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
    let (steps_tx, steps) = mpsc::channel(4);
    let task = shared.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = hear(&task, &connection, recv, &steps_tx) => {}
            () = steps_tx.closed() => {}
        }
        Code::Done.close(&connection);
    });
    Ok(JoinConversation { key, peer: key.peer_id(), address, steps })
}

async fn hear(shared: &Shared, connection: &quinn::Connection, mut recv: RecvStream, steps: &mpsc::Sender<JoinStep>) {
    loop {
        let answer = match stream::read_message(&mut recv, wire::WELCOME_BYTES_MAX).await {
            Ok(Some(bytes)) => wire::decode_join_answer(bytes, &shared.verifier),
            Ok(None) | Err(_) => break,
        };
        let step = match answer {
            Ok(JoinAnswer::Waiting { node_id }) => JoinStep::Waiting { node_id },
            Ok(JoinAnswer::Welcome(welcome)) => JoinStep::Welcome(welcome),
            Ok(JoinAnswer::Refused { code, detail }) => JoinStep::Refused { code, detail },
            Err(error) => {
                tracing::debug!(%error, "an answer to our join does not check");
                break;
            }
        };
        let more = matches!(step, JoinStep::Waiting { .. });
        if steps.send(step).await.is_err() || !more {
            return;
        }
    }
    let last = if Code::Overload.is_why(connection) {
        let detail = "too many devices ask there just now; try again in a minute".to_owned();
        JoinStep::Refused { code: "too_many".to_owned(), detail }
    } else {
        JoinStep::Lost
    };
    let _ = steps.send(last).await;
}

/// The other side: reads the request, hands it on, and passes the answers back until the last one. Whoever waits for a
/// person has one of the places that the mesh gives to such; its stranger's place is free for the next, who may have an
/// invite.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    connection: &quinn::Connection,
    key: PublicKey,
    mut send: SendStream,
    mut recv: RecvStream,
    mut place: Option<Place>,
) {
    let request = match timeout(REQUEST_MAX, stream::read_message(&mut recv, wire::JOIN_REQUEST_BYTES_MAX)).await {
        Ok(Ok(Some(bytes))) => wire::decode_join_request(bytes),
        _ => return,
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            let detail = error.to_string();
            last(&mut send, &JoinAnswer::Refused { code: "invalid".to_owned(), detail }).await;
            return;
        }
    };
    let (answers, mut inbox) = mpsc::channel(4);
    let address = dial::canonical(connection.remote_address());
    let attempt = JoinAttempt { key, peer: key.peer_id(), address, request, answers };
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
                last(&mut send, &answer).await;
                return;
            }
            Ok(None) | Err(_) => return,
        }
    }
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
