//! The rules of the protocol by name, so that a test can leave one out: the tests of our tests.
//!
//! Each rule of safety or speed that the simulator answers for reads like `if late &&
//! fx.enforces(ProtocolRule::SecondLook)`. Without the feature `mutants` there is no rule to leave out,
//! [`ProtocolRules`] has no size, and the compiler answers the question "yes".

/// A rule, named by what it does. Which predicate misses it is in `netsim/MUTANTS.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProtocolRule {
    /// A receipt is given after the header's fsync.
    ReceiptDurable,
    /// A claimant leads after its claim's fsync.
    ClaimDurable,
    /// Own entries are shown after their fsync.
    EntryDurable,
    /// A tool is invoked after the fsync of `started`.
    StartedDurable,
    /// The target tells an outcome after its fsync.
    OutcomeDurable,
    /// An ending is told to those who wait for the call after the fsync.
    EndingDurable,
    /// An exclusion is told after the fsync.
    RevocationDurable,
    /// A gateway that is the origin dispatches after the header's fsync.
    HeaderDurable,
    /// An obeyed epoch is in the batch of `started`.
    FenceDurable,
    /// The counter of request ids is in the batch of the header.
    CounterDurable,
    /// Outcomes and cancel requests that come before their header outlive a crash.
    EarlyDurable,
    /// An attempt that is journaled as started or ended is not started again.
    Journal,
    /// An attempt that a restart finds started ends `interrupted`.
    BootRule,
    /// Dispatches below the fence are refused.
    Fence,
    /// Claims far above the fence are refused.
    EpochJump,
    /// Time is looked at again after the fsync of `started`.
    SecondLook,
    /// Cancel requests are looked at again after the fsync of `started`.
    SecondLookAtCancel,
    /// Rights of the call are looked at again after the fsync of `started`.
    SecondLookAtPolicy,
    /// A device that is halted, or holds its own revocation, starts nothing.
    OwnRevocation,
    /// A gateway dispatches to members only.
    DispatchToMembers,
    /// A tool for owners is run for owners.
    Tier,
    /// A gateway sends no call that it knows to be denied, and says so.
    PolicyAtDispatch,
    /// A target takes no call that is denied.
    PolicyAtTarget,
    /// A call is not denied by who knows less about rights than its origin did.
    MarkWaits,
    /// A call to be run once gets no second attempt.
    OnceIsOnce,
    /// Attempt n+1 starts only where attempt n was interrupted.
    AttemptOrder,
    /// Forgetting a call raises the forgotten mark of its series.
    MarkRaised,
    /// A call at or below the forgotten mark is refused.
    MarkChecked,
    /// A run that lasts puts a checkpoint into the log of its target.
    RunsCheckpointed,
    /// A client key names one call at its origin.
    KeyAtOrigin,
    /// A client key names one call at its target.
    KeyAtTarget,
    /// The target's binding of a client key is in the batch of `started`.
    KeyInJournal,
    /// Only the target confirms an ending.
    TargetConfirms,
    /// An outcome received from a target that turns out to be excluded is re-issued.
    Reissued,
    /// An expiry that another than the target infers waits for twice the error bound.
    ExpiryMargin,
    /// An origin refuses calls beyond its limit of open ones.
    OpenLimit,
    /// A gateway leaves headers beyond its limit with their origins.
    QueueLimit,
    /// No more tools run at once than allowed.
    RunningLimit,
    /// No more of one tool run at once than its device says.
    ToolRunningLimit,
    /// The log of an author that is over its budget stops.
    LogBudget,
    /// A former owner is held to what it wrote as one, and a guest's budget.
    FormerOwnerBudget,
    /// Ending a call costs its origin a place in its budget, also if it never ran.
    EndingBudget,
    /// Of an origin that is over its budget the calls that are over go, the oldest first.
    ClosedBudget,
    /// Room that a truncation frees comes back to its author steadily.
    FreedBySteps,
    /// Writes of others do not fill the disk.
    DiskFloor,
    /// An origin has a share of the book.
    OpenShare,
    /// An origin has a share of a target's places, and takes none while its arguments are away.
    PlaceShare,
    /// A call that names no device goes to an owner's.
    AnyIsOwners,
    /// A revocation wins over an approval that did not know it.
    RevocationWins,
    /// An entry of a revoked author beyond the revocation's cut-off is void.
    CutoffVoids,
    /// A peer that was an owner and is a member of less says nothing about members any more.
    DemotionEndsAuthority,
    /// Of the statements of a former owner only those stand that whoever ended its authority had seen, wherever it dates
    /// others to.
    UnseenIsVoid,
    /// All that a removed owner said about rights does not stand where whoever removed it took that back.
    UnsaidIsVoid,
    /// A peer that becomes an owner again gets back nothing that it said before.
    NothingOlder,
    /// A device that is let in again speaks for nobody.
    LetInForNobody,
    /// Runs for one that may ask nothing any more are stopped.
    RunsEndWithStanding,
    /// A former owner's claims prove no epoch that was not known when it was one.
    FenceOfFormerOwner,
    /// A set of membership changes has room for so many bytes.
    ChangesHaveRoom,
    /// That room is shared along the approvals that the changes rest on.
    RoomIsShared,
    /// Of somebody who was never let in, what does not rest on the genesis is not kept.
    StrangersUnkept,
    /// A limit to the authority of somebody who was never let in counts for nothing.
    LimitsOfMembers,
    /// Changes that contradict each other are needed, whichever of them counts.
    ContradictionsKept,
    /// Silence makes a follower ask its neighbours.
    Query,
    /// After the link to the gateway went down, there is time for two rounds of asking.
    LinkDownGrace,
    /// Relays stay named while a link is relayed, so that another takes over when the relay dies.
    RelaysStayNamed,
    /// Beacons are passed on to those whom the leader does not reach.
    Forward,
    /// A peer that was asleep distrusts what it believed.
    WakeDetection,
    /// A stale leader is shown the higher fence.
    Notice,
    /// A gateway that stops names its successor.
    Successor,
    /// Peers that meet compare what they hold.
    DigestOnLinkUp,
    /// A peer that loses a link asks its other neighbours for what was lost on it.
    DigestOnLinkDown,
    /// An author declares dead only what is old.
    EntriesAge,
    /// An author declares nothing dead that is about a call in its book.
    TruncationSparesOpen,
    /// A log goes on behind a gap only by its author's truncation.
    GapNeedsTruncation,
    /// A call that asks waits until somebody has said yes.
    AskWaits,
    /// A yes counts by who gives it, and to the header that it names.
    ConsentApprover,
    /// A no counts.
    ConsentNo,
    /// An hour's consent ends with its hour.
    HourEnds,
    /// The target looks for a yes itself, and once more before it starts.
    AskAtTarget,
    /// A statement about rights replaces what its author knew, and nothing else.
    KnewVector,
    /// Of what was said without knowledge of each other that counts which takes.
    TakingWins,
    /// Waiting calls are decided anew when something about rights changes.
    Redecide,
    /// A newcomer is told all that holds of rights.
    WelcomePolicy,
    /// An origin accepts no call that is denied.
    PolicyAtAccept,
    /// A device's own bans bind whoever asks.
    LocalDeny,
    /// A device asks for nobody for whom it may not speak.
    SpeaksFor,
    /// At a device below the owner tier people have no more than the role that it caps.
    TierCap,
    /// At such a device people are judged at their own role too.
    EveryRole,
    /// An agent gets no more than its person.
    AgentCeiling,
    /// A grant by role alone yields to the rules of all workspaces that hold the tool.
    RuleBeatsRole,
    /// Rules of the mesh hold in every workspace.
    MeshEverywhere,
    /// A statement about rights beyond its author's authority does not stand.
    AuthorStanding,
    /// A yes to a call is one to that call as its header says it.
    ConsentBound,
    /// A restart ends the hours of consents.
    HourDiesAtBoot,
    /// A client key is that of its asker, at owners' devices or at one of another tier.
    KeyScope,
    /// A target confirms what others said of a call for it that they denied.
    DenialConfirmed,
    /// A body is sent to nobody outside of its entry's audience.
    Audience,
    /// A peer that lacks a body that is for it asks its neighbours for it.
    BodiesAsked,
    /// A peer whose own standing has changed looks for bodies that are for it now.
    BodiesRecounted,
}

/// The rules that one peer follows: all of them, but in a test build perhaps one less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProtocolRules {
    #[cfg(feature = "mutants")]
    left_out: Option<ProtocolRule>,
}

impl ProtocolRules {
    /// All rules but this one.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub const fn all_but(rule: ProtocolRule) -> Self {
        Self { left_out: Some(rule) }
    }

    /// True if this rule holds.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub const fn enforces(self, rule: ProtocolRule) -> bool {
        match self.left_out {
            Some(left_out) => left_out as u8 != rule as u8,
            None => true,
        }
    }

    /// True if this rule holds: always.
    #[cfg(not(feature = "mutants"))]
    #[must_use]
    pub const fn enforces(self, _rule: ProtocolRule) -> bool {
        true
    }
}

#[cfg(feature = "mutants")]
impl ProtocolRule {
    /// All of them, in order.
    pub const ALL: &[Self] = &[
        Self::ReceiptDurable,
        Self::ClaimDurable,
        Self::EntryDurable,
        Self::StartedDurable,
        Self::OutcomeDurable,
        Self::EndingDurable,
        Self::RevocationDurable,
        Self::HeaderDurable,
        Self::FenceDurable,
        Self::CounterDurable,
        Self::EarlyDurable,
        Self::Journal,
        Self::BootRule,
        Self::Fence,
        Self::EpochJump,
        Self::SecondLook,
        Self::SecondLookAtCancel,
        Self::SecondLookAtPolicy,
        Self::OwnRevocation,
        Self::DispatchToMembers,
        Self::Tier,
        Self::PolicyAtDispatch,
        Self::PolicyAtTarget,
        Self::MarkWaits,
        Self::OnceIsOnce,
        Self::AttemptOrder,
        Self::MarkRaised,
        Self::MarkChecked,
        Self::RunsCheckpointed,
        Self::KeyAtOrigin,
        Self::KeyAtTarget,
        Self::KeyInJournal,
        Self::TargetConfirms,
        Self::Reissued,
        Self::ExpiryMargin,
        Self::OpenLimit,
        Self::QueueLimit,
        Self::RunningLimit,
        Self::ToolRunningLimit,
        Self::LogBudget,
        Self::FormerOwnerBudget,
        Self::EndingBudget,
        Self::ClosedBudget,
        Self::FreedBySteps,
        Self::DiskFloor,
        Self::OpenShare,
        Self::PlaceShare,
        Self::AnyIsOwners,
        Self::RevocationWins,
        Self::CutoffVoids,
        Self::DemotionEndsAuthority,
        Self::UnseenIsVoid,
        Self::UnsaidIsVoid,
        Self::NothingOlder,
        Self::LetInForNobody,
        Self::RunsEndWithStanding,
        Self::FenceOfFormerOwner,
        Self::ChangesHaveRoom,
        Self::RoomIsShared,
        Self::StrangersUnkept,
        Self::LimitsOfMembers,
        Self::ContradictionsKept,
        Self::Query,
        Self::LinkDownGrace,
        Self::RelaysStayNamed,
        Self::Forward,
        Self::WakeDetection,
        Self::Notice,
        Self::Successor,
        Self::DigestOnLinkUp,
        Self::DigestOnLinkDown,
        Self::EntriesAge,
        Self::TruncationSparesOpen,
        Self::GapNeedsTruncation,
        Self::AskWaits,
        Self::ConsentApprover,
        Self::ConsentNo,
        Self::HourEnds,
        Self::AskAtTarget,
        Self::KnewVector,
        Self::TakingWins,
        Self::Redecide,
        Self::WelcomePolicy,
        Self::PolicyAtAccept,
        Self::LocalDeny,
        Self::SpeaksFor,
        Self::TierCap,
        Self::EveryRole,
        Self::AgentCeiling,
        Self::RuleBeatsRole,
        Self::MeshEverywhere,
        Self::AuthorStanding,
        Self::ConsentBound,
        Self::HourDiesAtBoot,
        Self::KeyScope,
        Self::DenialConfirmed,
        Self::Audience,
        Self::BodiesAsked,
        Self::BodiesRecounted,
    ];

    /// Those that bound somebody who lies: each is missed by a hostile test (`tests/hostile`, `every_rule_left_out_is_missed`).
    pub const AGAINST_LIARS: &[Self] = &[
        Self::AnyIsOwners,
        Self::LogBudget,
        Self::FormerOwnerBudget,
        Self::FreedBySteps,
        Self::OpenShare,
        Self::PlaceShare,
        Self::ToolRunningLimit,
        Self::EndingBudget,
        Self::ClosedBudget,
        Self::DiskFloor,
        Self::OwnRevocation,
        Self::ConsentApprover,
        Self::PolicyAtTarget,
        Self::LetInForNobody,
        Self::RunsEndWithStanding,
    ];
}
