//! The steps of a scenario, performed.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::clock::{now, pause, wait_for};
use super::fail::{Fail, broken};
use super::http::text;
use super::load::{Asked, Load, Made, make};
use super::network::QUIC_PORT;
use super::peer::since;
use super::relay::Weather;
use super::scenario::Step;
use super::stage::{Stage, expect};

/// Time within which a step's effect must be seen, if the step does not say.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time that a device may be known without its tools.
const CATALOGUE_WITHIN: Duration = Duration::from_secs(5);
/// Time without an event that counts as "nothing happens".
const A_WHILE: Duration = Duration::from_secs(3);

impl Stage<'_> {
    pub(super) fn step(&mut self, step: &Step) -> Result<(), Fail> {
        match step {
            Step::Name { who, r#as } => {
                let peer = self.who(who)?;
                self.story.push(format!("{:8} {} is {}", "", r#as, self.peers[peer].spec.name));
                self.names.insert(r#as.clone(), peer);
            }
            Step::Pause { seconds } => pause(Duration::from_secs_f64(*seconds))?,
            Step::Partition { groups } => {
                let groups = groups.iter().map(|group| self.all(group)).collect::<Result<Vec<_>, _>>()?;
                self.network.split(&groups)?;
                self.disturb();
            }
            Step::CutOneWay { from, to } => {
                self.network.drop_input(self.who(from)?, self.who(to)?, 1.0)?;
                self.disturb();
            }
            Step::Lose { from, to, rate } => {
                self.network.drop_input(self.who(from)?, self.who(to)?, *rate)?;
                self.disturb();
            }
            Step::Weather(weather) => {
                if let Some(relay) = &self.relay {
                    relay.set(*weather);
                }
                self.disturb();
            }
            Step::Heal => {
                self.network.heal()?;
                if let Some(relay) = &self.relay {
                    relay.set(Weather::default());
                }
                self.disturb();
            }
            Step::Kill { who } => {
                let who = self.all(who)?;
                self.disturb();
                for peer in &who {
                    self.peers[*peer].signal(Signal::SIGKILL)?;
                }
                for peer in who {
                    self.peers[peer].kill();
                }
            }
            Step::Stop { who } => {
                let peer = self.who(who)?;
                self.disturb();
                self.peers[peer].signal(Signal::SIGTERM)?;
                self.silent.insert(peer);
            }
            Step::Start { who } => {
                self.disturb();
                for peer in who {
                    let peer = self.asleep(peer)?;
                    self.peers[peer].start()?;
                }
            }
            Step::Freeze { who } => {
                let peer = self.who(who)?;
                self.disturb();
                self.peers[peer].signal(Signal::SIGSTOP)?;
                self.silent.insert(peer);
            }
            Step::Thaw { who } => {
                let peer = self.who(who)?;
                self.peers[peer].signal(Signal::SIGCONT)?;
                self.silent.remove(&peer);
                self.disturb();
            }
            Step::Arm { who, fault } => {
                let peer = self.who(who)?;
                self.peers[peer].arm(fault);
            }
            Step::Dies { who } => {
                let peer = self.who(who)?;
                self.peers[peer].ends()?;
                self.disturb();
            }
            Step::Save { who } => {
                let peer = self.asleep(who)?;
                self.peers[peer].save()?;
            }
            Step::Restore { who } => {
                let peer = self.asleep(who)?;
                self.peers[peer].restore()?;
                self.rolled_back.insert(peer);
            }
            Step::Copy { from, to } => {
                let (from, to) = (self.asleep(from)?, self.asleep(to)?);
                self.peers[to].become_copy(&self.peers[from])?;
            }
            Step::Move { who, host } => {
                let peer = self.who(who)?;
                self.network.move_peer(peer, *host)?;
                self.disturb();
            }
            Step::Linked { who, to, via, within_s } => self.check_linked(who, to, via, *within_s)?,
            Step::MoveRouter { host } => {
                self.network.move_router(*host)?;
                self.disturb();
            }
            Step::Load { from, to, rate, tool, ttl_s } => self.start_load(from, to, *rate, tool, *ttl_s)?,
            Step::Unload => self.load = None,
            Step::Call { .. } => self.make_call(step)?,
            Step::Cancel { call } => {
                let made = self.made(call)?;
                self.peers[made.origin].order("POST", &format!("calls/{}/cancel", made.id), Some(&json!({})))?;
            }
            Step::Join { who, at, tier } => {
                self.join(self.who(who)?, self.who(at)?, tier)?;
            }
            Step::AskToJoin { who, at } => {
                let (peer, at) = (self.who(who)?, self.who(at)?);
                let address = format!("{}:{QUIC_PORT}", self.network.address(at));
                let check = self.peers[at].order("GET", "status", None)?.body["check"]["words"].clone();
                let words: Vec<_> = check.as_array().into_iter().flatten().filter_map(|word| word.as_str()).collect();
                let body = json!({ "address": address, "words": words.join(" ") });
                self.peers[peer].order("POST", "join", Some(&body))?;
            }
            Step::Approve { who, at, r#as, tier, or_not } => {
                let (peer, at) = (self.who(who)?, self.who(at)?);
                let path = format!("pending/{}/approve", self.peers[peer].id);
                let body = json!({ "node_id": r#as, "tier": tier });
                let answer = self.peers[at].ask("POST", &path, Some(&body))?;
                if !answer.is_yes() && !or_not {
                    return Err(broken("expected", format!("a yes to {who}, not {} {}", answer.status, answer.body)));
                }
                self.peers[peer].joined = true;
                self.out.remove(&peer);
                self.disturb();
            }
            Step::Forget { who, at } | Step::Accuse { who, at } => {
                let (peer, at) = (self.who(who)?, self.who(at)?);
                self.peers[at].order("DELETE", &format!("nodes/{}", self.peers[peer].id), None)?;
                if matches!(step, Step::Forget { .. }) {
                    self.out.insert(peer);
                }
                self.disturb();
            }
            Step::Void { who } => {
                self.out.insert(self.who(who)?);
            }
            Step::Settled { who, within_s } => {
                let who = self.some_or_members(who.as_ref())?;
                self.settle(&who, Duration::from_secs_f64(within_s.unwrap_or(self.scenario.settle_s)))?;
            }
            Step::Takeover { old, who, within_s } => {
                let old = self.who(old)?;
                let mut who = self.some_or_members(who.as_ref())?;
                who.retain(|peer| *peer != old);
                self.take_over(old, &who, Duration::from_secs_f64(*within_s))?;
            }
            Step::Unmoved => {
                let gateway = self.agreed(&self.members());
                if gateway != self.settled {
                    return Err(broken(
                        "one-cut-moves-nothing",
                        format!("{:?} was gateway; now {}", self.settled, self.beliefs(&self.members())),
                    ));
                }
            }
            Step::Leaderless { who } => {
                let who = self.all(who)?;
                expect("no gateway is known there", PATIENCE, || {
                    Ok(who.iter().all(|peer| self.peers[*peer].gateway().is_none()))
                })?;
                pause(A_WHILE)?;
                if who.iter().any(|peer| self.peers[*peer].gateway().is_some()) {
                    return Err(broken(
                        "one-gateway-for-all",
                        format!("someone leads who may not: {}", self.beliefs(&who)),
                    ));
                }
                self.unsettled = false;
            }
            Step::Ended { .. } => self.check_ended(step)?,
            Step::Open { call } => {
                let made = self.made(call)?;
                let state = self.peers[made.origin].call(&made.id)?.text("state");
                if super::judge::is_ending(&state) {
                    return Err(broken("expected", format!("{call} waits, but it is {state}")));
                }
            }
            Step::Sees { at, who, is, within_s } => {
                let (at, peer) = (self.who(at)?, self.who(who)?);
                let id = self.peers[peer].id.clone();
                let what = format!("{} sees {who} {is}, not {}", self.peers[at].spec.name, self.peers[at].sees(&id)?);
                expect(&what, Duration::from_secs_f64(*within_s), || Ok(self.peers[at].sees(&id)? == *is))?;
            }
            Step::Names { who, are, at } => {
                let at = self.some_or_members(at.as_ref())?;
                self.check_handles(&self.all(who)?, are, &at)?;
            }
            Step::NeverRan { call } => {
                pause(A_WHILE)?;
                let runs = self.runs(&self.made(call)?.id);
                if runs > 0 {
                    return Err(broken("excluded-has-no-effect", format!("{call} ran {runs} times")));
                }
            }
            Step::Revoked { who } => {
                let peer = self.who(who)?;
                expect("it knows that it was revoked", PATIENCE, || {
                    Ok(self.peers[peer].status().is_some_and(|status| status["revoked"] == true))
                })?;
            }
            Step::Warns { who, of } => {
                let peer = self.who(who)?;
                let says = |status: &Value| {
                    let warnings = status["warnings"].as_array().into_iter().flatten();
                    warnings.filter_map(Value::as_str).any(|text| text.contains(of.as_str()))
                };
                expect(&format!("{who} warns of \"{of}\""), PATIENCE, || {
                    Ok(self.peers[peer].status().is_some_and(|status| says(&status)))
                })?;
            }
            Step::OneCall { calls } => self.check_one_call(calls)?,
        }
        Ok(())
    }

    /// A peer whose agent has ended, also if it was only told to just now.
    fn asleep(&mut self, name: &str) -> Result<usize, Fail> {
        let peer = self.who(name)?;
        self.silent.remove(&peer);
        if self.peers[peer].runs() {
            let status = self.peers[peer].ends()?;
            if !status.success() {
                return Err(broken("clean stop", format!("{name} ended with {status}")));
            }
        }
        Ok(peer)
    }

    /// Lets a device in with an invite.
    pub(super) fn join(&mut self, peer: usize, at: usize, tier: &str) -> Result<(), Fail> {
        let code = self.peers[at].invite(tier)?;
        self.peers[peer].order("POST", "join", Some(&json!({ "code": code })))?;
        self.peers[peer].joined = true;
        self.disturb();
        Ok(())
    }

    fn asked(&self, origin: usize, target: usize, tool: &str, ttl_s: f64) -> Asked {
        Asked {
            origin,
            socket: self.peers[origin].socket(),
            target,
            node: self.peers[target].spec.wanted_name().to_owned(),
            tool: tool.to_owned(),
            ttl_s,
            key: None,
        }
    }

    fn start_load(&mut self, from: &[String], to: &[String], rate: u32, tool: &str, ttl_s: f64) -> Result<(), Fail> {
        let (from, to) = (self.all(from)?, self.all(to)?);
        let list = |origin: usize| to.iter().map(|target| self.asked(origin, *target, tool, ttl_s)).collect();
        let lists = from.into_iter().map(list).collect();
        self.load = Some(Load::new(lists, rate, &self.book));
        Ok(())
    }

    fn make_call(&mut self, step: &Step) -> Result<(), Fail> {
        let Step::Call { from, to, node, tool, ttl_s, key, r#as, refused } = step else { return Ok(()) };
        let (origin, target) = (self.who(from)?, self.who(to)?);
        let mut asked = self.asked(origin, target, tool, *ttl_s);
        if let Some(node) = node {
            node.clone_into(&mut asked.node);
        }
        asked.key.clone_from(key);
        let mut trouble = None;
        // What a device offers comes a moment after the device itself.
        let answer = wait_for(CATALOGUE_WITHIN, || {
            let answer = make(&asked, &self.book);
            let early = refused.is_none() && answer.as_ref().is_ok_and(|answer| answer.text("code") == "unknown_tool");
            if early { None } else { answer.map_err(|error| trouble = Some(error)).ok() }
        })?;
        let why = trouble.map_or_else(|| "it does not know the tool".to_owned(), |error| error.to_string());
        let answer = answer.ok_or_else(|| Fail::Trouble(format!("{from} cannot be asked for a call: {why}")))?;
        match refused {
            Some(code) if answer.text("code") == *code => {}
            Some(code) => {
                return Err(broken(
                    "expected",
                    format!("the call is refused with {code}, not {} {}", answer.status, answer.body),
                ));
            }
            None if answer.is_yes() => {}
            None => {
                return Err(broken("acceptance", format!("{from} refuses a call: {} {}", answer.status, answer.body)));
            }
        }
        if let Some(name) = r#as {
            self.calls.insert(name.clone(), Made { id: answer.text("id"), origin, target });
        }
        Ok(())
    }

    /// Runs of a call, over all peers.
    fn runs(&self, id: &str) -> usize {
        self.peers.iter().map(|peer| peer.witness().iter().filter(|(ran, _)| ran == id).count()).sum()
    }

    fn check_ended(&mut self, step: &Step) -> Result<(), Fail> {
        let Step::Ended { call, state, at, runs, confirmed, within_s } = step else { return Ok(()) };
        let made = self.made(call)?;
        let at = at.as_ref().map_or(Ok(made.origin), |at| self.who(at))?;
        let mut told = Value::Null;
        let fits = expect("", Duration::from_secs_f64(*within_s), || {
            told = self.peers[at].call(&made.id)?.body;
            Ok(state.iter().any(|state| *state == text(&told, "state"))
                && confirmed.is_none_or(|it| told["confirmed"] == it))
        });
        match fits {
            Err(Fail::Broken { .. }) => {
                return Err(broken(
                    "accepted-calls-end",
                    format!("{call} ends {state:?} at {}: {told}", self.peers[at].spec.name),
                ));
            }
            other => other?,
        }
        let ran = self.runs(&made.id);
        if runs.is_some_and(|runs| runs != ran) {
            return Err(broken("endings-are-true", format!("{call} ran {ran} times: {told}")));
        }
        Ok(())
    }

    fn check_handles(&self, who: &[usize], are: &[String], members: &[usize]) -> Result<(), Fail> {
        let mut wanted = are.to_vec();
        wanted.sort();
        let mut seen = Vec::new();
        let names = |at: usize| -> Result<Vec<String>, Fail> {
            let of = |peer: &usize| {
                Ok(self.peers[at].ask("GET", &format!("nodes/{}", self.peers[*peer].id), None)?.text("node_id"))
            };
            who.iter().map(of).collect()
        };
        let agree = expect("", PATIENCE, || {
            seen = members.iter().map(|member| names(*member)).collect::<Result<Vec<_>, _>>()?;
            Ok(seen.iter().all(|names| {
                let mut sorted = names.clone();
                sorted.sort();
                sorted == wanted && Some(names) == seen.first()
            }))
        });
        match agree {
            Err(Fail::Broken { .. }) => {
                Err(broken("revocation-wins", format!("the names are {are:?} everywhere: {seen:?}")))
            }
            other => other,
        }
    }

    fn check_linked(&mut self, who: &str, to: &str, via: &str, within_s: f64) -> Result<(), Fail> {
        let (at, to) = (self.who(who)?, self.who(to)?);
        let began = now();
        let mut told = Value::Null;
        let is_linked = expect("", Duration::from_secs_f64(within_s), || {
            told = self.peers[at].ask("GET", "status", None)?.body["links"].clone();
            let mut links = told.as_array().into_iter().flatten();
            Ok(links.any(|link| text(link, "peer_id") == self.peers[to].id && text(link, "via") == via))
        });
        match is_linked {
            Err(Fail::Broken { .. }) => {
                let name = &self.peers[to].spec.name;
                return Err(broken("linked-as-well-as-can-be", format!("{who} to {name} by {via}: {told}")));
            }
            other => other?,
        }
        self.say(&format!("linked so after {:.3?}", since(began)));
        Ok(())
    }

    fn check_one_call(&self, calls: &[String; 2]) -> Result<(), Fail> {
        let [one, two] = [self.made(&calls[0])?, self.made(&calls[1])?];
        let mut told = Vec::new();
        let agree = expect("", PATIENCE, || {
            told = vec![self.peers[one.origin].call(&one.id)?.body, self.peers[two.origin].call(&two.id)?.body];
            let aliases = [text(&told[0], "alias_of"), text(&told[1], "alias_of")];
            let linked = aliases == ["", one.id.as_str()] || aliases == [two.id.as_str(), ""];
            Ok(linked && told.iter().all(|call| text(call, "state") == "done"))
        });
        match agree {
            Err(Fail::Broken { .. }) => return Err(broken("one key, one call", format!("{told:?}"))),
            other => other?,
        }
        let runs = self.runs(&one.id) + self.runs(&two.id);
        if one.id == two.id || runs != 1 {
            return Err(broken("one key, one call", format!("{} and {} ran {runs} times together", one.id, two.id)));
        }
        Ok(())
    }

    /// Time since the last fault.
    pub(super) fn quiet_for(&self) -> Duration {
        since(self.disturbed)
    }
}
