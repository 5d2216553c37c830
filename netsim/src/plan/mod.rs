//! The plan of a run: who takes part, what goes wrong, what is asked for. Drawn from its own stream of the seed, or
//! read from a file. Times are microseconds from the end of the setup.

mod draw;
mod file;
mod people;
mod rough;
mod shrink;

use std::collections::BTreeSet;

use mesh_core::io::AnswerChoice;
use mesh_core::policy::{Role, RuleVerdict, Verdict};
use mesh_core::record::Tier;
use serde::{Deserialize, Serialize};

pub(crate) use file::Case;

/// A second of virtual time.
pub(crate) const SECOND: u64 = 1_000_000;
/// A millisecond of virtual time.
pub(crate) const MS: u64 = 1_000;
/// A peer that comes only as the heir of one that was wiped.
pub(crate) const NEVER: u64 = i64::MAX as u64;
/// Time of faults, in most profiles.
pub(crate) const FAULTS_US: u64 = 20 * SECOND;

/// Which mixture of plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Profile {
    /// 2 to 6 peers, everything of every day may go wrong.
    Default,
    /// The same with 5 peers always and about a dozen calls: what speed is measured with.
    Five,
    /// The two-peer home, with many crashes around commits.
    Two,
    /// 8 to 14 peers. Slow.
    Big,
    /// 15 to 50 peers. Very slow.
    Fleet,
    /// Clocks: sleeps of hours, drift beyond the bound, wall clocks lost at boot, jumps.
    Clocks,
    /// Disks: full, restored from a backup, wiped; devices that leave; slow ones.
    Disks,
    /// More calls than limits allow, at slow peers.
    Queue,
    /// Two halves that revoke, approve and ask on their own, crossing each other.
    Halves,
    /// Logs that forget within seconds, newcomers, and sleepers that miss it all.
    Ages,
    /// Workspaces, rules that deny and ask, and people who answer, in two halves.
    Rights,
    /// People of several roles, their agents and devices, and rules about who; edited in two halves.
    People,
    /// The same, with tokens by which some of them ask, and tools of devices of which only some are approved.
    Tokens,
    /// Links to the gateway that are cut for long, devices that relay, and relays that die.
    Relay,
}

impl Profile {
    pub(crate) const ALL: [Self; 14] = [
        Self::Default,
        Self::Five,
        Self::Two,
        Self::Big,
        Self::Fleet,
        Self::Clocks,
        Self::Disks,
        Self::Queue,
        Self::Halves,
        Self::Ages,
        Self::Rights,
        Self::People,
        Self::Tokens,
        Self::Relay,
    ];

    /// Its name at the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Five => "five",
            Self::Two => "two",
            Self::Big => "big",
            Self::Fleet => "fleet",
            Self::Clocks => "clocks",
            Self::Disks => "disks",
            Self::Queue => "queue",
            Self::Halves => "halves",
            Self::Ages => "ages",
            Self::Rights => "rights",
            Self::People => "people",
            Self::Tokens => "tokens",
            Self::Relay => "relay",
        }
    }
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerPlan {
    pub(crate) class: u8,
    pub(crate) eligible: bool,
    pub(crate) tier: Tier,
    /// By invite, or approved by hand.
    pub(crate) invited: bool,
    /// When it joins; zero = during setup.
    pub(crate) join_at: u64,
    /// The name that it asks for is that of this peer too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) named_like: Option<usize>,
    /// Error of its wall clock from the start.
    pub(crate) skew_ms: i64,
    /// Drift of its clocks, in millionths; positive is too fast.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) drift_ppm: i64,
    /// Shortest and longest fsync.
    pub(crate) fsync_us: (u64, u64),
    /// Extra time that it takes to look at a frame.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) lag_us: u64,
    pub(crate) forget_after_ms: u64,
    pub(crate) handover_after_ms: u64,
    pub(crate) handover_settle_ms: u64,
    /// Calls that run at once, and that wait, if not the usual number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credits: Option<(usize, usize)>,
    /// If it knows of relays: true if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) relays: Option<bool>,
    /// True if it holds itself to no budget.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) floods: bool,
}

fn is_zero<T: PartialEq + Default>(number: &T) -> bool {
    *number == T::default()
}

/// Trigger of a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Near {
    /// The next batch that is waited for.
    Commit,
    /// The next start of a tool.
    Invoke,
    /// The next end of a tool.
    Ended,
    /// The next promise made durable.
    Durable,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Only peers of one group reach each other.
    Split { groups: Vec<u8> },
    /// The split is over; single cuts remain.
    Unsplit,
    /// One pair does not reach each other.
    Cut { a: usize, b: usize },
    /// It does again, either way.
    Uncut { a: usize, b: usize },
    /// Nothing passes from one to the other; back it does, until the ends lose patience.
    CutOneWay { from: usize, to: usize },
    /// Datagrams of one direction vanish, this many of 1,000.
    OneWay { from: usize, to: usize, loss: u64 },
    /// Datagrams of all vanish, this many of 1,000.
    Loss { loss: u64 },
    /// Power fails; back after so long.
    Crash { peer: usize, down_us: u64 },
    /// Power fails so long after what is named.
    CrashNear { peer: usize, near: Near, after_us: u64, down_us: u64 },
    /// A clean stop; back after so long.
    Stop { peer: usize, down_us: u64 },
    /// Frozen.
    Suspend { peer: usize, for_us: u64 },
    /// The next fsync takes so long.
    Stall { peer: usize, for_us: u64 },
    /// The wall clock is set.
    WallJump { peer: usize, by_ms: i64 },
    /// Power fails, and the machine has no clock of its own: it boots years ago, and learns the time after so long.
    ClockLost { peer: usize, down_us: u64, for_us: u64 },
    /// Somebody is removed; and perhaps what it said about rights with it.
    Revoke {
        by: usize,
        peer: usize,
        #[serde(default, skip_serializing_if = "is_zero")]
        unsaid: bool,
    },
    /// An owner is one no more.
    Demote { by: usize, peer: usize },
    /// A member becomes an owner, perhaps again.
    Raise { by: usize, peer: usize },
    /// A device is stolen: it does not come back, and whatever its key says from now on is the thief's.
    Steal { peer: usize },
    /// Whoever has the key of a former owner lets a sybil in, raises itself, and removes and lowers those who stand in
    /// its way, in all places of a log that nobody has seen; everyone receives it. A peer that is an owner still says
    /// nothing; if its device was stolen, it does so by what made it one before, and in places before those of what stands,
    /// too.
    Forge { peer: usize },
    /// Whoever stole the device of a former owner claims one epoch after the other that nobody knew when it was one.
    Claims { peer: usize },
    /// An owner lets twenty sybils in, and these fill everyone with membership changes that count for nothing.
    Fill { peer: usize },
    /// An owner makes the workspace that holds everything; those who are no owners have no place in it yet.
    Govern { by: usize },
    /// An owner gives a device a place in the workspace, or takes it.
    Seat { by: usize, peer: usize, gives: bool },
    /// An owner says what holds of a tool everywhere; people answer within so long where it asks.
    Rule { by: usize, tool: String, says: Says, wait_ms: u64 },
    /// An owner says something about people, places or rules.
    Say { by: usize, word: Word },
    /// A device forbids itself a tool, or not any more.
    Forbid { peer: usize, tool: String, forbids: bool },
    /// Somebody at this peer answers every call that waits there for an answer.
    Answer { peer: usize, choice: AnswerChoice },
    /// Somebody at this peer takes back every yes for an hour that counts there.
    TakeBack { peer: usize },
    /// Somebody goes for good.
    Leave { peer: usize },
    /// The disk is copied somewhere.
    Backup { peer: usize },
    /// Power fails, and the last backup is played back. The store notices, since what it had promised is written
    /// elsewhere; or that was rolled back as well.
    Restore {
        peer: usize,
        down_us: u64,
        #[serde(default, skip_serializing_if = "is_zero")]
        unnoticed: bool,
    },
    /// The disk is gone, and the device comes back as another peer, whose `join_at` is [`NEVER`].
    Wipe { peer: usize, heir: usize, down_us: u64 },
    /// The disk takes nothing more for so long: the process ends at its next commit, and cannot start.
    DiskFull { peer: usize, for_us: u64 },
}

/// All that a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Says {
    Deny,
    Ask,
    /// The rule is gone.
    Nothing,
}

/// Words of an owner about rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub(crate) enum Word {
    /// A person, by her role in the mesh; without one she is nobody any more.
    Person {
        person: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
        #[serde(default, skip_serializing_if = "is_zero")]
        suspended: bool,
    },
    /// An agent, by person and name.
    Agent { agent: String, suspended: bool },
    /// The people for whom a device may speak.
    Sits { peer: usize, people: Vec<String> },
    /// A person's place in a workspace; without a role there is none any more.
    Seat {
        workspace: String,
        person: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
    },
    /// A workspace that holds tools of all devices, and what it answers where no rule speaks.
    Workspace { workspace: String, tools: Vec<String>, members: Verdict, agents: Verdict },
    /// A rule; without a verdict it is gone. Of one name, `who` (nobody named: everyone) and `tools` are always the same.
    Rule {
        at: String,
        who: Vec<String>,
        tools: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<RuleVerdict>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
    },
    /// Tools of a device that are approved, as it offers them: its others wait.
    Tools { peer: usize, tools: Vec<String> },
    /// A token, by whom it is for and the tools that it opens; without any it is revoked.
    Token { token: String, holder: String, tools: Vec<String> },
}

impl Word {
    /// True of what gives and takes nothing, the first time that it is said.
    fn gives(&self) -> bool {
        match self {
            Self::Person { role, suspended, .. } => role.is_some() && !suspended,
            Self::Agent { suspended, .. } => !suspended,
            Self::Seat { role, .. } => role.is_some(),
            Self::Rule { verdict, .. } => *verdict == Some(RuleVerdict::Allow),
            Self::Sits { .. } | Self::Workspace { .. } => true,
            Self::Tools { .. } => false,
            Self::Token { tools, .. } => !tools.is_empty(),
        }
    }

    /// Name of what it is about.
    fn subject(&self) -> String {
        match self {
            Self::Person { person, .. } => format!("person {person}"),
            Self::Agent { agent, .. } => format!("agent {agent}"),
            Self::Sits { peer, .. } => format!("device {peer}"),
            Self::Seat { workspace, person, .. } => format!("seat {workspace}/{person}"),
            Self::Workspace { workspace, .. } => format!("workspace {workspace}"),
            Self::Rule { at, .. } => format!("rule {at}"),
            Self::Tools { peer, .. } => format!("tools {peer}"),
            Self::Token { token, .. } => format!("token {token}"),
        }
    }
}

/// A call that a person asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) origin: usize,
    /// `None` = any node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<usize>,
    pub(crate) tool: String,
    pub(crate) ttl_ms: u64,
    /// Timeout, if not a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
    /// True if the caller wants "once" whatever the tool says.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) strict: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Distinguishes the arguments.
    pub(crate) argument: u64,
    /// True if the arguments are a blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) blob: bool,
    /// Cancelled so long after the receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cancel_after_us: Option<u64>,
    /// Who asks, if not whoever sits at the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) principal: Option<String>,
    /// The token by which it is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// All of it.
#[expect(clippy::struct_excessive_bools, reason = "what a profile turns on")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Time of faults.
    pub(crate) faults_us: u64,
    /// True if a better peer is handed the role soon enough to be seen.
    pub(crate) handovers: bool,
    /// True if wall clocks jump: then time across a restart is not kept.
    pub(crate) wall_jumps: bool,
    /// True if owners that somebody revokes approve others meanwhile.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) crossing: bool,
    /// Open calls of one (origin, target), if not the usual number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) open_per_target_max: Option<usize>,
    /// Calls that a gateway holds for others, if not the usual number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue_max: Option<usize>,
    /// True if budgets of those who are no owners are so small that they are reached.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) small_budgets: bool,
    /// Age from which entries of a log may be dropped, if not the usual one; calls are forgotten sooner then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keep_entries_ms: Option<u64>,
    pub(crate) peers: Vec<PeerPlan>,
    /// Pairs without a way to each other until the final healing.
    pub(crate) sparse: Vec<(usize, usize)>,
    /// Least one-way latency of each pair, in the order of [`pairs`].
    pub(crate) latency_us: Vec<u64>,
    #[serde(with = "file::timed")]
    pub(crate) faults: Vec<(u64, Fault)>,
    #[serde(with = "file::timed")]
    pub(crate) asks: Vec<(u64, Ask)>,
}

impl Plan {
    /// True if somebody says who may do what.
    pub(crate) fn is_governed(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Govern { .. }))
    }

    /// True if nothing is taken from anybody by taking away what gives: nothing that was allowed is denied then but by a rule
    /// that says no, or by somebody who does.
    #[expect(clippy::wildcard_enum_match_arm, reason = "any other fault takes nothing away")]
    pub(crate) fn keeps_what_gives(&self) -> bool {
        self.is_governed()
            && !self.faults.iter().any(|(_, fault)| match fault {
                Fault::Seat { gives, .. } => !gives,
                Fault::Say { .. }
                | Fault::Revoke { .. }
                | Fault::Demote { .. }
                | Fault::Steal { .. }
                | Fault::Forge { .. }
                | Fault::Leave { .. }
                | Fault::Restore { .. }
                | Fault::Wipe { .. } => true,
                _ => false,
            })
    }

    /// True if no statement of anybody is lost or taken out of force with its author.
    pub(crate) fn keeps_statements(&self) -> bool {
        !self.faults.iter().any(|(_, fault)| {
            matches!(
                fault,
                Fault::Revoke { .. }
                    | Fault::Demote { .. }
                    | Fault::Steal { .. }
                    | Fault::Forge { .. }
                    | Fault::Leave { .. }
                    | Fault::Restore { .. }
                    | Fault::Wipe { .. }
            )
        })
    }

    /// True if nothing is said twice about a person, a place or a rule of the plan, and nothing takes.
    fn words_only_give(&self) -> bool {
        let mut said = BTreeSet::new();
        self.faults.iter().all(|(_, fault)| {
            let Fault::Say { word, .. } = fault else { return true };
            word.gives() && said.insert(word.subject())
        })
    }

    /// True if nothing is taken from anybody: then nothing that was allowed is denied.
    pub(crate) fn only_gives(&self) -> bool {
        self.is_governed()
            && self.words_only_give()
            && !self.faults.iter().any(|(_, fault)| match fault {
                Fault::Rule { says, .. } => *says == Says::Deny,
                Fault::Seat { gives, .. } => !gives,
                Fault::Answer { choice, .. } => *choice == AnswerChoice::No,
                Fault::Forbid { forbids, .. } => *forbids,
                Fault::Revoke { .. }
                | Fault::Demote { .. }
                | Fault::Steal { .. }
                | Fault::Forge { .. }
                | Fault::Leave { .. }
                | Fault::Restore { .. }
                | Fault::Wipe { .. }
                | Fault::TakeBack { .. } => true,
                Fault::Split { .. }
                | Fault::Unsplit
                | Fault::Cut { .. }
                | Fault::Uncut { .. }
                | Fault::CutOneWay { .. }
                | Fault::OneWay { .. }
                | Fault::Loss { .. }
                | Fault::Crash { .. }
                | Fault::CrashNear { .. }
                | Fault::Stop { .. }
                | Fault::Suspend { .. }
                | Fault::Stall { .. }
                | Fault::WallJump { .. }
                | Fault::ClockLost { .. }
                | Fault::Raise { .. }
                | Fault::Claims { .. }
                | Fault::Fill { .. }
                | Fault::Govern { .. }
                | Fault::Say { .. }
                | Fault::Backup { .. }
                | Fault::DiskFull { .. } => false,
            })
    }

    /// True of a peer that is no owner at any time.
    pub(crate) fn never_owns(&self, of: usize) -> bool {
        let raised = |fault: &Fault| matches!(fault, Fault::Raise { peer, .. } if *peer == of);
        self.peers[of].tier != Tier::Owner && !self.faults.iter().any(|(_, fault)| raised(fault))
    }

    /// True if any peer's clock runs wrong beyond the bound that the protocol assumes.
    pub(crate) fn drifts(&self) -> bool {
        self.peers.iter().any(|peer| peer.drift_ppm != 0)
    }
}

/// All unordered pairs.
pub(crate) fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}

/// True if all `count` vertices hang together by the edges (a < b) that `edge` says are there.
pub(crate) fn connected(count: usize, edge: impl Fn(usize, usize) -> bool) -> bool {
    let mut seen = vec![false; count];
    let mut open = vec![0];
    seen[0] = true;
    while let Some(at) = open.pop() {
        for (next, seen) in seen.iter_mut().enumerate() {
            if next != at && !*seen && edge(at.min(next), at.max(next)) {
                *seen = true;
                open.push(next);
            }
        }
    }
    seen.into_iter().all(|seen| seen)
}

impl Fault {
    /// The peers that it names.
    pub(crate) fn peers(&self) -> Vec<usize> {
        match self {
            Self::Split { .. } | Self::Unsplit | Self::Loss { .. } => Vec::new(),
            Self::Cut { a, b } | Self::Uncut { a, b } => vec![*a, *b],
            Self::CutOneWay { from, to } | Self::OneWay { from, to, .. } => vec![*from, *to],
            Self::Revoke { by, peer, .. }
            | Self::Demote { by, peer }
            | Self::Raise { by, peer }
            | Self::Seat { by, peer, .. }
            | Self::Say { by, word: Word::Sits { peer, .. } | Word::Tools { peer, .. } } => vec![*by, *peer],
            Self::Govern { by } | Self::Rule { by, .. } | Self::Say { by, .. } => vec![*by],
            Self::Wipe { peer, heir, .. } => vec![*peer, *heir],
            Self::Forbid { peer, .. }
            | Self::Crash { peer, .. }
            | Self::CrashNear { peer, .. }
            | Self::Stop { peer, .. }
            | Self::Suspend { peer, .. }
            | Self::Stall { peer, .. }
            | Self::WallJump { peer, .. }
            | Self::ClockLost { peer, .. }
            | Self::Steal { peer }
            | Self::Forge { peer }
            | Self::Claims { peer }
            | Self::Fill { peer }
            | Self::Leave { peer }
            | Self::Answer { peer, .. }
            | Self::TakeBack { peer }
            | Self::Backup { peer }
            | Self::Restore { peer, .. }
            | Self::DiskFull { peer, .. } => vec![*peer],
        }
    }
}
