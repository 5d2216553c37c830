//! What can be typed: commands, flags, and the values in them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value};

/// One private mesh out of your own devices: each offers tools, any of them can call them.
#[derive(Debug, Parser)]
#[command(name = "sigil", version, max_term_width = 100, propagate_version = true)]
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

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start this device's agent and stay in the foreground
    Up(UpArgs),
    /// Stop the agent of this home
    Down,
    /// Watch three real peers on this machine lose their gateway and no call
    Demo(DemoArgs),
    /// Who we are, who leads, whom we are linked to
    Status,
    /// Make a code that lets one device join
    Invite(InviteArgs),
    /// Join the mesh of another device
    Join(JoinArgs),
    /// Leave the mesh; this device is a mesh of one again
    Leave,
    /// Devices on this network that do not belong to the mesh
    Nearby,
    /// Devices that ask to join and await approval
    Pending,
    /// Let a pending device in
    Approve(ApproveArgs),
    /// Turn a pending device away
    Reject {
        /// Its name, its peer id, or the first 7 or more characters of one
        id: String,
    },
    /// Remove a device from the mesh, for good
    Forget {
        /// Its node id
        node: String,
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
    /// Call a tool on a device; if it is away, the call waits for it
    Call(CallArgs),
    /// Calls, newest first; or one call with its whole history
    Calls(CallsArgs),
    /// What a call answered
    Result {
        /// The call
        id: String,
        /// Write the bytes to a file
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Stop a call, wherever it is
    Cancel {
        /// The call
        id: String,
        /// Why, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Make a bearer token for the HTTP door on this machine; it is shown this once
    Token {
        /// Void all tokens made so far instead
        #[arg(long)]
        revoke_all: bool,
    },
    /// What the agent has logged
    Logs {
        /// Go on as it comes
        #[arg(short, long)]
        follow: bool,
        /// How many lines to begin with
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// Check this installation and suggest fixes
    Doctor,
    /// Measure what calls cost on this machine, with peers of its own
    #[command(hide = true)]
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Node id for a home that has none yet [default: the host's name]
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

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End when the story is told, instead of staying up
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Where the homes are laid out: a disk, or a RAM disk [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How many calls each measurement makes
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) calls: u32,
    /// Finished calls in the long history
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(crate) history: u32,
    /// A short look: fewer calls, a shorter history, 5 s of rest
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these parts
    #[arg(long, value_enum)]
    pub(crate) only: Vec<BenchPart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPart {
    /// Latency and throughput over three peers
    Calls,
    /// How fast one door accepts
    Accept,
    /// A mesh of five at rest
    Idle,
    /// The same with a long history
    History,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Tier {
    /// Full trust: may lead, approve others, and call everything
    Owner,
    /// May be called, and calls what it is allowed to
    Shared,
    /// Named tools only, for a while
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

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// How far the newcomer is trusted
    #[arg(long, value_enum, default_value = "owner")]
    pub(crate) tier: Tier,
    /// How long the code is good for
    #[arg(long, default_value = "15m", value_parser = whole_seconds, value_name = "TIME")]
    pub(crate) expires: u64,
    /// Show it as a QR code too
    #[arg(long)]
    pub(crate) qr: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whom").required(true)))]
pub(crate) struct JoinArgs {
    /// The code that `sigil invite` printed there; `-` reads it from standard input
    #[arg(group = "whom")]
    pub(crate) code: Option<String>,
    /// Ask a device on this network, which must then approve
    #[arg(long, group = "whom", value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    pub(crate) nearby: Option<String>,
    /// Ask the device at this address, which must then approve
    #[arg(long, group = "whom", value_name = "IP:PORT")]
    pub(crate) address: Option<std::net::SocketAddr>,
    /// Leave the present mesh even if it has other devices
    #[arg(long)]
    pub(crate) force: bool,
    /// Node id, if an agent has to be started for a home that has none yet
    #[arg(long, value_name = "NODE_ID")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// Its name, its peer id, or the first 7 or more characters of one
    pub(crate) id: String,
    /// How far to trust it [default: shared]
    #[arg(long, value_enum)]
    pub(crate) tier: Option<Tier>,
    /// Call it by this node id
    #[arg(long, value_name = "NODE_ID")]
    pub(crate) name: Option<String>,
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
    /// One argument; the value is JSON if it reads as JSON, else text
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = named_value)]
    pub(crate) args: Vec<(String, Value)>,
    /// All arguments as one JSON object: `@FILE`, `-` for standard input, or the JSON itself
    #[arg(long, value_name = "JSON", conflicts_with = "args")]
    pub(crate) input: Option<String>,
    /// Drop the call if it has not started by then (up to 7d) [default: 60s]
    #[arg(long, value_parser = whole_seconds, value_name = "TIME")]
    pub(crate) ttl: Option<u64>,
    /// Stop the tool if it runs longer
    #[arg(long, value_parser = whole_seconds, value_name = "TIME")]
    pub(crate) timeout: Option<u64>,
    /// Make it stricter than the tool declares
    #[arg(long, value_enum)]
    pub(crate) effect: Option<Effect>,
    /// Your own key for this call: the same key again finds it instead of calling twice
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// How long to wait for the end; the call itself goes on
    #[arg(long, default_value = "20s", value_parser = duration, value_name = "TIME")]
    pub(crate) wait: Duration,
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
    /// How many
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) limit: u32,
    /// Where to go on: `next_cursor` of the page before
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

/// Reads `90`, `90s`, `1h30m`, `250ms`, `7d`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLE: &str = "write it as 500ms, 20s, 15m, 2h or 7d";
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(EXAMPLE.into());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let number: u64 = number.parse().map_err(|_| EXAMPLE.to_owned())?;
        let millis_each = match unit {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXAMPLE.into()),
        };
        let part = number.checked_mul(millis_each).map(Duration::from_millis);
        total = part.and_then(|part| total.checked_add(part)).ok_or("that is longer than anything lasts")?;
        rest = next;
    }
    Ok(total)
}

/// A duration of at least one second, in whole seconds, as the REST API counts.
pub(crate) fn whole_seconds(text: &str) -> Result<u64, String> {
    let time = duration(text)?;
    if time.is_zero() || time.subsec_millis() != 0 {
        return Err("whole seconds, at least 1s".into());
    }
    Ok(time.as_secs())
}

/// Reads `name=value`; the value is JSON if it reads as JSON, else text.
fn named_value(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    if name.is_empty() {
        return Err("the name before `=` is empty".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Puts `--arg`s together; the same name twice is a mistake, not a choice.
pub(crate) fn arguments(args: &[(String, Value)]) -> Result<Value, String> {
    let mut object = Map::new();
    for (name, value) in args {
        if object.insert(name.clone(), value.clone()).is_some() {
            return Err(format!("the argument `{name}` is given twice"));
        }
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use serde_json::json;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in
            [("90", 90_000), ("500ms", 500), ("15m", 900_000), ("1h30m", 5_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1.5s", "1y", "ten", "1 h", "99999999999999999999s", "9999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(whole_seconds("1m"), Ok(60));
        assert!(whole_seconds("1500ms").is_err());
        assert!(whole_seconds("0").is_err());
    }

    #[test]
    fn arguments_are_json_if_they_read_as_json() {
        let cli = parse(
            "sigil call attic t --arg n=3 --arg s=three --arg l=[1,2] --arg e= --arg z=007 --arg q=\"3\" --arg b=a=b",
        );
        let Ok(Cli { command: Command::Call(call), .. }) = cli else { panic!("{cli:?}") };
        let all = arguments(&call.args).expect("no name twice");
        assert_eq!(all, json!({"n": 3, "s": "three", "l": [1, 2], "e": "", "z": "007", "q": "3", "b": "a=b"}));
        assert!(parse("sigil call attic t --arg n").is_err());
        assert!(parse("sigil call attic t --arg =3").is_err());
        assert!(arguments(&[("a".into(), json!(1)), ("a".into(), json!(2))]).is_err());
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        for line in ["sigil --json --home /x status", "sigil status --home /x --json"] {
            let cli = parse(line).expect(line);
            assert!(cli.json && cli.home == Some(PathBuf::from("/x")), "{line}");
        }
    }

    #[test]
    fn join_takes_exactly_one_target() {
        let target = |line| match parse(line).map(|cli| cli.command) {
            Ok(Command::Join(join)) => Some((join.code, join.nearby, join.address.is_some())),
            _ => None,
        };
        assert_eq!(target("sigil join CODE"), Some((Some("CODE".into()), None, false)));
        assert_eq!(target("sigil join --nearby"), Some((None, Some(String::new()), false)));
        assert_eq!(target("sigil join --nearby attic"), Some((None, Some("attic".into()), false)));
        assert_eq!(target("sigil join --address [::1]:7433"), Some((None, None, true)));
        for line in ["sigil join", "sigil join CODE --address 1.2.3.4:5", "sigil join --address attic"] {
            assert_eq!(target(line), None, "{line}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "sigil call a t --wait 3s --no-wait",
            "sigil call a t --arg k=v --input {}",
            "sigil call a",
            "sigil calls --queued --state done",
            "sigil calls --limit 201",
            "sigil up --quic-port 70000",
            "sigil frobnicate",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
