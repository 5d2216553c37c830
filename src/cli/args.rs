//! The command line: commands, flags, and the values in them.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::value::RawValue;

use crate::cli::body::raw;
use crate::config::QUIC_PORT_DEFAULT;
use crate::config::value::{DURATION_RULE, parse_duration};
use crate::json::RawObject;
use crate::mesh::transport::{Address, InvalidAddress};

/// What people have to know before they write a tool; the whole of it is in docs/tools.md.
const TOOLS_HELP: &str = "\
A tool of [tools.NAME] in sigil.toml gets its arguments as JSON on standard input, as they were written, and answers with
what it prints. It runs as the user of the agent with PATH, HOME and LANG alone (more with `env`), umask 077, in a private
directory that is removed afterwards. What it leaves running is killed when it ends, and named in the call's history,
unless the tool has `keep_running = true`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 denied, 5 no agent or no answer of it, 6 still open,
7 out of time: it did not run, 8 conflict, 9 it ran and its result is on the way";

/// One private mesh out of your own devices: each offers tools, any of them can call them.
#[derive(Debug, Parser)]
#[command(name = "sigil", version, max_term_width = 100, propagate_version = true, after_help = TOOLS_HELP)]
pub(crate) struct Cli {
    /// Directory of this installation [default: the platform's data directory + `sigil`]
    #[arg(long, global = true, env = "SIGIL_HOME", value_name = "DIR", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

mod approvals;
mod memory;
mod model;
mod plugin;

pub(crate) use approvals::{Answer, ApprovalsArgs, ApprovalsCommand};
pub(crate) use memory::{AddArgs, Format, MemoryAskArgs, MemoryCommand, MemoryForgetArgs, ShowArgs};
pub(crate) use model::ModelCommand;
pub(crate) use plugin::{
    McpArgs, McpClient, McpClientsCommand, McpCommand, McpProfile, NodeCommand, PluginCommand, PluginRunArgs,
    SecretCommand,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start this device's agent and stay in the foreground
    Up(UpArgs),
    /// Stop the agent of this home
    Down,
    /// Watch three real peers on this machine lose their gateway and no call
    Demo(DemoArgs),
    /// This device: its identity, its gateway, its links
    Status,
    /// Open the web page of this device in a browser
    Ui(UiArgs),
    /// Make a code that lets one device join; list such codes, or take one back
    Invite(InviteArgs),
    /// Join the mesh of another device
    Join(JoinArgs),
    /// Leave the mesh; this device is a mesh of one again
    Leave,
    /// Devices on this network that do not belong to the mesh
    Nearby,
    /// All that waits for you: devices that await approval, tools that devices added or changed, and edits that were made in
    /// two halves
    Pending,
    /// Approve a device that awaits approval, or tools of a device
    Approve(ApproveArgs),
    /// Reject a device that awaits approval, or take the approval of tools of a device back
    Reject {
        /// Its node id, its peer id, or a prefix of one of at least 7 characters
        id: String,
        /// Take the approval of tools of a member back: of these, or without a name of all. They wait again, and nobody can use
        /// them meanwhile
        #[arg(long, value_name = "TOOL", num_args = 0..)]
        tools: Option<Vec<String>>,
    },
    /// Remove a device from the mesh, for good
    Forget {
        /// Its node id
        node: String,
        /// Also remove the devices that it let in, and those that these let in
        #[arg(long)]
        with_their_guests: bool,
        /// Also take back what it said about rights, and the names that it gave to devices, and what the devices removed with it
        /// said and gave; what that replaced holds again
        #[arg(long)]
        with_their_rights: bool,
    },
    /// The devices of the mesh, or one of them
    Nodes {
        /// Node id or peer id
        id: Option<String>,
    },
    /// All tools of all devices
    Tools {
        /// Only this device
        #[arg(long)]
        node: Option<String>,
    },
    /// Call a tool on a device; if it is offline, the call is queued
    Call(CallArgs),
    /// Calls, newest first; or one call with its whole history
    Calls(CallsArgs),
    /// The result of a call
    Result {
        /// The call
        id: String,
        /// One part of it alone, by its number from 0
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..16))]
        part: Option<u8>,
        /// Write the bytes to a file; `-` is standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Longest wait for its end and for the bytes [default: none for its end; for the bytes, while they come]
        #[arg(long, value_parser = duration, value_name = "TIME")]
        wait: Option<Duration>,
    },
    /// Stop a call, wherever it is
    Cancel {
        /// The call
        id: String,
        /// Reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Calls that wait for a person's answer, and the answer to one
    Approvals(ApprovalsArgs),
    /// What happened, newest first: calls, what was refused, who changed rights. For owners
    Audit(AuditArgs),
    /// The people of the mesh, and the devices that speak for them
    Person {
        #[command(subcommand)]
        command: PersonCommand,
    },
    /// Workspaces: which tools of which devices belong together, and who is in them
    Workspace {
        #[command(subcommand)]
        command: WorkspaceCommand,
    },
    /// Rules: who may use what, must ask for it, or may not
    Rule {
        #[command(subcommand)]
        command: RuleCommand,
    },
    /// Who may use what, as a whole: shown, explained, edited
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// What was said, kept and found again: add, import, ask, compact, forget
    Memory {
        /// Workspace whose memory it is
        #[arg(long, global = true, default_value = "home", value_name = "NAME")]
        workspace: String,
        #[command(subcommand)]
        command: MemoryCommand,
    },
    /// Models by which memory is searched by meaning: listed, fetched, verified, removed
    Model {
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Plugins: programs that offer tools, each in a folder with a plugin.yaml
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Foreign nodes: programs of somebody else that offer tools through this device, by gRPC
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Secrets of this device, which settings and plugins name
    Secret {
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// Be an MCP server on standard input and output: the tools of all devices for an agent. Without a command, as clients start it
    #[command(args_conflicts_with_subcommands = true)]
    Mcp {
        #[command(flatten)]
        args: McpArgs,
        #[command(subcommand)]
        command: Option<McpCommand>,
    },
    /// Make a bearer token for the HTTP door on this machine; it is shown this once
    Token(TokenArgs),
    /// Log lines of the agent
    Logs {
        /// Follow: print new lines as they come
        #[arg(short, long)]
        follow: bool,
        /// Number of lines to start with
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// Write this device into one file: settings, key, mesh and open calls
    Backup {
        /// The file, which only this user may read
        #[arg(value_parser = PathBufValueParser::new().try_map(named))]
        file: PathBuf,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
    /// Put a backup back into an empty home
    Restore(RestoreArgs),
    /// Give a device the name by which all members call it and rules know it
    #[command(allow_missing_positional = true)]
    Rename {
        /// The device, on an owner's device; without one it is this device, which only asks for the name unless it is an
        /// owner's or named itself
        #[arg(value_name = "NODE")]
        of: Option<String>,
        /// The name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Have the agent take a changed sigil.toml, without a restart
    Reload,
    /// Check this installation and suggest fixes
    Doctor,
    /// Print the completions of this program for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages of this program into a directory
    Man {
        /// The directory, which is made if needed
        #[arg(value_parser = PathBufValueParser::new().try_map(named))]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UiArgs {
    /// Print the address with its code instead of opening it
    #[arg(long)]
    pub(crate) print: bool,
    /// Sign all browsers out instead
    #[arg(long, conflicts_with = "print")]
    pub(crate) sign_out: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Node id to have in a mesh, kept with the home [default: the host's name]
    #[arg(long, value_name = "NODE_ID")]
    pub(crate) name: Option<String>,
    /// Return as soon as the agent is ready, and leave it running
    #[arg(long)]
    pub(crate) detach: bool,
    /// UDP port of the mesh
    #[arg(long, value_name = "PORT")]
    pub(crate) quic_port: Option<u16>,
    /// TCP port of the HTTP door on loopback
    #[arg(long, value_name = "PORT")]
    pub(crate) http_port: Option<u16>,
    /// This process was started by `--detach`: begin a session of its own
    #[arg(long, hide = true)]
    pub(crate) own_session: bool,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

/// Checks an address; the agent reads it.
fn address(text: &str) -> Result<String, InvalidAddress> {
    Address::of_person(text, QUIC_PORT_DEFAULT).map(|_| text.to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End when the story is told, instead of staying up
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Tier {
    /// Full trust: may call every tool, approve devices, and become gateway
    Owner,
    /// May call `device.info`, and what rules and workspaces give; neither approves devices nor becomes gateway
    Shared,
    /// As shared, for the time of `--for`: then it is removed by itself
    Ephemeral,
}

impl Tier {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Shared => "shared",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// A backup holds the key of its device, and two homes with one key disturb each other: say which device the restored home
/// is to be. Without one of the flags it is asked for.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The file that `sigil backup` wrote
    #[arg(value_parser = PathBufValueParser::new().try_map(named))]
    pub(crate) file: PathBuf,
    /// Go on as the device of the backup: its old home is gone for good, and its key is in use nowhere else
    #[arg(long, conflicts_with = "as_new_device")]
    pub(crate) identity_gone: bool,
    /// Take the settings alone: the device gets a key of its own, and joins the mesh anew
    #[arg(long)]
    pub(crate) as_new_device: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Name, for the list
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// Time until it ends, such as 90d [default: never]
    #[arg(long, value_parser = whole_seconds, value_name = "TIME")]
    pub(crate) expires: Option<u64>,
    /// Whom it is for: a person, `agent:PERSON/NAME` or `device:NODE` [default: whoever sits at this device]
    #[arg(long = "for", value_name = "WHO")]
    pub(crate) holder: Option<String>,
    /// It opens these devices only, such as `cam-*`
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Vec<String>,
    /// It opens these tools only, such as `lights.*`
    #[arg(long, value_name = "TOOL")]
    pub(crate) tool: Vec<String>,
    /// It may look, and change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// List the tokens of the mesh instead, with their last use at this device
    #[arg(long, conflicts_with_all = ["name", "expires", "holder", "node", "tool", "read_only"])]
    pub(crate) list: bool,
    /// Revoke the token of this id instead, at all devices
    #[arg(long, value_name = "ID", conflicts_with_all = ["name", "expires", "holder", "node", "tool", "read_only", "list"])]
    pub(crate) revoke: Option<String>,
    /// Revoke all tokens of the mesh instead
    #[arg(long, conflicts_with_all = ["name", "expires", "holder", "node", "tool", "read_only", "list", "revoke"])]
    pub(crate) revoke_all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Tier that it grants [default: owner, and with `--for` ephemeral]
    #[arg(long, value_enum)]
    pub(crate) tier: Option<Tier>,
    #[command(flatten)]
    pub(crate) stay: StayArgs,
    /// Time until the code expires
    #[arg(long, default_value = "15m", value_parser = whole_seconds, value_name = "TIME")]
    pub(crate) expires: u64,
    /// Name that the device gets, and by which rules know it; without one it names itself
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Show it as a QR code too
    #[arg(long)]
    pub(crate) qr: bool,
    /// List the codes that this device made instead
    #[arg(long, conflicts_with_all = ["tier", "lasts", "expires", "name", "qr"])]
    pub(crate) list: bool,
    /// Take back the code of this id instead: it lets nobody in any more
    #[arg(long, value_name = "ID", conflicts_with_all = ["tier", "lasts", "expires", "name", "qr", "list"])]
    pub(crate) void: Option<String>,
}

// A device that is let in for a while.
#[derive(Debug, Args)]
pub(crate) struct StayArgs {
    /// Let it in for so long only, such as 2h: then it is removed by itself. At most 30d
    #[arg(long = "for", value_parser = whole_seconds, value_name = "TIME", required_if_eq("tier", "ephemeral"))]
    pub(crate) lasts: Option<u64>,
    /// With `--for`: a tool that it may ask for, such as `lights.*`; may be given more than once [default: all that rules
    /// and workspaces give]
    #[arg(long, value_name = "TOOL", requires = "lasts")]
    pub(crate) only: Vec<String>,
    /// With `--for`: it may make one call, and is removed once that is over
    #[arg(long, requires = "lasts")]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whom")))]
pub(crate) struct JoinArgs {
    /// The code that `sigil invite` printed there; `-` reads it from standard input. Without one it is asked for, unseen:
    /// other users of this machine can read the arguments of a command
    #[arg(group = "whom")]
    pub(crate) code: Option<String>,
    /// Ask a device on this network, which must then approve
    #[arg(long, group = "whom", value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    pub(crate) nearby: Option<String>,
    /// Ask the device at this IP address or host name, which must then approve; port 7433 unless another is given
    #[arg(long, group = "whom", value_name = "HOST[:PORT]", value_parser = address)]
    pub(crate) address: Option<String>,
    /// Check words of that device, as `sigil status` shows them there: nobody is asked whether they are right
    #[arg(long, value_name = "WORDS")]
    pub(crate) yes: Option<String>,
    /// Leave the present mesh even if it has other devices
    #[arg(long)]
    pub(crate) force: bool,
    /// Node id, if an agent has to be started for a home that has none yet
    #[arg(long, value_name = "NODE_ID")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// Its node id, its peer id, or a prefix of one of at least 7 characters
    pub(crate) id: String,
    /// Tier to grant [default: shared, and with `--for` ephemeral]
    #[arg(long, value_enum)]
    pub(crate) tier: Option<Tier>,
    #[command(flatten)]
    pub(crate) stay: StayArgs,
    /// Node id to give it [default: the one that it asks for]
    #[arg(long, value_name = "NODE_ID")]
    pub(crate) name: Option<String>,
    /// Approve tools of a member instead, as they are now: these, or without a name all. From then on what it adds or changes
    /// waits for you
    #[arg(long, value_name = "TOOL", num_args = 0.., conflicts_with_all = ["tier", "lasts", "name", "yes"])]
    pub(crate) tools: Option<Vec<String>>,
    /// Check words of that device, as `sigil status` shows them there: nobody is asked whether they are right
    #[arg(long, value_name = "WORDS")]
    pub(crate) yes: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PersonCommand {
    /// List them
    List,
    /// Add somebody
    Add(PersonSet),
    /// Change what is said of somebody
    Set(PersonSet),
    /// Say by which login of the tailnet somebody comes in over it (`tailnet.door`)
    Login {
        /// The person
        id: String,
        /// The login, as the tailnet shows it; mostly a mail address
        login: String,
        /// It is hers no more
        #[arg(long)]
        remove: bool,
    },
    /// Take somebody away
    Remove {
        /// The person
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PersonSet {
    /// The person, in small letters: by this, rules name her
    pub(crate) id: String,
    /// Name for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Standing in the mesh [default: member]
    #[arg(long, value_enum)]
    pub(crate) role: Option<Role>,
    /// A device that speaks for her; may be given more than once. Devices of tier owner speak for everybody
    #[arg(long, value_name = "NODE")]
    pub(crate) device: Vec<String>,
    /// A device that speaks for her no more
    #[arg(long, value_name = "NODE")]
    pub(crate) not_device: Vec<String>,
    /// Nothing may be asked for her
    #[arg(long)]
    pub(crate) suspend: bool,
    /// End that
    #[arg(long, conflicts_with = "suspend")]
    pub(crate) resume: bool,
}

/// Standing in the mesh or in a workspace.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    /// Gets what is said for guests
    Guest,
    /// Gets what is said for members
    Member,
    /// Manages workspaces and people below this rank
    Admin,
    /// Manages everything
    Owner,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Verdict {
    /// Yes
    Allow,
    /// Somebody must say yes first: see `sigil approvals`
    Ask,
    /// No
    Deny,
}

impl Verdict {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// List them, or show one
    List {
        /// Only this one, with its members and rules
        id: Option<String>,
    },
    /// Make one. With the first, workspaces decide who may use what, instead of tiers
    Add(WorkspaceSet),
    /// Change one; what is not named stays
    Set(WorkspaceSet),
    /// Take one away, with its members and rules
    Remove {
        /// The workspace
        id: String,
    },
    /// Make somebody a member, or say as what
    Member(MemberArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WorkspaceSet {
    /// The workspace, in small letters
    pub(crate) id: String,
    /// Name for people
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// Devices that belong to it: a name in which `*` is any text and `?` any character; may be given more than once
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Vec<String>,
    /// Tools of these that belong to it [default: all]
    #[arg(long, value_name = "TOOL")]
    pub(crate) tool: Vec<String>,
    /// What its members get where no rule speaks [default: nothing]
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub(crate) members: Option<Verdict>,
    /// What its guests get
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub(crate) guests: Option<Verdict>,
    /// What agents of its people get
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub(crate) agents: Option<Verdict>,
    /// What devices get that ask for themselves
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub(crate) devices: Option<Verdict>,
}

#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    /// The workspace
    pub(crate) workspace: String,
    /// The person, or `device:NODE`
    pub(crate) who: String,
    /// As what
    #[arg(value_enum, default_value = "member")]
    pub(crate) role: Role,
    /// Take her out instead
    #[arg(long)]
    pub(crate) remove: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// List them
    List {
        /// Only those of this workspace; `mesh`: those that hold in all of them
        workspace: Option<String>,
    },
    /// Make a rule that gives, or put it in the place of the one of this name
    Allow(RuleArgs),
    /// Make a rule by which somebody must say yes first; `sigil approvals` shows what waits
    Ask(AskArgs),
    /// Make a rule that forbids; it beats every rule that gives
    Deny(RuleArgs),
    /// Take a rule away
    Remove {
        /// WORKSPACE/NAME
        rule: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RuleArgs {
    /// WORKSPACE/NAME; `mesh/NAME` holds in every workspace
    pub(crate) rule: String,
    /// Whom it is about: a person, `role:guest`, `people`, `agents`, `agent:mia/*`, `devices`, `device:NODE`, `everyone`;
    /// may be given more than once [default: everyone; of `allow` it must be given]
    #[arg(long)]
    pub(crate) who: Vec<String>,
    /// Devices, in which `*` is any text and `?` any character [default: all]
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Vec<String>,
    /// Tools, likewise [default: all]
    #[arg(long, value_name = "TOOL")]
    pub(crate) tool: Vec<String>,
    /// Remark for people
    #[arg(long)]
    pub(crate) note: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    pub(crate) rule: RuleArgs,
    /// Who may answer: a person, `role:admin`, or `self`, whoever asks; may be given more than once [default: owners and
    /// admins of the workspace, and of an agent its person]
    #[arg(long, value_name = "WHO")]
    pub(crate) approver: Vec<String>,
    /// Time that a call waits for an answer, at most 24h [default: 10m]
    #[arg(long, value_parser = duration_text, value_name = "TIME")]
    pub(crate) wait: Option<String>,
}

/// What happened, newest first
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only of this person, or `agent:PERSON/NAME`, `device:NODE`
    #[arg(long)]
    pub(crate) who: Option<String>,
    /// Only what this device was asked for
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Only what was about this tool
    #[arg(long)]
    pub(crate) tool: Option<String>,
    /// Only what was answered so
    #[arg(long, value_enum)]
    pub(crate) verdict: Option<Verdict>,
    /// Only what happened within the last so much time, such as `24h`
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) since: Option<Duration>,
    /// Lines on a page
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) limit: u32,
    /// Start of the page: `next_cursor` of the page before
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

/// Rows of a table.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum By {
    /// People
    Person,
    /// Agents of which something is said
    Agent,
    /// Devices that ask for themselves
    Device,
}

impl By {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Agent => "agent",
            Self::Device => "device",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print all that was said, as sigil.toml would say it
    Show,
    /// Tell if somebody may use a tool, why, and what would change it; or why a call is as it is
    #[command(override_usage = "sigil policy explain [OPTIONS] WHO NODE TOOL\n       sigil policy explain --call ID")]
    Explain {
        /// A person, `agent:PERSON/NAME`, `device:NODE`, or `me`: whoever sits at this device
        #[arg(required_unless_present = "call")]
        who: Option<String>,
        /// Device that has the tool
        #[arg(required_unless_present = "call")]
        node: Option<String>,
        /// The tool
        #[arg(required_unless_present = "call")]
        tool: Option<String>,
        /// Workspace that is named
        #[arg(long)]
        workspace: Option<String>,
        /// Device at which it is asked [default: one of tier owner; of `me` this one]
        #[arg(long, alias = "at", value_name = "NODE")]
        origin: Option<String>,
        /// Token by which it is asked, as `sigil token --list` shows it
        #[arg(long, value_name = "ID")]
        token: Option<String>,
        /// A call in place of a question: the rule that took, held or ended it, and what people said
        #[arg(long, value_name = "ID", conflicts_with_all = ["who", "node", "tool", "workspace", "origin", "token"])]
        call: Option<String>,
    },
    /// The table of who may use what
    Matrix {
        /// Only who is in this workspace
        #[arg(long)]
        workspace: Option<String>,
        /// Rows
        #[arg(long, value_enum, default_value = "person")]
        by: By,
    },
    /// Tell which of the last calls would be answered differently with the rights of a file; nothing is changed
    DryRun {
        /// All rights, as `sigil policy show` prints them; `-` is standard input
        file: PathBuf,
        /// Calls to look at
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
        last: u32,
    },
    /// What was edited in two halves of the mesh, with both texts
    Conflicts,
    /// End such a conflict: what holds is kept
    Keep {
        /// The conflict, as `sigil policy conflicts` shows it
        id: String,
    },
    /// End such a conflict: the other text holds again
    Restore {
        /// The conflict, as `sigil policy conflicts` shows it
        id: String,
        /// Number of the text, where there are several others
        text: Option<usize>,
    },
    /// Edit all of it as text, in the editor of $EDITOR
    Edit {
        /// Take the text from a file instead; `-` is standard input
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Print rights to begin with; without a name, which there are
    Template {
        /// The template
        name: Option<String>,
    },
    /// Let workspaces decide again
    On,
    /// Let tiers alone decide; what was said stays
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Effect {
    /// Changes nothing
    None,
    /// Doing it twice is as good as once
    Idempotent,
    /// At most one attempt, ever
    Once,
}

impl Effect {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Node id, or `any`
    pub(crate) node: String,
    /// Name of the tool, as `sigil tools` shows it
    pub(crate) tool: String,
    /// One argument; the value is JSON, passed on as it is written, if it reads as JSON; else text
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = named_value)]
    pub(crate) args: Vec<(String, Box<RawValue>)>,
    /// All arguments as one JSON document, passed on as it is: `@FILE`, `-` for standard input, or the JSON itself
    #[arg(long, value_name = "JSON", conflicts_with = "args")]
    pub(crate) input: Option<String>,
    /// Drop the call if it has not started within this time, at most 7d [default: `calls.ttl` in sigil.toml, else 1m]
    #[arg(long, value_parser = whole_seconds, value_name = "TIME")]
    pub(crate) ttl: Option<u64>,
    /// Stop the tool if it runs longer
    #[arg(long, value_parser = whole_seconds, value_name = "TIME")]
    pub(crate) timeout: Option<u64>,
    /// Make it stricter than the tool declares
    #[arg(long, value_enum)]
    pub(crate) effect: Option<Effect>,
    /// Workspace in which it is asked [default: the one that gives it]
    #[arg(long)]
    pub(crate) workspace: Option<String>,
    /// Ask as an agent of whoever sits here, and with its rights: its name, such as `claude`
    #[arg(long = "as", value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// Your own key for this call: the same key again finds it instead of calling twice
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Longest wait for the result; the call itself goes on [default: 20s, and longer while the bytes of the result come]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) wait: Option<Duration>,
    /// Return at once with the call's id
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CallsArgs {
    /// One call
    pub(crate) id: Option<String>,
    /// Only calls for this device
    #[arg(long, value_name = "NODE_ID")]
    pub(crate) node: Option<String>,
    /// Only calls that have not started
    #[arg(long, conflicts_with = "state")]
    pub(crate) queued: bool,
    /// Only calls in this state (open, ended, queued, running, done, failed, expired, …)
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Calls on a page
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) limit: u32,
    /// Start of the page: `next_cursor` of the page before
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

/// Reads a duration as `sigil.toml` has it.
fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| match text.trim().parse::<u64>() {
        Ok(number) => format!("the unit is missing: write {number}s"),
        Err(_) => format!("write {DURATION_RULE}"),
    })
}

/// Checks a duration; it is passed on as it is written.
fn duration_text(text: &str) -> Result<String, String> {
    duration(text).map(|_| text.to_owned())
}

/// A duration of at least one second, in whole seconds, as the REST API counts.
fn whole_seconds(text: &str) -> Result<u64, String> {
    let time = duration(text)?;
    if time.is_zero() || time.subsec_millis() != 0 {
        return Err("write whole seconds, at least 1s".into());
    }
    Ok(time.as_secs())
}

/// Reads the path of what is written or read as a whole: `-`, which is a stream everywhere else, names none.
fn named(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path.as_os_str() == "-" { Err("`-` names no file here; one of that name is `./-`") } else { Ok(path) }
}

/// Reads `name=value`; the value is JSON if it reads as JSON, else text.
fn named_value(text: &str) -> Result<(String, Box<RawValue>), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    if name.is_empty() {
        return Err("the name before `=` is empty".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| raw(&value));
    Ok((name.to_owned(), value))
}

/// Puts `--arg`s together, in their order; the same name twice is a mistake, not a choice.
pub(crate) fn arguments(args: &[(String, Box<RawValue>)]) -> Result<Box<RawValue>, String> {
    let mut object = RawObject::default();
    for (name, value) in args {
        if object.get(name).is_some() {
            return Err(format!("the argument `{name}` is given twice"));
        }
        object.push(name, value.clone());
    }
    Ok(raw(&object))
}

#[cfg(test)]
mod tests;
