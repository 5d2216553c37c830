//! Costs of calls between real peers on this machine, beside what QUIC and the disk cost in the same run. Measures any
//! `sigil` program; nothing fails when a goal is missed.

mod echo;
mod listing;
mod load;
mod past;
mod peers;
mod stats;

use mesh_core::limits;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use sigil::store::StoreError;
use testbed::text;
use tokio::time::{Instant, sleep};

use crate::echo::{Echo, ms};
use crate::peers::{Fleet, NOOP, Peer};
use crate::stats::{Samples, memory, processor_time};

/// The tool that every agent offers.
const INFO: &str = "device.info";
/// Calls under way at once.
const WIDTH: usize = 64;
/// Nodes that a door accepts calls for: none is there, and each may have 1,000 calls open.
const ABSENT: usize = 100;
/// Nodes that are known in the long history.
const KNOWN: usize = 1_000;
/// A mesh that has not settled by then will not; a long history has to be exchanged first.
const SETTLED_WITHIN: Duration = Duration::from_mins(10);
/// fsyncs that one call waits for, one after the other: accepted, started, ended, and the ending known at the origin.
const FSYNCS_OF_A_CALL: f64 = 4.0;

#[derive(Debug, Parser)]
#[command(version, about = "Measures calls between real peers on this machine, beside QUIC and the disk")]
struct Arguments {
    /// Program to be measured [default: `sigil` beside this program]
    #[arg(long, value_name = "PATH")]
    sigil: Option<PathBuf>,
    /// Directory for the homes: on a disk, or on a RAM disk [default: the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Tool that is called [default: `noop` where it is offered (builds with fault points), else `device.info`]
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// Calls of each measurement
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    calls: u32,
    /// Finished calls in the long history
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    history: u32,
    /// A short look: fewer calls, a shorter history, 5 s of rest
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// One JSON document in place of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Latency and throughput over three peers
    Calls,
    /// Rate at which one door accepts; needs a program that reads the store format of this one
    Accept,
    /// A mesh of five at rest
    Idle,
    /// The same with a long history; needs a program that reads the store format of this one
    History,
    /// A mesh of one: events that its clients get, and what listing many calls costs those who call
    Alone,
}

/// Something that was measured.
#[derive(Debug)]
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    /// At most, or at least.
    goal: Option<Goal>,
}

#[derive(Debug, Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

fn main() -> ExitCode {
    // One thread: agents are told to end with the thread that started them, so that has to be the main one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measured = runtime.context("starting").and_then(|runtime| runtime.block_on(run(Arguments::parse())));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sigil-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Arguments) -> Result<()> {
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("sigil"));
    let quick = args.quick;
    let mut bench = Bench {
        program: args.sigil.map_or_else(beside, Ok).context("the path of this program")?,
        dir: args.dir.unwrap_or_else(std::env::temp_dir),
        tool: args.tool.unwrap_or_default(),
        calls: if quick { args.calls.min(1_000) } else { args.calls } as usize,
        history: if quick { args.history.min(2_000) } else { args.history } as usize,
        rest: Duration::from_secs(if quick { 5 } else { 20 }),
        figures: Vec::new(),
    };
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    bench.everything(&wanted).await?;
    if args.json {
        println!("{}", bench.to_json());
    } else {
        println!("{}", bench.to_text());
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    dir: PathBuf,
    /// Tool that is called.
    tool: String,
    calls: usize,
    history: usize,
    rest: Duration,
    figures: Vec<Figure>,
}

impl Bench {
    async fn everything(&mut self, wanted: &impl Fn(Part) -> bool) -> Result<()> {
        let yard = self.yardstick().await?;
        let mut fleet = Fleet::new(&self.dir, &self.program, ["one", "two", "three", "four", "five"])?;
        if [Part::Calls, Part::Idle, Part::History].into_iter().any(wanted) {
            self.start(&mut fleet).await?;
            if wanted(Part::Idle) {
                self.idle(&mut fleet).await?;
            }
            if wanted(Part::Calls) || wanted(Part::History) {
                let before = self.calls(&fleet, &yard).await?;
                if wanted(Part::History) {
                    unless_unreadable(self.past(&mut fleet, before).await)?;
                }
            }
        }
        fleet.stop().await;
        if wanted(Part::Accept) {
            unless_unreadable(self.accept(&yard).await)?;
        }
        if wanted(Part::Alone) {
            self.alone().await?;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        eprintln!("… {what} ({})", self.program.display());
    }

    fn note(&mut self, name: &'static str, value: f64, unit: &'static str, goal: Option<Goal>) {
        let figure = Figure { name, value, unit, goal };
        eprintln!("  {name}: {}", figure.shown());
        self.figures.push(figure);
    }

    async fn yardstick(&mut self) -> Result<Yard> {
        self.say("the yardsticks: echoes over a QUIC stream on loopback, and fsyncs");
        let mut echo = Echo::open().await?;
        let mut echoes = Samples::default();
        for _ in 0..self.calls {
            echoes.add(echo.once().await?);
        }
        echo.close().await;
        self.note("QUIC echo of 256 bytes, one after another, p50", ms(echoes.p50()), "ms", None);
        let fsync = echo::fsync(&self.dir, 300)?.p50();
        self.note("fsync of one page, p50", ms(fsync), "ms", None);
        if let Ok(data) = std::fs::metadata(&self.program) {
            self.note("program with its line tables", mb(data.len()), "MB", None);
        }
        Ok(Yard { fsync })
    }

    /// Three peers start and join.
    async fn start(&mut self, fleet: &mut Fleet<5>) -> Result<()> {
        self.say("three peers start and join");
        let mut first = Samples::default();
        let [one, two, three, ..] = &mut fleet.peers;
        let mut peers = [one, two, three];
        for peer in &mut peers {
            first.add(peer.start().await?);
        }
        self.note("`up` to ready, a new home, p50 of 3", ms(first.p50()), "ms", None);
        let mut again = Samples::default();
        let [_, _, third] = &mut peers;
        for _ in 0..5 {
            third.stop().await?;
            again.add(third.start().await?);
        }
        self.note("`up` to ready, p50 of 5", ms(again.p50()), "ms", Some(Goal::AtMost(100.0)));
        let [one, two, three] = &peers;
        if self.tool.is_empty() {
            if one.offers_noop() { NOOP } else { INFO }.clone_into(&mut self.tool);
        }
        join(one, two)?;
        join(one, three)?;
        settled(&[one, two, three], 3).await
    }

    /// A call goes from a peer that does not lead, over the gateway, to the third.
    async fn calls(&mut self, fleet: &Fleet<5>, yard: &Yard) -> Result<Duration> {
        let [one, two, three, ..] = &fleet.peers;
        let peers = [one, two, three];
        let (origin, target) = roles(&peers)?;
        self.say("calls, one after another");
        let p50 = self.sequential(&origin.socket(), &target, yard).await?;
        self.say("calls, 64 at once");
        let before: Vec<Duration> = peers.iter().map(|peer| used(peer)).collect();
        let (took, each) =
            load::at_once(&origin.socket(), std::slice::from_ref(&target), &self.tool, (self.calls * 2, WIDTH), true)
                .await?;
        let cpu: Duration = peers.iter().zip(before).map(|(peer, before)| used(peer).saturating_sub(before)).sum();
        self.note("64 at once", rate(self.calls * 2, took), "calls/s", Some(Goal::AtLeast(3_000.0)));
        self.note("64 at once, p50 of one", ms(each.p50()), "ms", None);
        self.note("64 at once, processor time of one, all peers", 1e6 / rate(self.calls * 2, cpu), "µs", None);
        let (took, _) = load::at_once(&origin.socket(), &[target], INFO, (self.calls, WIDTH), true).await?;
        self.note("64 at once, device.info", rate(self.calls, took), "calls/s", None);
        self.note("resident memory after these calls", mb(largest(&peers, "VmRSS")), "MB", None);
        Ok(p50)
    }

    async fn sequential(&mut self, origin: &Path, target: &str, yard: &Yard) -> Result<Duration> {
        let calls = load::sequential(origin, target, &self.tool, self.calls).await?;
        let p50 = calls.p50();
        self.note("one call over three peers, p50", ms(p50), "ms", Some(Goal::AtMost(1.0)));
        self.note("one call over three peers, p99", ms(calls.at(99)), "ms", None);
        let (beside, echoes) = load::beside_echoes(origin, target, &self.tool, self.calls).await?;
        self.note("QUIC echo between two calls, p50", ms(echoes.p50()), "ms", None);
        let ratio = beside.p50().as_secs_f64() / echoes.p50().as_secs_f64();
        self.note("a call between two echoes, beside them", ratio, "×", Some(Goal::AtMost(10.0)));
        self.note("its fsyncs", ms(yard.fsync) * FSYNCS_OF_A_CALL, "ms", None);
        let info = load::sequential(origin, target, INFO, self.calls.min(1_000)).await?;
        self.note("one call of device.info, p50", ms(info.p50()), "ms", None);
        Ok(p50)
    }

    /// All five, doing nothing.
    async fn idle(&mut self, fleet: &mut Fleet<5>) -> Result<()> {
        self.say("two more join, and all rest");
        let [one, two, three, four, five] = &mut fleet.peers;
        four.start().await?;
        five.start().await?;
        join(one, four)?;
        join(one, five)?;
        let peers = [&*one, two, three, four, five];
        settled(&peers, 5).await?;
        sleep(Duration::from_secs(3)).await;
        let before: Vec<Duration> = peers.iter().map(|peer| used(peer)).collect();
        let began = Instant::now();
        sleep(self.rest).await;
        let rest = began.elapsed().as_secs_f64();
        let mut share: Vec<f64> = peers
            .iter()
            .zip(before)
            .map(|(peer, before)| used(peer).saturating_sub(before).as_secs_f64() / rest * 100.0)
            .collect();
        share.sort_by(f64::total_cmp);
        self.note(
            "at rest, a peer of five, median",
            share.get(2).copied().unwrap_or(0.0),
            "% of a core",
            Some(Goal::AtMost(0.2)),
        );
        self.note("at rest, the busiest of five", share.last().copied().unwrap_or(0.0), "% of a core", None);
        self.note("at rest, resident memory", mb(largest(&peers, "VmRSS")), "MB", Some(Goal::AtMost(30.0)));
        self.note("at rest, of it not the program file's", mb(largest(&peers, "RssAnon")), "MB", None);
        four.stop().await?;
        five.stop().await?;
        Ok(())
    }

    /// The same three peers, older by many calls and with many acquaintances.
    async fn past(&mut self, fleet: &mut Fleet<5>, before: Duration) -> Result<()> {
        let history = self.history;
        self.say(&format!("a past: {KNOWN} known nodes, {history} finished calls"));
        let [one, two, three, ..] = &mut fleet.peers;
        // The same three without a past, now that they have served the other measurements.
        let (origin, target) = roles(&[one, two, three])?;
        let again = load::sequential(&origin.socket(), &target, &self.tool, self.calls).await?.p50().min(before);
        for peer in [&mut *one, two, three] {
            peer.stop().await?;
        }
        let (home, tool) = (one.home.clone(), self.tool.clone());
        let began = Instant::now();
        let making = tokio::task::spawn_blocking(move || past::give(&home, &tool, KNOWN, history));
        making.await.context("making a past")??;
        self.note("making the past", began.elapsed().as_secs_f64(), "s", None);
        let took = one.start().await?;
        self.note("`up` to ready with a past", ms(took), "ms", None);
        let began = Instant::now();
        two.start().await?;
        three.start().await?;
        let peers = [&*one, two, three];
        settled(&peers, 3 + KNOWN).await?;
        self.note("until the others know it too", began.elapsed().as_secs_f64(), "s", None);
        let (origin, target) = roles(&peers)?;
        let p50 = load::sequential(&origin.socket(), &target, &self.tool, self.calls).await?.p50();
        self.note("one call with a past, p50", ms(p50), "ms", None);
        let change = (p50.as_secs_f64() / again.as_secs_f64() - 1.0) * 100.0;
        self.note("change by a past", change, "%", Some(Goal::AtMost(20.0)));
        self.note("resident memory with a past", mb(largest(&peers, "VmRSS")), "MB", None);
        Ok(())
    }

    /// One door, and nobody who could run what it accepts.
    async fn accept(&mut self, yard: &Yard) -> Result<()> {
        self.say("calls accepted for nodes that are not there");
        let mut fleet = Fleet::new(&self.dir, &self.program, ["door"])?;
        let [peer] = &mut fleet.peers;
        peer.start().await?;
        peer.stop().await?;
        let home = peer.home.clone();
        let making = tokio::task::spawn_blocking(move || past::give(&home, INFO, ABSENT, 0));
        let absent = making.await.context("making a past")??;
        peer.start().await?;
        let calls = (self.calls * 2).min(ABSENT * 900);
        let (took, each) = load::at_once(&peer.socket(), &absent, INFO, (calls, WIDTH), false).await?;
        let goal = (ms(yard.fsync) <= 1.0).then_some(Goal::AtLeast(5_000.0));
        self.note("accepted, 64 at once", rate(calls, took), "calls/s", goal);
        self.note("accepted, 64 at once, p50 of one", ms(each.p50()), "ms", None);
        fleet.stop().await;
        Ok(())
    }

    /// A mesh of one: `nodes` events while many calls run, and acceptance while as many are listed.
    async fn alone(&mut self) -> Result<()> {
        self.say("a mesh of one, and many calls");
        let mut fleet = Fleet::new(&self.dir, &self.program, ["alone"])?;
        let [peer] = &mut fleet.peers;
        peer.start().await?;
        let (node, socket) = ([peer.name.to_owned()], peer.socket());
        let events = listing::Events::listen(&socket)?;
        let calls = self.calls * 12 / 5;
        load::at_once(&socket, &node, INFO, (calls, WIDTH), true).await?;
        let nodes = u32::try_from(events.named("nodes")).unwrap_or(u32::MAX);
        self.note("`nodes` events while these calls ran", nodes.into(), "events", None);
        // Nobody waits for these: fewer than may wait for one target, or the rest would be refused.
        let accepted = self.calls.min(limits::QUEUE_MAX - WIDTH);
        let (_, each) = load::at_once(&socket, &node, INFO, (accepted, WIDTH), false).await?;
        self.note("accepted, 64 at once, the worst", ms(each.at(100)), "ms", None);
        settled(&[peer], 1).await?;
        let lists = listing::Lists::repeat(&socket, "calls?state=failed");
        let (_, each) = load::at_once(&socket, &node, INFO, (accepted, WIDTH), false).await?;
        self.note("accepted while calls are listed, the worst", ms(each.at(100)), "ms", None);
        self.note("a list of these calls, p50", ms(lists.stop()?.p50()), "ms", None);
        fleet.stop().await;
        Ok(())
    }

    fn to_json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                json!({
                    "name": figure.name, "value": figure.value, "unit": figure.unit,
                    "goal": figure.goal.map(|goal| goal.to_string()), "met": figure.goal.map(|goal| goal.met(figure.value)),
                })
            })
            .collect();
        json!({
            "program": self.program, "tool": self.tool, "cores": cores(), "dir": self.dir, "calls": self.calls,
            "figures": figures,
        })
    }

    fn to_text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .figures
            .iter()
            .map(|figure| {
                let goal = figure.goal.map(|goal| format!("{goal} {}", figure.unit)).unwrap_or_default();
                let met = figure.goal.map(|goal| if goal.met(figure.value) { "met" } else { "missed" });
                vec![figure.name.to_owned(), figure.shown(), goal, met.unwrap_or_default().to_owned()]
            })
            .collect();
        format!(
            "{}\n{}, {} cores, homes in {}, {} calls each of {}",
            table(&rows),
            self.program.display(),
            cores(),
            self.dir.display(),
            self.calls,
            if self.tool.is_empty() { INFO } else { &self.tool }
        )
    }
}

impl Figure {
    fn shown(&self) -> String {
        match self.value.abs() {
            large if large >= 100.0 => format!("{:.0} {}", self.value, self.unit),
            large if large >= 10.0 => format!("{:.1} {}", self.value, self.unit),
            _ => format!("{:.3} {}", self.value, self.unit),
        }
    }
}

/// Leaves out a part that needs the store of the measured program where this program cannot read it.
fn unless_unreadable(measured: Result<()>) -> Result<()> {
    match measured {
        Err(error) if matches!(error.downcast_ref(), Some(StoreError::Format { .. })) => {
            eprintln!("  left out: {error:#}");
            Ok(())
        }
        other => other,
    }
}

/// The yardstick.
struct Yard {
    fsync: Duration,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn rate(calls: usize, took: Duration) -> f64 {
    calls as f64 / took.as_secs_f64()
}

fn used(peer: &Peer) -> Duration {
    peer.pid().map(processor_time).unwrap_or_default()
}

fn largest(peers: &[&Peer], name: &str) -> u64 {
    peers.iter().filter_map(|peer| peer.pid()).map(|pid| memory(pid, name)).max().unwrap_or(0)
}

fn join(inviter: &Peer, newcomer: &Peer) -> Result<()> {
    let invite = inviter.post("invites", &json!({}))?;
    newcomer.post("join", &json!({ "code": text(&invite, "code") }))?;
    Ok(())
}

/// Waits until these see each other online under one gateway, know at least so many nodes, and no longer work hard.
async fn settled(peers: &[&Peer], nodes: usize) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + SETTLED_WITHIN;
    while Instant::now() < deadline {
        let before: Vec<Duration> = peers.iter().map(|peer| used(peer)).collect();
        sleep(LOOK).await;
        let busy = peers.iter().zip(before).any(|(peer, before)| used(peer).saturating_sub(before) > LOOK / 10);
        let mut gateways = BTreeSet::new();
        let mut agreed = true;
        for peer in peers {
            let status = peer.get("status")?;
            let count = |name: &str| status.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
            agreed &= count("nodes") >= nodes && count("nodes_online") >= peers.len();
            gateways
                .insert(status.get("gateway").map(|gateway| text(gateway, "peer_id").to_owned()).unwrap_or_default());
        }
        let one = gateways.len() == 1 && gateways.first().is_some_and(|id| peers.iter().any(|peer| peer.id == *id));
        if one && agreed && !busy {
            return Ok(());
        }
    }
    bail!("the mesh does not settle")
}

/// One that does not lead, and the name of the other that does not: origin and target of the calls.
fn roles<'a>(peers: &[&'a Peer; 3]) -> Result<(&'a Peer, String)> {
    let [one, ..] = peers;
    let status = one.get("status")?;
    let gateway = status.get("gateway").map(|gateway| text(gateway, "peer_id")).unwrap_or_default();
    let mut others = peers.iter().filter(|peer| peer.id != gateway);
    match (others.next(), others.next()) {
        (Some(origin), Some(target)) => Ok((origin, target.name.to_owned())),
        _ => bail!("fewer than three peers"),
    }
}

/// Aligned columns under their heads, two spaces apart.
fn table(rows: &[Vec<String>]) -> String {
    let heads = ["WHAT", "MEASURED", "GOAL", ""].map(str::to_owned).to_vec();
    let all = || std::iter::once(&heads).chain(rows);
    let widest = |column: usize| all().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(widest).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_point_the_right_way() {
        assert!(Goal::AtMost(1.0).met(0.9) && !Goal::AtMost(1.0).met(1.1));
        assert!(Goal::AtLeast(1.0).met(1.1) && !Goal::AtLeast(1.0).met(0.9));
    }
}
