//! `sigil bench`: what calls cost, between real peers on this machine, beside what QUIC and the disk cost in the same
//! run. The goals are those of the project's issue on the main job, "Speed and size"; nothing fails when one is missed.

mod echo;
mod load;
mod past;
mod stats;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::echo::{Echo, ms};
use self::stats::{Samples, memory, processor_time};
use crate::cli::args::{BenchArgs, BenchPart};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::fleet::{Fleet, Peer};
use crate::cli::output::{Ui, table, text};

/// The tool that does nothing; peers offer it when this variable is set.
const NOOP: &str = "noop";
const OFFER_NOOP: (&str, &str) = ("SIGIL_TEST_NOOP", "1");
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

/// Makes an error of anything that went wrong while measuring.
fn trouble<E: Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::new(Exit::Failed, format!("measuring: {what}: {error}"))
}

pub(crate) async fn run(args: &BenchArgs, ui: Ui) -> Result<Exit, Failure> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut bench = Bench {
        ui,
        dir,
        calls: if args.quick { args.calls.min(1_000) } else { args.calls } as usize,
        history: if args.quick { args.history.min(2_000) } else { args.history } as usize,
        rest: Duration::from_secs(if args.quick { 5 } else { 20 }),
        figures: Vec::new(),
    };
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    bench.everything(&wanted).await?;
    if ui.json {
        ui.document("sigil.bench/1", bench.to_json());
    } else {
        ui.print(&bench.to_text());
    }
    Ok(Exit::Ok)
}

struct Bench {
    ui: Ui,
    dir: PathBuf,
    calls: usize,
    history: usize,
    rest: Duration,
    figures: Vec<Figure>,
}

impl Bench {
    async fn everything(&mut self, wanted: &impl Fn(BenchPart) -> bool) -> Result<(), Failure> {
        let yard = self.yardstick().await?;
        let mut fleet = Fleet::new(&self.dir, ["one", "two", "three", "four", "five"])?;
        for peer in &mut fleet.peers {
            peer.variables.push(OFFER_NOOP);
        }
        if [BenchPart::Calls, BenchPart::Idle, BenchPart::History].into_iter().any(wanted) {
            self.start(&mut fleet).await?;
            if wanted(BenchPart::Idle) {
                self.idle(&mut fleet).await?;
            }
            let before = self.calls(&fleet, &yard).await?;
            if wanted(BenchPart::History) {
                self.past(&mut fleet, before).await?;
            }
        }
        fleet.stop().await;
        if wanted(BenchPart::Accept) {
            self.accept(&yard).await?;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        self.ui.say(&format!("… {what}"));
    }

    fn note(&mut self, name: &'static str, value: f64, unit: &'static str, goal: Option<Goal>) {
        let figure = Figure { name, value, unit, goal };
        self.ui.say(&format!("  {name}: {}", figure.shown()));
        self.figures.push(figure);
    }

    async fn yardstick(&mut self) -> Result<Yard, Failure> {
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
        if let Ok(data) = std::env::current_exe().and_then(std::fs::metadata) {
            self.note("program with its line tables", mb(data.len()), "MB", None);
        }
        Ok(Yard { fsync })
    }

    /// Three peers start and join.
    async fn start(&mut self, fleet: &mut Fleet<5>) -> Result<(), Failure> {
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
        join(one, two).await?;
        join(one, three).await?;
        settled(&[one, two, three], 3).await
    }

    /// A call goes from a peer that does not lead, over the gateway, to the third.
    async fn calls(&mut self, fleet: &Fleet<5>, yard: &Yard) -> Result<Duration, Failure> {
        let [one, two, three, ..] = &fleet.peers;
        let peers = [one, two, three];
        let (origin, target) = roles(&peers).await?;
        self.say("calls, one after another");
        let p50 = self.sequential(&origin.client, &target, yard).await?;
        self.say("calls, 64 at once");
        let before: Vec<Duration> = peers.iter().map(|peer| used(peer)).collect();
        let (took, each) =
            load::at_once(&origin.client, std::slice::from_ref(&target), NOOP, (self.calls * 2, WIDTH), true).await?;
        let cpu: Duration = peers.iter().zip(before).map(|(peer, before)| used(peer).saturating_sub(before)).sum();
        self.note("64 at once", rate(self.calls * 2, took), "calls/s", Some(Goal::AtLeast(3_000.0)));
        self.note("64 at once, p50 of one", ms(each.p50()), "ms", None);
        self.note("64 at once, processor time of one, all peers", 1e6 / rate(self.calls * 2, cpu), "µs", None);
        let (took, _) = load::at_once(&origin.client, &[target], "device.info", (self.calls, WIDTH), true).await?;
        self.note("64 at once, device.info", rate(self.calls, took), "calls/s", None);
        self.note("resident memory after these calls", mb(largest(&peers, "VmRSS")), "MB", None);
        Ok(p50)
    }

    async fn sequential(&mut self, origin: &Client, target: &str, yard: &Yard) -> Result<Duration, Failure> {
        let calls = load::sequential(origin, target, NOOP, self.calls).await?;
        let p50 = calls.p50();
        self.note("one call over three peers, p50", ms(p50), "ms", Some(Goal::AtMost(1.0)));
        self.note("one call over three peers, p99", ms(calls.at(99)), "ms", None);
        let (beside, echoes) = load::beside_echoes(origin, target, NOOP, self.calls).await?;
        self.note("QUIC echo between two calls, p50", ms(echoes.p50()), "ms", None);
        let ratio = beside.p50().as_secs_f64() / echoes.p50().as_secs_f64();
        self.note("a call between two echoes, beside them", ratio, "×", Some(Goal::AtMost(10.0)));
        self.note("its fsyncs", ms(yard.fsync) * FSYNCS_OF_A_CALL, "ms", None);
        let info = load::sequential(origin, target, "device.info", self.calls.min(1_000)).await?;
        self.note("one call of device.info, p50", ms(info.p50()), "ms", None);
        Ok(p50)
    }

    /// All five, doing nothing.
    async fn idle(&mut self, fleet: &mut Fleet<5>) -> Result<(), Failure> {
        self.say("two more join, and all rest");
        let [one, two, three, four, five] = &mut fleet.peers;
        four.start().await?;
        five.start().await?;
        join(one, four).await?;
        join(one, five).await?;
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
    async fn past(&mut self, fleet: &mut Fleet<5>, before: Duration) -> Result<(), Failure> {
        let history = self.history;
        self.say(&format!("a past: {KNOWN} known nodes, {history} finished calls"));
        let [one, two, three, ..] = &mut fleet.peers;
        // The same three without a past, now that they have served the other measurements.
        let (origin, target) = roles(&[one, two, three]).await?;
        let again = load::sequential(&origin.client, &target, NOOP, self.calls).await?.p50().min(before);
        for peer in [&mut *one, two, three] {
            peer.stop().await?;
        }
        let home = one.home.clone();
        let began = Instant::now();
        let making = tokio::task::spawn_blocking(move || past::give(&home, NOOP, KNOWN, history));
        making.await.map_err(trouble("making a past"))??;
        self.note("making the past", began.elapsed().as_secs_f64(), "s", None);
        let took = one.start().await?;
        self.note("`up` to ready with a past", ms(took), "ms", None);
        let began = Instant::now();
        two.start().await?;
        three.start().await?;
        let peers = [&*one, two, three];
        settled(&peers, 3 + KNOWN).await?;
        self.note("until the others know it too", began.elapsed().as_secs_f64(), "s", None);
        let (origin, target) = roles(&peers).await?;
        let p50 = load::sequential(&origin.client, &target, NOOP, self.calls).await?.p50();
        self.note("one call with a past, p50", ms(p50), "ms", None);
        let change = (p50.as_secs_f64() / again.as_secs_f64() - 1.0) * 100.0;
        self.note("change by a past", change, "%", Some(Goal::AtMost(20.0)));
        self.note("resident memory with a past", mb(largest(&peers, "VmRSS")), "MB", None);
        Ok(())
    }

    /// One door, and nobody who could run what it accepts.
    async fn accept(&mut self, yard: &Yard) -> Result<(), Failure> {
        self.say("calls accepted for nodes that are not there");
        let mut fleet = Fleet::new(&self.dir, ["door"])?;
        let [peer] = &mut fleet.peers;
        peer.variables.push(OFFER_NOOP);
        peer.start().await?;
        peer.stop().await?;
        let home = peer.home.clone();
        let making = tokio::task::spawn_blocking(move || past::give(&home, NOOP, ABSENT, 0));
        let absent = making.await.map_err(trouble("making a past"))??;
        peer.start().await?;
        let calls = (self.calls * 2).min(ABSENT * 900);
        let (took, each) = load::at_once(&peer.client, &absent, NOOP, (calls, WIDTH), false).await?;
        let goal = (ms(yard.fsync) <= 1.0).then_some(Goal::AtLeast(5_000.0));
        self.note("accepted, 64 at once", rate(calls, took), "calls/s", goal);
        self.note("accepted, 64 at once, p50 of one", ms(each.p50()), "ms", None);
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
            "version": env!("CARGO_PKG_VERSION"), "cores": cores(), "dir": self.dir, "calls": self.calls,
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
            "{}\n{} cores, homes in {}, {} calls each",
            table(&["WHAT", "MEASURED", "GOAL", ""], &rows),
            cores(),
            self.dir.display(),
            self.calls
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

/// What everything else is held against.
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

async fn join(inviter: &Peer, newcomer: &Peer) -> Result<(), Failure> {
    let invite = inviter.client.post("/api/v1/invites", &json!({})).await?;
    newcomer.client.post("/api/v1/join", &json!({ "code": text(&invite, "code") })).await?;
    Ok(())
}

/// Waits until these see each other online under one gateway, know at least so many nodes, and no longer work hard.
async fn settled(peers: &[&Peer], nodes: usize) -> Result<(), Failure> {
    const LOOK: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + SETTLED_WITHIN;
    while Instant::now() < deadline {
        let before: Vec<Duration> = peers.iter().map(|peer| used(peer)).collect();
        sleep(LOOK).await;
        let busy = peers.iter().zip(before).any(|(peer, before)| used(peer).saturating_sub(before) > LOOK / 10);
        let mut gateways = BTreeSet::new();
        let mut agreed = true;
        for peer in peers {
            let status = peer.client.get("/api/v1/status").await?;
            let count = |name: &str| status.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
            agreed &= count("nodes") >= nodes && count("nodes_online") >= peers.len();
            gateways.insert(status.get("gateway").map(|gateway| text(gateway, "peer_id")).unwrap_or_default());
        }
        let one = gateways.len() == 1 && gateways.first().is_some_and(|id| peers.iter().any(|peer| peer.id == *id));
        if one && agreed && !busy {
            return Ok(());
        }
    }
    Err(Failure::new(Exit::Failed, "measuring: the mesh does not settle"))
}

/// One that does not lead, and the name of the other that does not: origin and target of the calls.
async fn roles<'a>(peers: &[&'a Peer; 3]) -> Result<(&'a Peer, String), Failure> {
    let [one, ..] = peers;
    let status = one.client.get("/api/v1/status").await?;
    let gateway = status.get("gateway").map(|gateway| text(gateway, "peer_id")).unwrap_or_default();
    let mut others = peers.iter().filter(|peer| peer.id != gateway);
    match (others.next(), others.next()) {
        (Some(origin), Some(target)) => Ok((origin, target.name.to_owned())),
        _ => Err(Failure::new(Exit::Failed, "measuring: fewer than three peers")),
    }
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
