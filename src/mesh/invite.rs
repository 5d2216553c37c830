//! invite.
/// A code.
#[derive(Debug, Clone)]
pub struct InviteCode {}
