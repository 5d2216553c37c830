//! The caller of a request: the door it came in by, and of a token how far it reaches.

use std::sync::Arc;

use mesh_core::ids::{Hash, PeerId};
use mesh_core::io;
use mesh_core::policy::{Principal, Role, TokenId, View};
use mesh_core::record::Header;
use tokio_util::sync::CancellationToken;

use crate::doors::sessions::Session;
use crate::doors::tokens::Shown;
use crate::mesh::Asker;
use crate::status::{ErrorCode, OpError};

/// A person at another node of the tailnet, whom tailscaled vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The person.
    pub holder: Principal,
    /// Her login as rights have it, see [`Person::login`](mesh_core::policy::Person::login).
    pub hash: Hash,
}

impl Login {
    /// The person who has this login, if something may be asked for her at this device.
    #[must_use]
    pub fn find(hash: Hash, rights: &View, me: &PeerId) -> Option<Self> {
        let holder = Principal::Person(rights.person_by_login(&hash)?.clone());
        rights.admits(me, &holder).then_some(Self { holder, hash })
    }

    /// True if it is still hers, and something may still be asked for her at this device.
    #[must_use]
    pub fn still_counts(&self, rights: &View, me: &PeerId) -> bool {
        Self::find(self.hash, rights, me).as_ref() == Some(self)
    }
}

/// The proven caller of a request. In the extensions of every request that reaches a handler, except on public routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// By the unix socket, whose other end the kernel vouches for: whoever sits at this device.
    Socket,
    /// By the unix socket too, but for itself: an MCP client. It may what its holder may, who is an agent of whoever sits at this
    /// device, and nothing that is left to a person.
    Client(Arc<Principal>),
    /// By HTTP, with a token.
    Token(Arc<Shown>),
    /// By HTTP on the tailnet, without one.
    Login(Arc<Login>),
    /// By loopback HTTP, from the web page: whoever sits at this device, at its browser.
    Session(Arc<Session>),
}

/// Callers that share what one of them may use up at a door.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Budget {
    /// All that come with this token.
    Token(TokenId),
    /// All that come with this login.
    Login(Hash),
    /// All that come with this session.
    Session(String),
    /// All clients on the socket that ask for the same.
    Client(Principal),
}

impl Identity {
    /// The token, if it came with one.
    #[must_use]
    pub fn token(&self) -> Option<&Shown> {
        match self {
            Self::Socket | Self::Client(_) | Self::Login(_) | Self::Session(_) => None,
            Self::Token(shown) => Some(shown),
        }
    }

    /// Whom the caller asks for; `None` by the socket: the mesh knows who sits at this device.
    #[must_use]
    pub fn holder(&self) -> Option<&Principal> {
        match self {
            Self::Socket => None,
            Self::Client(holder) => Some(holder),
            Self::Token(shown) => Some(&shown.holder),
            Self::Login(login) => Some(&login.holder),
            Self::Session(session) => Some(&session.holder),
        }
    }

    /// True if it is whoever sits at this device: through the socket, or by a session of the web page.
    #[must_use]
    pub fn sits_here(&self) -> bool {
        match self {
            Self::Socket | Self::Session(_) => true,
            Self::Client(_) | Self::Token(_) | Self::Login(_) => false,
        }
    }

    /// True if what it showed still counts at this device.
    #[must_use]
    pub fn still_counts(&self, view: &io::View, now_ms: u64) -> bool {
        match self {
            Self::Socket => true,
            Self::Client(holder) => view.rights.admits(&view.me, holder),
            Self::Token(shown) => shown.still_counts(&view.rights, &view.me, now_ms),
            Self::Login(login) => login.still_counts(&view.rights, &view.me),
            Self::Session(session) => session.still_counts(view),
        }
    }

    /// True unless it is a token that opens less than its holder may use.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.token().is_none_or(|shown| shown.is_whole)
    }

    /// Cancelled when somebody ends it; nobody ever does but of a session.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        match self {
            Self::Socket | Self::Client(_) | Self::Token(_) | Self::Login(_) => CancellationToken::new(),
            Self::Session(session) => session.ended(),
        }
    }

    /// A name by which callers that share a budget are told from others; `None` by the socket, which has none.
    #[must_use]
    pub fn budget(&self) -> Option<Budget> {
        match self {
            Self::Socket | Self::Client(_) => None,
            Self::Token(shown) => Some(Budget::Token(shown.id.clone())),
            Self::Login(login) => Some(Budget::Login(login.hash)),
            Self::Session(session) => Some(Budget::Session(session.id.clone())),
        }
    }

    /// The same of who holds places of a door. Clients have one too: whoever sits here is not kept out by an agent of hers.
    #[must_use]
    pub fn seats(&self) -> Option<Budget> {
        match self {
            Self::Client(holder) => Some(Budget::Client((**holder).clone())),
            Self::Socket | Self::Token(_) | Self::Login(_) | Self::Session(_) => self.budget(),
        }
    }

    /// `Err` unless the caller came by the socket. `what` happens through it only, as a sentence's subject and verb;
    /// `next` is the next step.
    ///
    /// # Errors
    /// [`ErrorCode::Denied`].
    pub fn require_socket(&self, what: &str, next: &str) -> Result<(), OpError> {
        match self {
            Self::Socket => Ok(()),
            Self::Client(_) | Self::Token(_) | Self::Login(_) | Self::Session(_) => {
                Err(OpError::new(ErrorCode::Denied, format!("{what} through the unix socket only")).hint(next))
            }
        }
    }

    /// `Err` unless the caller came by the socket, or has signed in to the web page within the last
    /// [`FRESH`](crate::doors::sessions::FRESH): whoever sits at this device, and shows that she still does. `what` and `next`
    /// as of [`Self::require_socket`].
    ///
    /// # Errors
    /// [`ErrorCode::NotFresh`] for an older session, [`ErrorCode::Denied`] for everybody else.
    pub fn require_fresh(&self, now_ms: u64, what: &str, next: &str) -> Result<(), OpError> {
        match self {
            Self::Session(session) if session.is_fresh(now_ms) => Ok(()),
            Self::Session(_) => {
                Err(OpError::new(ErrorCode::NotFresh, format!("{what} within 5 minutes after signing in to this page"))
                    .hint("run `sigil ui` again on this device, and do it then"))
            }
            Self::Socket | Self::Client(_) | Self::Token(_) | Self::Login(_) => self.require_socket(what, next),
        }
    }

    /// `Err` unless the caller may look after the mesh: through the socket, where the mesh itself asks for the tier, or by
    /// a token that is narrowed in nothing and is for an owner or admin of the mesh, or as one of these over the tailnet.
    ///
    /// # Errors
    /// [`ErrorCode::Denied`].
    pub fn require_admin(&self, rights: &View) -> Result<(), OpError> {
        if self.is_admin(rights) {
            return Ok(());
        }
        let subject = match self {
            Self::Token(_) => "this token",
            Self::Login(_) => "whoever has this login",
            Self::Client(_) => "this client",
            Self::Socket | Self::Session(_) => "whoever sits at this device",
        };
        Err(OpError::new(ErrorCode::Denied, format!("{subject} calls tools and looks after nothing else"))
            .hint("run `sigil` on this machine, or use a token of an owner or admin that is not narrowed"))
    }

    /// True if [`Self::require_admin`] lets the caller through.
    #[must_use]
    pub fn is_admin(&self, rights: &View) -> bool {
        self.may_look(rights) && self.token().is_none_or(|shown| !shown.read_only)
    }

    /// True if the caller may see how the mesh is looked after: through the socket, or as an owner or admin of the mesh, unless
    /// by a token that is narrowed to devices or tools.
    #[must_use]
    pub fn may_look(&self, rights: &View) -> bool {
        let Some(holder) = self.holder() else { return true };
        let role = match holder {
            Principal::Person(person) => rights.role(person),
            Principal::Agent(..) | Principal::Device(_) => None,
        };
        self.is_whole() && role >= Some(Role::Admin)
    }

    /// True if the caller may use memory: who may see how the mesh is looked after, and an MCP client by the socket whose person
    /// is an owner or admin of the mesh, since whoever runs as this user could ask as she anyway.
    #[must_use]
    pub fn may_use_memory(&self, rights: &View) -> bool {
        let of_admin = |holder: &Principal| holder.person().and_then(|person| rights.role(person)) >= Some(Role::Admin);
        match self {
            Self::Client(holder) => of_admin(holder),
            Self::Socket | Self::Token(_) | Self::Login(_) | Self::Session(_) => self.may_look(rights),
        }
    }

    /// Whose calls concern the caller, also to be stopped; `None`: everybody's, by the socket and for who looks after the mesh.
    /// Of a token that is narrowed to devices or tools those that were made with it: it was given away to reach no further.
    #[must_use]
    pub fn calls_of(&self, rights: &View) -> Option<Asker> {
        let principal = self.holder().filter(|_| !self.is_admin(rights))?.clone();
        let token = self.token().filter(|shown| !shown.is_whole).map(|shown| shown.id.clone());
        Some(Asker { principal, token })
    }

    /// True if this call concerns the caller, see [`Self::calls_of`].
    #[must_use]
    pub fn may_see_call(&self, header: &Header, rights: &View) -> bool {
        self.calls_of(rights).is_none_or(|asker| asker.made(header))
    }

    /// True if what concerns this principal concerns the caller: its own, or all of it for who looks after the mesh. Of calls
    /// [`Self::may_see_call`] says so.
    #[must_use]
    pub fn may_see(&self, principal: &Principal, rights: &View) -> bool {
        self.holder().is_none_or(|holder| holder == principal) || self.is_admin(rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(holder: &str, read_only: bool, is_whole: bool) -> Identity {
        let id = "panel".parse().unwrap();
        Identity::Token(Arc::new(Shown { id, holder: holder.parse().unwrap(), read_only, is_whole }))
    }

    #[test]
    fn s28_only_a_whole_token_of_an_owner_looks_after_the_mesh() {
        let rights = View::default();
        assert!(Identity::Socket.is_admin(&rights) && by("person:owner", false, true).is_admin(&rights));
        for narrowed in [
            by("person:owner", true, true),
            by("person:owner", false, false),
            by("agent:owner/claude", false, true),
            by("person:mia", false, true),
            by("device:panel", false, true),
        ] {
            assert!(narrowed.require_admin(&rights).is_err(), "{narrowed:?}");
            let only_reads = narrowed.token().is_some_and(|shown| shown.read_only);
            assert_eq!(narrowed.may_look(&rights), only_reads, "{narrowed:?}");
        }
        let mia: Principal = "person:mia".parse().unwrap();
        assert!(by("person:mia", true, false).may_see(&mia, &rights));
        assert!(!by("person:kai", false, true).may_see(&mia, &rights) && Identity::Socket.may_see(&mia, &rights));
    }

    #[test]
    fn an_mcp_client_by_the_socket_is_an_agent_and_no_person() {
        let rights = View::default();
        let by = |holder: &str| Identity::Client(Arc::new(holder.parse().unwrap()));
        let agent = by("agent:owner/claude");
        assert!(!agent.is_admin(&rights) && !agent.may_look(&rights) && agent.is_whole());
        assert!(agent.require_socket("this happens", "there").is_err());
        let principal: Principal = "agent:owner/claude".parse().unwrap();
        assert_eq!(agent.calls_of(&rights), Some(Asker { principal, token: None }));
        assert!(agent.may_use_memory(&rights) && !by("agent:mia/claude").may_use_memory(&rights));
        assert!(!by("device:panel").may_use_memory(&rights));
    }

    #[test]
    fn a_login_reaches_what_its_person_may_and_never_what_the_socket_alone_may() {
        let rights = View::default();
        let by =
            |holder: &str| Identity::Login(Arc::new(Login { holder: holder.parse().unwrap(), hash: Hash([1; 32]) }));
        assert!(by("person:owner").is_admin(&rights) && !by("person:mia").may_look(&rights));
        assert!(by("person:owner").require_socket("this happens", "there").is_err());
        let mia: Principal = "person:mia".parse().unwrap();
        assert_eq!(by("person:mia").calls_of(&rights), Some(Asker { principal: mia.clone(), token: None }));
        assert!(by("person:mia").may_see(&mia, &rights) && !by("person:kai").may_see(&mia, &rights));
    }

    #[test]
    fn r11_of_a_narrowed_token_only_its_own_calls_concern_it() {
        let rights = View::default();
        let mia: Principal = "person:mia".parse().unwrap();
        assert_eq!(Identity::Socket.calls_of(&rights), None);
        assert_eq!(by("person:owner", false, true).calls_of(&rights), None);
        let of = |token: Option<&str>| {
            Some(Asker { principal: mia.clone(), token: token.map(|token| token.parse().unwrap()) })
        };
        assert_eq!(by("person:mia", false, true).calls_of(&rights), of(None));
        assert_eq!(by("person:mia", false, false).calls_of(&rights), of(Some("panel")));
        assert_eq!(by("person:mia", true, false).calls_of(&rights), of(Some("panel")));
    }
}
