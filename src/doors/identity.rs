//! The caller of a request: a principal, the door it came in by, and how far it reaches.

use crate::status::{ErrorCode, OpError};

/// The person or program on whose behalf something is asked. The header of every call says whom that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// The owner of this device: proven by the credentials of the socket's other end, or by a token.
    Owner,
}

impl Principal {
    /// Whom a call is made for; `None`: whoever sits at this device, as the mesh knows it.
    #[must_use]
    pub const fn named(self) -> Option<mesh_core::policy::Principal> {
        match self {
            Self::Owner => None,
        }
    }
}

/// A way into the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The unix socket: the kernel vouches for the other end.
    Socket,
    /// HTTP on loopback: a token vouches for the other end.
    Http,
}

/// Reach of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All that its door offers.
    Full,
    /// What only reads: `GET` and `HEAD`.
    ReadOnly,
}

/// The proven caller of a request. In the extensions of every request that reaches a handler, except on public routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// On whose behalf.
    pub principal: Principal,
    /// By which door.
    pub door: Door,
    /// How far.
    pub access: Access,
}

impl Identity {
    /// `Err` unless the caller came by the socket. `what` happens through it only, as a sentence's subject and verb;
    /// `next` is the next step.
    ///
    /// # Errors
    /// [`ErrorCode::Denied`].
    pub fn require_socket(self, what: &str, next: &str) -> Result<(), OpError> {
        match self.door {
            Door::Socket => Ok(()),
            Door::Http => {
                Err(OpError::new(ErrorCode::Denied, format!("{what} through the unix socket only")).hint(next))
            }
        }
    }
}
