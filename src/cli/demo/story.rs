//! The story itself, driven through the peers' own doors as a user would.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::report::{Made, Promise, Report, is_open};
use super::teller::{STOPPED, Teller, is_true, ms};
use crate::cli::body::Body;
use crate::cli::client::{Client, Extras, segment};
use crate::cli::commands::epoch;
use crate::cli::exit::{Exit, Failure};
use crate::cli::fleet::{Fleet, Peer};
use crate::cli::output::{Tone, clean, clean_lines, items, short, table, text};

/// Names of the peers.
const NAMES: [&str; 3] = ["kitchen", "study", "attic"];
/// A newcomer and everyone else agree by then.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// A device that fell silent is listed offline by then.
const OFFLINE_WITHIN: Duration = Duration::from_secs(3);
/// A device that woke up is back by then.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// The worst takeover after `kill -9`.
const TAKEOVER_WITHIN: Duration = Duration::from_millis(2_500);
/// After everyone is back, the last call has ended by then. Generous: repeats go up to 30 s apart, but start at 0.5 s.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
/// Shortest time to live in the story of the sleeper.
const SHORT_TTL_S: u64 = 3;
/// Calls a second in the stream, and how long it flows.
const STREAM_EVERY: Duration = Duration::from_millis(20);
const STREAM_FOR: Duration = Duration::from_secs(4);
/// Time at which the gateway dies within the stream.
const KILL_AFTER: Duration = Duration::from_millis(1_500);

pub(super) struct Story {
    teller: Teller,
    fleet: Fleet<3>,
    report: Report,
}

impl Story {
    pub(super) fn new(teller: Teller) -> Result<Self, Failure> {
        Ok(Self { teller, fleet: Fleet::new(&std::env::temp_dir(), NAMES)?, report: Report::default() })
    }

    pub(super) async fn tell(&mut self) -> Result<(), Failure> {
        self.start().await?;
        self.join().await?;
        let leader = self.election().await?;
        self.across().await?;
        self.sleeper(leader).await?;
        let leader = self.leader().await?;
        self.kill(leader).await?;
        self.tally().await;
        Ok(())
    }

    /// Notes a promise and says how it went.
    fn promise(&mut self, name: &'static str, held: bool, detail: impl Into<String>) {
        let promise = Promise { name, held, detail: detail.into() };
        self.teller.promise(&promise);
        self.report.promises.push(promise);
    }

    /// Notes that something was seen in time; without it the story cannot go on.
    fn seen<T>(
        &mut self,
        name: &'static str,
        within: Duration,
        seen: Result<(T, Duration), String>,
    ) -> Result<T, Failure> {
        match seen {
            Ok((value, took)) => {
                self.promise(
                    name,
                    took <= within,
                    format!("{} ms, promised {} ms", took.as_millis(), within.as_millis()),
                );
                Ok(value)
            }
            Err(last) => {
                self.promise(name, false, format!("not at all; last seen: {last}"));
                Err(Failure::new(Exit::Failed, format!("this was not so: {name}")))
            }
        }
    }

    fn peer(&self, index: usize) -> &Peer {
        let [kitchen, study, attic] = &self.fleet.peers;
        match index % NAMES.len() {
            0 => kitchen,
            1 => study,
            _ => attic,
        }
    }

    fn peer_mut(&mut self, index: usize) -> &mut Peer {
        let [kitchen, study, attic] = &mut self.fleet.peers;
        match index % NAMES.len() {
            0 => kitchen,
            1 => study,
            _ => attic,
        }
    }

    async fn start(&mut self) -> Result<(), Failure> {
        self.teller.step("Three peers start: three processes, three homes, no configuration between them");
        for index in 0..NAMES.len() {
            let took = self.peer_mut(index).start().await?;
            let peer = self.peer(index);
            let pid = peer.pid().unwrap_or_default();
            let said = format!(
                "{:<8} pid {pid:<7} ready after {:>4} ms   peer id {}",
                peer.name,
                took.as_millis(),
                short(&peer.id)
            );
            let known = json!({ "node_id": peer.name, "peer_id": peer.id, "home": peer.home, "http": peer.http, "ready_ms": took.as_millis() as u64 });
            self.teller.tell(&said);
            self.report.peers.push(known);
        }
        Ok(())
    }

    async fn join(&mut self) -> Result<(), Failure> {
        self.teller.step("They join by invite");
        let began = Instant::now();
        for index in 1..NAMES.len() {
            let invite = self.peer(0).client.post("/api/v1/invites", &json!({})).await?;
            let code = text(&invite, "code");
            let shown: String = code.chars().take(24).collect();
            self.teller.tell(&format!(
                "{} $ sigil invite\n{shown}… (the whole code has {} characters)",
                self.peer(0).name,
                code.len()
            ));
            let asked = Instant::now();
            let joined = self.peer(index).client.post("/api/v1/join", &json!({ "code": code })).await?;
            let name = text(&joined, "node_id");
            self.teller.tell(&format!(
                "{} $ sigil join …\njoined as {name} after {} ms",
                self.peer(index).name,
                ms(asked)
            ));
        }
        let seen = self.settled(began).await;
        self.seen("all list the same three devices, one gateway, one epoch", SETTLED_WITHIN, seen)?;
        self.report.times.insert("settled", ms(began));
        let nodes = self.peer(2).client.get("/api/v1/nodes").await?;
        let rows: Vec<_> = items(&nodes)
            .iter()
            .map(|node| {
                let tools = node.get("tools").and_then(Value::as_array).map_or(0, Vec::len).to_string();
                vec![text(node, "node_id"), text(node, "state"), text(node, "tier"), text(node, "platform"), tools]
            })
            .collect();
        self.teller.tell(&format!(
            "{} $ sigil nodes\n{}",
            self.peer(2).name,
            table(&["NODE", "STATE", "TIER", "PLATFORM", "TOOLS"], &rows)
        ));
        Ok(())
    }

    /// Waits until all peers agree on who is there and who leads.
    async fn settled(&self, began: Instant) -> Result<((), Duration), String> {
        let all: BTreeSet<String> = self.fleet.peers.iter().map(|peer| peer.id.clone()).collect();
        wait_for(began, SETTLED_WITHIN * 2, async || {
            let mut gateways = BTreeSet::new();
            for peer in &self.fleet.peers {
                let status = peer.client.get("/api/v1/status").await.map_err(|failure| failure.detail)?;
                let nodes = peer.client.get("/api/v1/nodes").await.map_err(|failure| failure.detail)?;
                let online: BTreeSet<String> = items(&nodes)
                    .iter()
                    .filter(|node| text(node, "state") == "online")
                    .map(|node| text(node, "peer_id"))
                    .collect();
                if online != all {
                    return Err(format!("{} sees {} of {} online", peer.name, online.len(), all.len()));
                }
                gateways.insert(gateway(&status));
            }
            match (gateways.len(), gateways.first()) {
                (1, Some(Some(_))) => Ok(()),
                _ => Err(format!("different gateways: {gateways:?}")),
            }
        })
        .await
    }

    async fn leader(&self) -> Result<usize, Failure> {
        let status = self.peer(0).client.get("/api/v1/status").await?;
        let leader = gateway(&status).map(|(peer, _)| peer).unwrap_or_default();
        let found = self.fleet.peers.iter().position(|peer| peer.id == leader);
        found.ok_or_else(|| Failure::new(Exit::Failed, "no gateway elected"))
    }

    async fn election(&mut self) -> Result<usize, Failure> {
        self.teller.step("The gateway, and why it was elected");
        let mut rows = Vec::new();
        let mut counter = 0;
        for peer in &self.fleet.peers {
            let status = peer.client.get("/api/v1/status").await?;
            let gateway = status.get("gateway").cloned().unwrap_or_default();
            counter = epoch(&gateway);
            rows.push(vec![
                peer.name.to_owned(),
                text(&gateway, "node_id"),
                counter.to_string(),
                is_true(&gateway, "self").to_string(),
            ]);
        }
        self.teller.tell(&table(&["ASKED", "GATEWAY", "EPOCH", "ITSELF"], &rows));
        let leader = self.leader().await?;
        let name = self.peer(leader).name;
        self.teller.tell(&if leader == 0 {
            format!(
                "{name} founded the mesh and was its gateway when the others joined; a healthy gateway is not replaced."
            )
        } else {
            format!("{name} claimed epoch {counter}, the highest that the others have seen: the highest epoch wins.")
        });
        Ok(leader)
    }

    async fn across(&mut self) -> Result<(), Failure> {
        self.teller.step("One device uses the tools of another");
        let (from, to) = (self.peer(2), self.peer(1));
        let began = Instant::now();
        let info = call_and_wait(&from.client, to.name, "device.info", &json!({})).await?;
        let took = ms(began);
        let output = info.get("output").cloned().unwrap_or_default();
        self.teller.tell(&format!(
            "{} $ sigil call {} device.info      ({took} ms)\n{}",
            from.name,
            to.name,
            one_line(&output)
        ));
        let told = text(&info, "state");
        let info_held = told == "done" && output.is_object();

        let (from, to) = (self.peer(1), self.peer(2));
        let path = to.shared_file();
        let began = Instant::now();
        let read = call_and_wait(&from.client, to.name, "files.read", &json!({ "path": path })).await?;
        let took_file = ms(began);
        let output = read.get("output").cloned().unwrap_or_default();
        let file_held = text(&read, "state") == "done" && holds(&output, &to.shared_text());
        self.teller.tell(&format!(
            "{} $ sigil call {} files.read --arg path={}      ({took_file} ms)\n{}",
            from.name,
            to.name,
            path.display(),
            one_line(&output)
        ));
        let file_detail = format!("{}: {}{}", text(&read, "state"), text(&read, "reason"), text(&read, "error"));
        self.report.times.extend([("device_info", took), ("files_read", took_file)]);
        self.promise("a tool of another device answers", info_held, told);
        self.promise("a file of another device reads the same there and here", file_held, file_detail);
        Ok(())
    }

    async fn sleeper(&mut self, leader: usize) -> Result<(), Failure> {
        let (caller, sleeper) = (leader + 1, leader + 2);
        let sleeper_name = self.peer(sleeper).name;
        self.teller.step(&format!("{sleeper_name} falls asleep (SIGSTOP) while three calls are queued for it"));
        self.peer(sleeper).signal(Signal::SIGSTOP)?;
        let frozen = Instant::now();
        let client = self.peer(caller).client.clone();
        let seen =
            wait_for(frozen, OFFLINE_WITHIN * 3, async || state_of(&client, sleeper_name, "offline").await).await;
        self.seen("a silent device is listed offline", OFFLINE_WITHIN, seen)?;
        self.report.times.insert("offline_noticed", ms(frozen));

        let made = Instant::now();
        let mut ids = Vec::new();
        for ttl in [SHORT_TTL_S, 60, 3600] {
            let id = make_call(&client, sleeper_name, Some(ttl)).await?;
            ids.push((id, ttl));
        }
        let mut rows = Vec::new();
        for (id, ttl) in &ids {
            let call = look(&client, id).await?;
            rows.push(vec![id.clone(), format!("{ttl} s"), text(&call, "state")]);
        }
        self.teller.tell(&table(&["CALL", "TIME TO LIVE", "STATE"], &rows));
        sleep_until(made + Duration::from_secs(SHORT_TTL_S) + Duration::from_millis(300)).await;
        self.teller
            .tell(&format!("{} s later the first call has expired. {sleeper_name} wakes (SIGCONT).", ms(made) / 1000));
        self.peer(sleeper).signal(Signal::SIGCONT)?;
        let woken = Instant::now();
        let seen = wait_for(woken, BACK_WITHIN * 3, async || state_of(&client, sleeper_name, "online").await).await;
        self.seen("a device that wakes is back", BACK_WITHIN, seen)?;
        self.report.times.insert("back_after_waking", ms(woken));

        let mut rows = Vec::new();
        let mut calls = Vec::new();
        for (id, ttl) in ids {
            let call = wait_end(&client, &id, Instant::now() + ENDED_WITHIN).await;
            let lines = self
                .peer(sleeper)
                .witness()
                .iter()
                .filter(|((ran, _), _)| *ran == id)
                .map(|(_, count)| count)
                .sum::<usize>();
            rows.push(vec![
                id.clone(),
                format!("{ttl} s"),
                text(&call, "state"),
                lines.to_string(),
                text(&call, "reason"),
            ]);
            calls.push((ttl, text(&call, "state"), lines));
            self.report.calls.push(Made {
                id,
                node: sleeper_name.to_owned(),
                state: text(&call, "state"),
                reason: text(&call, "reason"),
            });
        }
        self.teller.tell(&table(&["CALL", "TIME TO LIVE", "ENDING", "LINES", "REASON"], &rows));
        let (short, long): (Vec<_>, Vec<_>) = calls.into_iter().partition(|(ttl, ..)| *ttl == SHORT_TTL_S);
        let expired = short.iter().all(|(_, state, lines)| state == "expired" && *lines == 0);
        let ran = long.iter().all(|(_, state, lines)| state == "done" && *lines == 1);
        self.promise(
            "the call whose TTL had passed is reported expired, and did not run",
            expired,
            format!("{short:?}"),
        );
        self.promise("the calls whose TTL had not passed ran, once each", ran, format!("{long:?}"));
        Ok(())
    }

    async fn kill(&mut self, leader: usize) -> Result<(), Failure> {
        let (survivor, other) = (leader + 1, leader + 2);
        let (leader_name, survivor_name) = (self.peer(leader).name, self.peer(survivor).name);
        let leader_id = self.peer(leader).id.clone();
        self.teller.step(&format!(
            "The gateway, {leader_name}, is killed (SIGKILL) under {} calls a second from {survivor_name}",
            1000 / STREAM_EVERY.as_millis()
        ));
        let client = self.peer(survivor).client.clone();
        let other_client = self.peer(other).client.clone();
        let began = Instant::now();
        let teller = self.teller;
        let victim = self.peer_mut(leader);
        let chaos = async {
            sleep_until(began + KILL_AFTER).await;
            victim.end();
            let killed = Instant::now();
            teller.tell(&format!("killed {leader_name} after {} ms of the stream", ms(began)));
            let new = wait_for(killed, TAKEOVER_WITHIN * 4, async || {
                let status = client.get("/api/v1/status").await.map_err(|failure| failure.detail)?;
                match gateway(&status) {
                    Some((peer, counter)) if peer != leader_id => Ok((peer, counter)),
                    other => Err(format!("gateway {other:?}")),
                }
            })
            .await;
            (killed, new)
        };
        let (flow, (killed, new)) = tokio::join!(stream(&client, began), chaos);
        let takeover = new.as_ref().map(|(_, took)| took.as_millis() as u64).unwrap_or_default();
        let (new_leader, counter) =
            self.seen("another device leads after the gateway was killed", TAKEOVER_WITHIN, new)?;
        self.report.times.insert("takeover", takeover);
        let new_name = self.fleet.peers.iter().find(|peer| peer.id == new_leader).map_or("?", |peer| peer.name);
        self.teller.tell(&format!("{new_name} leads in epoch {counter}, {takeover} ms after the kill"));
        self.report.times.insert("slowest_accept", flow.slowest.as_millis() as u64);
        let refused = flow.refused.first().map(|why| format!(", the first with: {why}")).unwrap_or_default();
        self.promise(
            "the survivor's door refused nothing meanwhile",
            flow.refused.is_empty(),
            format!(
                "{} accepted, {} refused{refused}, slowest answer {} ms",
                flow.made.len(),
                flow.refused.len(),
                flow.slowest.as_millis()
            ),
        );
        self.report.calls.extend(flow.made);

        let seen = wait_for(killed, SETTLED_WITHIN, async || {
            let (mine, theirs) = (client.get("/api/v1/status").await, other_client.get("/api/v1/status").await);
            match (mine.ok().and_then(|mine| gateway(&mine)), theirs.ok().and_then(|theirs| gateway(&theirs))) {
                (Some(mine), Some(theirs)) if mine == theirs => Ok(()),
                both => Err(format!("{both:?}")),
            }
        })
        .await;
        self.seen("both survivors name the same gateway", SETTLED_WITHIN, seen)?;

        let took = self.peer_mut(leader).start().await?;
        self.teller.tell(&format!("{leader_name} is started again: ready after {} ms", took.as_millis()));
        let back = Instant::now();
        let seen = self.settled(back).await;
        self.seen("the killed device is back, and all agree again", SETTLED_WITHIN, seen)?;
        let same = self.peer(leader).id == leader_id;
        self.promise("it came back as the same peer", same, short(&leader_id));
        Ok(())
    }

    /// Reads every call's ending at the doors, and every line in the files.
    async fn tally(&mut self) {
        self.teller.step("What became of every call, beside what the tools wrote to their own files");
        let began = Instant::now();
        let deadline = began + ENDED_WITHIN;
        let clients: Vec<Client> = self.fleet.peers.iter().map(|peer| peer.client.clone()).collect();
        for made in &mut self.report.calls {
            if !is_open(&made.state) {
                continue;
            }
            // Any peer may be asked; the one that accepted it knows it first.
            for client in &clients {
                let call = wait_end(client, &made.id, deadline).await;
                let state = text(&call, "state");
                if !state.is_empty() {
                    made.state = state;
                    made.reason = text(&call, "reason");
                    break;
                }
            }
        }
        self.report.times.insert("last_ending_after_return", ms(began));
        self.report.witness = self.fleet.peers.iter().map(|peer| (peer.name.to_owned(), peer.witness())).collect();
        self.teller.tell(&self.report.calls_table());
        let mut reasons: Vec<String> = Vec::new();
        for made in self.report.calls.iter().filter(|made| made.state != "done") {
            reasons.push(format!("{} at {}: {} ({})", made.id, made.node, made.state, made.reason));
        }
        if !reasons.is_empty() {
            let more = reasons.len().saturating_sub(6);
            reasons.truncate(6);
            let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
            self.teller.tell(&format!("Not done, and why:\n{}{more}", reasons.join("\n")));
        }
        for promise in self.report.judge_calls() {
            self.promise(promise.name, promise.held, promise.detail);
        }
    }

    /// Notes why the story ended before its end.
    pub(super) fn broke_off(&mut self, failure: &Failure) {
        self.report.broke_off = Some(failure.detail.clone());
    }

    /// Says whether everything held.
    pub(super) fn conclude(&self) -> bool {
        let held = self.report.all_held();
        let seconds = self.teller.began.elapsed().as_secs_f64();
        let count = self.report.promises.len();
        if held {
            let said = format!("All {count} promises held, in {seconds:.1} s.");
            self.teller.line(&format!("\n{}", self.teller.paint(Tone::Good, &said)));
            return held;
        }
        let broken: Vec<_> = self.report.promises.iter().filter(|promise| !promise.held).collect();
        let said = match &self.report.broke_off {
            Some(why) => format!("The story ends early, after {seconds:.1} s: {why}."),
            None => format!("{} of {count} promises broken, in {seconds:.1} s:", broken.len()),
        };
        self.teller.line(&format!("\n{}", self.teller.paint(Tone::Bad, &clean_lines(&said))));
        for promise in broken {
            self.teller.promise(promise);
        }
        if self.report.broke_off.as_deref() != Some(STOPPED) {
            self.teller.line(&format!("The last words of the peers:\n{}", clean_lines(&self.fleet.last_words())));
        }
        held
    }

    pub(super) fn to_json(&self) -> Value {
        self.report.to_json(ms(self.teller.began))
    }

    /// Names the places at which a person can go on by hand, the page of the mesh first.
    pub(super) async fn epilogue(&self) {
        self.teller.step("The three stay up: try them yourself; Ctrl-C stops them and removes their homes");
        for peer in &self.fleet.peers {
            self.teller.tell(&format!("{:<8} {}   sigil --home {} status", peer.name, peer.http, peer.home.display()));
        }
        let first = self.peer(0);
        let home = self.fleet.root().join(first.name);
        // A program that was built without the page has no code for it.
        if let Ok(page) = first.client.post("/api/v1/ui/codes", &json!({})).await {
            self.teller.tell(&format!("\nThe page of this mesh, for two minutes: {}", text(&page.into_value(), "url")));
            self.teller.tell(&format!("and later: sigil --home {} ui", home.display()));
        }
        self.teller.tell(&format!("The HTTP doors want a token: sigil --home {} token", home.display()));
    }

    pub(super) async fn end(&mut self) {
        self.fleet.stop().await;
    }
}

/// The gateway that a status names: peer id and epoch.
fn gateway(status: &Value) -> Option<(String, u64)> {
    let gateway = status.get("gateway").filter(|gateway| gateway.is_object())?;
    Some((text(gateway, "peer_id"), epoch(gateway)))
}

/// Asks again and again until the answer is a yes; how long after `began` that was. The error is the last no.
async fn wait_for<T>(
    began: Instant,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> Result<(T, Duration), String> {
    loop {
        match ask().await {
            Ok(value) => return Ok((value, began.elapsed())),
            Err(last) if began.elapsed() > within => return Err(last),
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Checks that a device is in the wanted state; the error is its state.
async fn state_of(client: &Client, node: &str, wanted: &str) -> Result<(), String> {
    let node = client.get(&format!("/api/v1/nodes/{node}")).await.map_err(|failure| failure.detail)?;
    let state = text(&node, "state");
    if state == wanted { Ok(()) } else { Err(state) }
}

async fn look(client: &Client, id: &str) -> Result<Value, Failure> {
    client.get(&format!("/api/v1/calls/{}", segment(id))).await.map(Body::into_value)
}

/// Calls a tool and waits for its ending.
async fn call_and_wait(client: &Client, node: &str, tool: &str, arguments: &Value) -> Result<Value, Failure> {
    let body = json!({ "node": node, "tool": tool, "arguments": arguments });
    let extras = Extras { body: Some(body.to_string()), headers: &[("prefer", "wait=10")], ..Extras::default() };
    client.ask(Method::POST, "/api/v1/calls", extras).await?.json().map(Body::into_value)
}

/// Makes a call of the witness tool. Its id.
async fn make_call(client: &Client, node: &str, ttl_s: Option<u64>) -> Result<String, Failure> {
    let body = json!({ "node": node, "tool": "append", "arguments": {}, "ttl_s": ttl_s.unwrap_or(60) });
    let extras = Extras { body: Some(body.to_string()), ..Extras::default() };
    let made = client.ask(Method::POST, "/api/v1/calls", extras).await?.json()?;
    Ok(text(&made, "id"))
}

/// The call when it has ended, or as it is at the deadline; null if this peer does not know it.
async fn wait_end(client: &Client, id: &str, deadline: Instant) -> Value {
    loop {
        let call = look(client, id).await.unwrap_or_default();
        if !is_open(&text(&call, "state")) || Instant::now() >= deadline {
            return call;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Result of the stream of calls.
struct Flow {
    made: Vec<Made>,
    refused: Vec<String>,
    slowest: Duration,
}

/// Makes calls at a steady pace, to all devices in turn, whatever happens meanwhile.
async fn stream(client: &Client, began: Instant) -> Flow {
    let mut flow = Flow { made: Vec::new(), refused: Vec::new(), slowest: Duration::ZERO };
    let mut pace = interval(STREAM_EVERY);
    // A late tick is made up for: a stall must not thin the stream.
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = FuturesUnordered::new();
    let mut turn = NAMES.iter().cycle();
    loop {
        let flowing = began.elapsed() < STREAM_FOR;
        if !flowing && under_way.is_empty() {
            return flow;
        }
        tokio::select! {
            _ = pace.tick(), if flowing => {
                let Some(node) = turn.next() else { continue };
                under_way.push(async move {
                    let asked = Instant::now();
                    (*node, make_call(client, node, None).await, asked.elapsed())
                });
            }
            Some((node, made, took)) = under_way.next(), if !under_way.is_empty() => {
                flow.slowest = flow.slowest.max(took);
                match made {
                    Ok(id) => flow.made.push(Made { id, node: node.to_owned(), state: "accepted".to_owned(), reason: String::new() }),
                    Err(failure) => flow.refused.push(failure.detail),
                }
            }
        }
    }
}

/// An output on one line of bearable length.
fn one_line(output: &Value) -> String {
    let whole = clean(&output.as_str().map_or_else(|| output.to_string(), |text| text.trim_end().to_owned()));
    let mut shown: String = whole.chars().take(300).collect();
    if shown.len() < whole.len() {
        shown.push('…');
    }
    shown
}

/// True if an output carries exactly this text somewhere: bare, in a field, or in base64.
fn holds(output: &Value, wanted: &str) -> bool {
    match output {
        Value::String(found) => found == wanted || *found == data_encoding::BASE64.encode(wanted.as_bytes()),
        Value::Object(fields) => fields.values().any(|value| holds(value, wanted)),
        Value::Array(values) => values.iter().any(|value| holds(value, wanted)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        for output in [json!("abc"), json!({"content": "abc", "len": 3}), json!({"c": ["YWJj"]})] {
            assert!(holds(&output, "abc"), "{output}");
        }
        for output in [json!("abcd"), json!(null), json!({"content": "ab"})] {
            assert!(!holds(&output, "abc"), "{output}");
        }
    }

    #[test]
    fn no_gateway_is_no_gateway() {
        assert_eq!(gateway(&json!({"gateway": null})), None);
        assert_eq!(gateway(&json!({"gateway": {"peer_id": "p", "epoch": 2}})), Some(("p".to_owned(), 2)));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_no() {
        let mut asked = 0;
        let seen = wait_for(Instant::now(), Duration::from_secs(10), async || {
            asked += 1;
            if asked == 3 { Ok("yes") } else { Err("not yet".to_owned()) }
        });
        let (value, took) = seen.await.expect("a yes at the third time");
        assert!(value == "yes" && took >= Duration::from_millis(20), "two pauses come before the third: {took:?}");
        let never = wait_for(Instant::now(), Duration::from_millis(30), async || Err::<(), _>("no".to_owned())).await;
        assert_eq!(never, Err("no".to_owned()));
    }

    #[test]
    fn long_outputs_are_cut() {
        assert_eq!(one_line(&json!("a\n")), "a");
        assert_eq!(one_line(&json!("x".repeat(400))).chars().count(), 301);
    }
}
