//! Conversations of ours with peers of other meshes: they run as tasks and report their steps.

use std::time::Duration;

use mesh_core::ids::PeerId;
use mesh_core::io::Welcome;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::mesh::check_words::CheckWords;
use crate::mesh::error::JoinError;
use crate::mesh::transport::{Address, JoinAnswer, JoinConversation, JoinDialError, JoinRequest, Links, RefusalCode};
use crate::tasks::TaskGroup;

/// First and longest pause between two join requests to a device that does not answer.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Time that a redeemed invite may take to get its welcome.
const REDEEM_MAX: Duration = Duration::from_secs(20);
/// Time that the others get to receive our leave once it is durable.
const FAREWELL: Duration = Duration::from_millis(300);

/// A conversation to start.
#[derive(Debug)]
pub(in crate::mesh) struct Ask {
    /// Number under which its steps are reported.
    pub(super) number: u64,
    pub(super) addresses: Vec<Address>,
    /// The peer that must answer.
    pub(super) whom: Whom,
    pub(super) request: JoinRequest,
    /// Ends it when cancelled.
    pub(super) cancel: CancellationToken,
}

/// The peer of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// This one.
    Peer(PeerId),
    /// The one that answers, if it has these check words; without words it is only looked at.
    Answers(Option<CheckWords>),
}

/// A step of a conversation. `Welcome` and `Refused` are the last.
#[derive(Debug)]
pub(in crate::mesh) enum Step {
    /// A person at this peer must approve us.
    Waiting(PeerId),
    /// We are approved.
    Welcome {
        /// All that a newcomer needs.
        welcome: Box<Welcome>,
        /// The peer that says so.
        peer: PeerId,
        /// Its address.
        address: Address,
    },
    /// We are refused, or nobody answers.
    Refused(JoinError),
    /// The others had time to receive our leave.
    FarewellOver,
}

/// The tasks of our conversations.
#[derive(Debug)]
pub(in crate::mesh) struct Conversations {
    links: Links,
    tasks: TaskGroup,
    /// Steps by number of their conversation.
    steps: mpsc::Sender<(u64, Step)>,
}

impl Conversations {
    /// Creates one that reports to `steps`.
    pub(in crate::mesh) fn new(links: Links, tasks: TaskGroup, steps: mpsc::Sender<(u64, Step)>) -> Self {
        Self { links, tasks, steps }
    }

    /// Starts a conversation.
    pub(in crate::mesh) fn start(&self, ask: Ask) {
        let (links, steps, cancel) = (self.links.clone(), self.steps.clone(), ask.cancel.clone());
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(converse(&links, &ask, &steps)).await;
        });
    }

    /// Reports [`Step::FarewellOver`] after a while.
    pub(in crate::mesh) fn wait_for_farewell(&self, number: u64) {
        let steps = self.steps.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            let _ = steps.send((number, Step::FarewellOver)).await;
        });
    }
}

/// The peer to ask. The error says who answers when nobody has said who it should be.
async fn find(links: &Links, ask: &Ask) -> Result<PeerId, JoinError> {
    let words = match ask.whom {
        Whom::Peer(peer) => return Ok(peer),
        Whom::Answers(words) => words,
    };
    let peer = links.identify(&ask.addresses).await.map_err(|error| dial_error(&error, ask))?;
    confirm(peer, None, words)
}

/// The peer, if it has the words that a person has compared.
pub(super) fn confirm(peer: PeerId, name: Option<&str>, words: Option<CheckWords>) -> Result<PeerId, JoinError> {
    let its = CheckWords::of(&peer);
    match words {
        Some(words) if words == its => Ok(peer),
        Some(_) => Err(JoinError::OtherWords { peer, words: its }),
        None => Err(JoinError::Unconfirmed { peer, name: name.map(str::to_owned), words: its }),
    }
}

/// Asks until we are approved or refused. The first conversation decides, unless it comes to wait for a person: then
/// this goes on for as long as nobody has answered.
async fn converse(links: &Links, ask: &Ask, steps: &mpsc::Sender<(u64, Step)>) {
    let peer = match find(links, ask).await {
        Ok(peer) => peer,
        Err(error) => return drop(steps.send((ask.number, Step::Refused(error))).await),
    };
    let mut waits = false;
    let mut pause = ASK_AGAIN_MIN;
    loop {
        let lost = match links.join(&ask.addresses, Some(peer), &ask.request).await {
            Err(error) => dial_error(&error, ask),
            Ok(mut conversation) => loop {
                let Some(step) = next_step(&mut conversation, waits).await else {
                    break JoinError::Rejected("the connection broke before there was an answer".to_owned());
                };
                let is_last = !matches!(step, Step::Waiting(_));
                waits = true;
                pause = ASK_AGAIN_MIN;
                if steps.send((ask.number, step)).await.is_err() || is_last {
                    return;
                }
            },
        };
        if !waits {
            let _ = steps.send((ask.number, Step::Refused(lost))).await;
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MAX);
    }
}

/// The next step; `None` when the conversation broke, or took too long for one that waits for no person.
async fn next_step(conversation: &mut JoinConversation, waits: bool) -> Option<Step> {
    let answer = if waits {
        conversation.answers.recv().await
    } else {
        tokio::time::timeout(REDEEM_MAX, conversation.answers.recv()).await.ok().flatten()
    };
    Some(match answer? {
        JoinAnswer::Waiting { .. } => Step::Waiting(conversation.peer),
        JoinAnswer::Welcome(welcome) => {
            Step::Welcome { welcome, peer: conversation.peer, address: conversation.address.clone() }
        }
        JoinAnswer::Refused { code, detail } => Step::Refused(join_error(code, detail)),
    })
}

fn join_error(code: RefusalCode, detail: String) -> JoinError {
    match code {
        RefusalCode::InviteUsed => JoinError::Used,
        RefusalCode::InviteExpired => JoinError::Expired,
        RefusalCode::InviteUnknown => JoinError::UnknownCode,
        RefusalCode::InviteVoid => JoinError::Void,
        RefusalCode::NeedsNewKey => JoinError::NeedsNewKey,
        RefusalCode::NotOwner
        | RefusalCode::Rejected
        | RefusalCode::TooMany
        | RefusalCode::Invalid
        | RefusalCode::Other => JoinError::Rejected(detail),
    }
}

fn dial_error(error: &JoinDialError, ask: &Ask) -> JoinError {
    if ask.request.secret.is_some() && ask.addresses.iter().all(Address::is_loopback) {
        return JoinError::Unreachable(
            "this code names only loopback addresses, which mean the inviting device itself: it was on no network when \
             it made the code; ask for a new one once it is"
                .to_owned(),
        );
    }
    if let JoinDialError::UnknownHost { .. } = error {
        return JoinError::Unreachable(error.to_string());
    }
    if let JoinDialError::Nobody { tried } = error {
        JoinError::InviterDown { tried: tried.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") }
    } else {
        JoinError::Rejected(error.to_string())
    }
}
