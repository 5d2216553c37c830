//! Rights: which tool may be used by whom on which device.
//!
//! Statements about rights are records ([`Key`], [`Value`]), each a signed statement ([`Said`]). All statements about
//! one key are a [`Register`]; [`Policy`] holds them all, and is a set: nothing depends on the order in which they
//! came. From it, and from what the mesh knows of its devices, a [`View`] is compiled, and [`View::decide`] answers for
//! one [`Request`] with a [`Decision`]. Nothing here knows the time: what is over is taken out by who has a clock.

mod approvers;
mod binder;
mod consents;
mod decide;
mod decision;
mod knowledge;
mod manage;
mod merge;
mod records;
mod register;
mod remedy;
mod said;
mod view;

pub use crate::glob::{AgentPattern, NodePattern, ToolPattern};
pub use crate::ids::Known;
pub use crate::people::{AgentName, Domain, Name, PersonId, Principal, Role, RuleRef, Seat, TokenId, WorkspaceId};
pub use binder::WorkspaceBinder;
pub use consents::{Choice, Consent, Consents, Given};
pub use decision::{Cause, Credential, Decision, Layer, OpenAsk, Request, Step};
pub use manage::NotAllowed;
pub use records::{
    Agent, Approver, Binding, Check, Device, DeviceTools, InvalidRecord, Key, Mode, Note, Otherwise, Person, Rule,
    RuleVerdict, Title, Token, Value, Verdict, Who, Workspace,
};
pub use register::{InForce, Policy, Register};
pub use remedy::Remedy;
pub use said::{Content, Said, Statement};
pub use view::{DeviceFacts, Offered, ToolState, View};

/// Numbers of the policy, for who shows them or sizes a store by them.
pub mod bounds {
    pub use super::consents::CONSENTS_MAX;
    pub use super::records::{
        DEVICE_PEOPLE_MAX, LIST_MAX, LOGINS_MAX, NOTE_CHARS_MAX, OF_MAX, RECORD_BYTES_MAX, TITLE_CHARS_MAX,
        TOOLS_BYTES_MAX, TOOLS_MAX, WAIT_MS_DEFAULT, WAIT_MS_MAX,
    };
    pub use super::register::{AGENTS_MAX, BINDINGS_MAX, CHECKS_MAX, MEMBERS_MAX, PATTERNS_MAX, PEOPLE_MAX};
    pub use super::register::{RULES_MAX, TOKENS_MAX, WORKSPACE_RULES_MAX, WORKSPACES_MAX};
    pub use super::said::KNEW_MAX;
    pub use crate::glob::PATTERN_BYTES_MAX;
}
