//! Holders, their sessions, and what happens to them, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use memory_core::compaction::{Action, Compaction, Draft, Effort, Settings, Trigger};
use memory_core::group::SignedGroup;
use memory_core::ids::{MessageKey, Rev};
use memory_core::item::{Body, Correction, Message};
use memory_core::replica::{Effect, Frame, Sent, Session};
use memory_core::resolve::View;
use memory_core::writing::Reading;

use super::Without;
use super::holder::{Holder, Keys, MODEL, WS};
use crate::dice::Dice;

/// When a run begins, milliseconds since 1970.
const BEGIN_MS: u64 = 1_000_000;
/// Trouble until then, rest from then on.
const TROUBLE_MS: u64 = BEGIN_MS + 300_000;
const END_MS: u64 = TROUBLE_MS + 300_000;
/// Ids that callers use: few, so that some meet.
const IDS: u64 = 24;
/// Frames of one run: what goes on for longer never comes to rest.
const FRAMES_MAX: u64 = 200_000;

const SETTINGS: Settings = Settings { batch: 5, window: 3, facts: true };

#[derive(Debug)]
enum Event {
    /// A frame arrives.
    Frame { pair: (usize, usize), link: u64, to: usize, frame: Box<Frame> },
    /// Two holders try to meet.
    Meet(usize, usize),
    /// Two holders have something for each other.
    Sync(usize, usize),
    /// Somebody does something.
    Act(usize),
    /// Time to look if a batch is due.
    Tick(usize),
    /// The next step of a compaction.
    Step { who: usize, life: u64, step: Step },
    /// A model has answered.
    Answer { who: usize, life: u64, reading: Box<Reading> },
    /// Something happens to the network, to devices, or to policy.
    Trouble,
}

#[derive(Debug)]
enum Step {
    Captured,
    Drafted(Box<Draft>),
    Failed,
}

#[derive(Debug)]
struct Peer {
    holder: Holder,
    is_up: bool,
    /// Rises with each crash: what was begun before is gone.
    life: u64,
    side: u8,
    may_hold: bool,
    compaction: Compaction,
}

#[derive(Debug)]
struct Link {
    id: u64,
    sessions: [Session; 2],
    /// Frames of one direction come in their order.
    arrives: [u64; 2],
}

/// What a run came to.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) frames: u64,
    pub(super) messages: u64,
    pub(super) forgotten: u64,
    pub(super) batches: u64,
    pub(super) heads: u64,
    pub(super) crashes: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    dice: Dice,
    without: Option<Without>,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    peers: Vec<Peer>,
    links: BTreeMap<(usize, usize), Link>,
    /// Every content that was accepted, and by whom.
    said: BTreeMap<(MessageKey, Rev), usize>,
    /// What was forgotten, and by whom.
    gone: BTreeMap<MessageKey, BTreeSet<usize>>,
    seen: Seen,
}

impl World {
    /// The world of a seed.
    pub(super) fn new(seed: u64, without: Option<Without>) -> Self {
        let mut dice = Dice::new(seed, 40);
        let count = dice.range(2..=6) as usize;
        let peer = |n| Peer {
            holder: Holder::new(n, without),
            is_up: true,
            life: 0,
            side: 0,
            may_hold: true,
            compaction: Compaction::new(SETTINGS),
        };
        let mut peers: Vec<Peer> = (0..count).map(peer).collect();
        // One more that may not hold, from the beginning.
        peers.push(Peer { may_hold: false, ..peer(count) });
        let mut world = Self {
            dice,
            without,
            now: BEGIN_MS,
            events: BTreeMap::new(),
            numbers: 0,
            peers,
            links: BTreeMap::new(),
            said: BTreeMap::new(),
            gone: BTreeMap::new(),
            seen: Seen::default(),
        };
        let acts = world.dice.range(20..=70);
        for _ in 0..acts {
            let (who, at) = (world.dice.index(count), world.dice.range(0..=TROUBLE_MS - BEGIN_MS));
            world.after(at, Event::Act(who));
        }
        for _ in 0..world.dice.range(2..=14) {
            let at = world.dice.range(0..=TROUBLE_MS - BEGIN_MS);
            world.after(at, Event::Trouble);
        }
        for a in 0..=count {
            world.after(world.numbers % 997, Event::Tick(a));
            for b in a + 1..=count {
                world.after((a * 13 + b * 7) as u64, Event::Meet(a, b));
            }
        }
        world
    }

    /// Runs to the end; the first promise that was broken, else what it came to.
    pub(super) fn run(mut self) -> Result<Seen, String> {
        let mut healed = false;
        while let Some(((at, number), event)) = self.events.pop_first() {
            if at > END_MS {
                break;
            }
            self.now = at.max(self.now);
            if self.now >= TROUBLE_MS && !healed {
                healed = true;
                self.heal();
            }
            self.handle(event).map_err(|broken| format!("{broken}, at {} ms, event {number}", self.now - BEGIN_MS))?;
        }
        self.check_rest()?;
        Ok(self.seen)
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.numbers += 1;
        self.events.insert((self.now + delay, self.numbers), event);
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Frame { pair, link, to, frame } => {
                self.seen.frames += 1;
                if self.seen.frames > FRAMES_MAX {
                    return Err("rest: holders go on sending".to_owned());
                }
                self.frame(pair, link, to, &frame)?;
            }
            Event::Meet(a, b) => {
                self.meet(a, b);
                let pause = self.dice.range(4_000..=15_000);
                self.after(pause, Event::Meet(a, b));
            }
            Event::Sync(a, b) => self.meet(a, b),
            Event::Act(who) => self.act(who),
            Event::Tick(who) => {
                let peer = &mut self.peers[who];
                if peer.is_up {
                    peer.holder.let_go(self.now);
                    if peer.may_hold {
                        self.request(who, Trigger::Unasked);
                        self.begin_words(who);
                    }
                }
                let pause = self.dice.range(3_000..=12_000);
                self.after(pause, Event::Tick(who));
                self.check_now(who)?;
            }
            Event::Step { who, life, step } if self.peers[who].life == life => self.step(who, step),
            Event::Answer { who, life, reading } if self.peers[who].life == life => self.answer(who, &reading),
            Event::Step { .. } | Event::Answer { .. } => {}
            Event::Trouble => self.trouble(),
        }
        Ok(())
    }

    // Sessions

    fn may_meet(&self, a: usize, b: usize) -> bool {
        let (one, two) = (&self.peers[a], &self.peers[b]);
        one.is_up && two.is_up && one.side == two.side && self.may_hold(a) && self.may_hold(b)
    }

    /// What both ends ask at the beginning of a session and before each frame.
    fn may_hold(&self, who: usize) -> bool {
        self.peers[who].may_hold || self.without == Some(Without::Policy)
    }

    fn meet(&mut self, a: usize, b: usize) {
        if !self.may_meet(a, b) {
            return;
        }
        let (one, hello) = Session::start(&self.peers[a].holder);
        let (two, back) = Session::start(&self.peers[b].holder);
        self.numbers += 1;
        let link = Link { id: self.numbers, sessions: [one, two], arrives: [self.now; 2] };
        self.links.insert((a, b), link);
        self.send((a, b), b, hello);
        self.send((a, b), a, back);
    }

    fn send(&mut self, pair: (usize, usize), to: usize, frame: Frame) {
        // A slow moment now and then: what is on its way meets what has happened meanwhile.
        let delay = if self.dice.chance(80) { self.dice.range(500..=5_000) } else { self.dice.range(1..=120) };
        let Some(link) = self.links.get_mut(&pair) else { return };
        let way = usize::from(to == pair.1);
        let at = (self.now + delay).max(link.arrives[way] + 1);
        link.arrives[way] = at;
        let (id, delay) = (link.id, at - self.now);
        self.after(delay, Event::Frame { pair, link: id, to, frame: Box::new(frame) });
    }

    fn frame(&mut self, pair: (usize, usize), id: u64, to: usize, frame: &Frame) -> Result<(), String> {
        if self.links.get(&pair).is_none_or(|link| link.id != id) {
            return Ok(());
        }
        if !self.may_meet(pair.0, pair.1) {
            self.links.remove(&pair);
            return Ok(());
        }
        if !self.peers[to].may_hold {
            return Err(format!("MS4: device {to}, which may not hold the workspace, received something"));
        }
        let frame = Frame::decode(&frame.encode()).ok_or("a frame that does not read as it was written")?;
        let (from, way) = if to == pair.1 { (pair.0, 1) } else { (pair.1, 0) };
        let Some(link) = self.links.get_mut(&pair) else { return Ok(()) };
        let mut session = link.sessions[way].clone();
        let holder = &mut self.peers[to].holder;
        let mut effects: std::collections::VecDeque<Effect> = session.handle_frame(frame, holder).into();
        let (mut frames, mut ended) = (Vec::new(), None);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(frame) => frames.push(frame),
                Effect::Forget(sent) => {
                    for group in verified(sent)? {
                        holder.take_tombstones(&group, self.now);
                    }
                }
                Effect::Append(sent) => {
                    let groups = verified(sent)?;
                    let Some(chain) = groups.first().map(SignedGroup::chain) else { continue };
                    for group in groups {
                        if !holder.append(group, self.now) {
                            break;
                        }
                    }
                    effects.extend(session.handle_appended(chain, holder));
                }
                Effect::Fill(chain, items) => {
                    for (at, item) in items {
                        holder.fill(chain, at, item);
                    }
                    effects.extend(session.handle_filled(holder));
                }
                Effect::Forked(chain) => return Err(format!("a fork of {chain:?} that nobody made")),
                Effect::End(why) => ended = Some(why),
            }
        }
        if let Some(why) = ended {
            return Err(format!("a session of honest holders ended: {why}"));
        }
        if let Some(link) = self.links.get_mut(&pair) {
            link.sessions[way] = session;
        }
        for frame in frames {
            self.send(pair, from, frame);
        }
        Ok(())
    }

    /// Something was written: a session with each holder that is linked begins soon, as in the shell.
    fn written(&mut self, who: usize) {
        for other in (0..self.peers.len()).filter(|other| *other != who) {
            let delay = self.dice.range(20..=900);
            self.after(delay, Event::Sync(who.min(other), who.max(other)));
        }
    }

    // What people do

    fn act(&mut self, who: usize) {
        if !self.peers[who].is_up || !self.peers[who].may_hold {
            return;
        }
        let (id, content) = (self.dice.range(0..=IDS - 1), self.dice.range(0..=9));
        match self.dice.range(0..=19) {
            0..12 => self.append(who, id, content),
            12..15 => self.forget(who, id),
            15..17 => {
                let key = message(id, 0, 0).key(&WS);
                let now = self.now;
                let holder = &mut self.peers[who].holder;
                if holder.view().messages.contains_key(&key) {
                    let text = format!("the code of shed {id} is now {id}0{content}");
                    let correction = Correction { target: key, generation: 1 + (content % 3) as u32, text };
                    holder.say(&[Body::Correction(correction)], now);
                    self.written(who);
                }
            }
            _ => {
                let keep = self.dice.index(4);
                self.request(who, Trigger::Asked { keep });
            }
        }
    }

    fn append(&mut self, who: usize, id: u64, content: u64) {
        let message = message(id, content, self.now);
        let (key, rev) = (message.key(&WS), message.rev());
        if self.peers[who].holder.append_message(message, self.now).is_some() {
            self.seen.messages += 1;
            self.said.insert((key, rev), who);
            self.written(who);
        }
    }

    fn forget(&mut self, who: usize, id: u64) {
        let key = message(id, 0, 0).key(&WS);
        let holder = &mut self.peers[who].holder;
        if holder.has_forgotten(&key) || !holder.view().messages.values().any(|it| it.caller == key) {
            return;
        }
        holder.forget(key, self.now);
        self.seen.forgotten += 1;
        self.gone.entry(key).or_default().insert(who);
        self.written(who);
    }

    // Compaction, and words

    fn request(&mut self, who: usize, trigger: Trigger) {
        let peer = &mut self.peers[who];
        let action = peer.compaction.handle_request(&WS, trigger, &peer.holder.waiting());
        self.carry_out(who, action);
    }

    fn carry_out(&mut self, who: usize, action: Option<Action>) {
        let life = self.peers[who].life;
        match action {
            None => {}
            Some(Action::Store(capture)) => {
                self.peers[who].holder.capture = Some(capture);
                let delay = self.dice.range(1..=60);
                self.after(delay, Event::Step { who, life, step: Step::Captured });
            }
            Some(Action::Draft(capture, effort)) => {
                let holder = &self.peers[who].holder;
                let messages = if effort == Effort::HeaderOnly { Vec::new() } else { holder.read(&capture) };
                let mut draft = Draft::by_rules(&capture, &SETTINGS, &messages);
                let fails = self.dice.chance(60);
                if effort == Effort::Model && self.dice.chance(400) {
                    let said: Vec<&str> = messages.iter().map(|(_, _, it)| it.text.as_str()).take(3).collect();
                    draft.take_head(MODEL, &format!("{}.", said.join(". ")), &messages);
                }
                let delay = self.dice.range(1..=4_000);
                let step = if fails { Step::Failed } else { Step::Drafted(Box::new(draft)) };
                self.after(delay, Event::Step { who, life, step });
            }
            Some(Action::Commit(_, draft)) => {
                let committed = self.peers[who].holder.commit(*draft, self.now);
                self.peers[who].compaction.handle_committed();
                if let Some((_, report)) = committed {
                    self.seen.batches += report.summaries_created as u64;
                    self.written(who);
                }
            }
            Some(Action::Drop(_)) => self.peers[who].holder.capture = None,
        }
    }

    fn step(&mut self, who: usize, step: Step) {
        let compaction = &mut self.peers[who].compaction;
        let action = match step {
            Step::Captured => compaction.handle_captured(),
            Step::Drafted(draft) => compaction.handle_drafted(*draft),
            Step::Failed => compaction.handle_failed(),
        };
        self.carry_out(who, action);
    }

    fn begin_words(&mut self, who: usize) {
        if !self.dice.chance(500) {
            return;
        }
        if let Some(reading) = self.peers[who].holder.begin_words() {
            let (life, delay) = (self.peers[who].life, self.dice.range(100..=20_000));
            self.after(delay, Event::Answer { who, life, reading: Box::new(reading) });
        }
    }

    fn answer(&mut self, who: usize, reading: &Reading) {
        if !self.peers[who].may_hold {
            return;
        }
        let told = reading.head().user;
        let of = |line: &str| line.split_once(": ").map(|(_, said)| said.to_owned());
        let head = match self.dice.range(0..=3) {
            0 => "Xaver owes 4711 euros.".to_owned(),
            _ => told.lines().filter_map(of).take(2).collect::<Vec<_>>().join(". "),
        };
        let facts: String = (0..9).map(|n| format!("{n} | the code | is | {n}")).collect::<Vec<_>>().join("\n");
        let taken = reading.take(MODEL, Some(&head), Some(&facts));
        if self.peers[who].holder.keep_words(reading, taken, self.now).is_some() {
            self.seen.heads += 1;
            self.written(who);
        }
    }

    // Trouble

    fn trouble(&mut self) {
        let count = self.peers.len() - 1;
        let who = self.dice.index(count);
        match self.dice.range(0..=7) {
            0 | 1 => {
                for n in 0..count {
                    self.peers[n].side = self.dice.range(0..=1) as u8;
                }
            }
            2 => self.peers.iter_mut().for_each(|peer| peer.side = 0),
            3 | 4 => self.crash(who),
            5 => self.boot(who),
            // A holder that may hold no more, or again; one always may.
            6 if who > 0 => self.peers[who].may_hold = false,
            _ => self.peers[who].may_hold = true,
        }
    }

    /// All that was not durable is gone.
    fn crash(&mut self, who: usize) {
        let peer = &mut self.peers[who];
        if !peer.is_up {
            return;
        }
        self.seen.crashes += 1;
        (peer.is_up, peer.life) = (false, peer.life + 1);
        self.links.retain(|(a, b), _| *a != who && *b != who);
        if self.dice.chance(700) {
            self.boot(who);
        }
    }

    fn boot(&mut self, who: usize) {
        let peer = &mut self.peers[who];
        if peer.is_up {
            return;
        }
        peer.is_up = true;
        peer.compaction = Compaction::new(SETTINGS);
        if let Some(capture) = peer.holder.capture.clone() {
            let still_waits = peer.holder.still_waits(&capture);
            let action = peer.compaction.handle_found(capture, still_waits, true);
            self.carry_out(who, action);
        }
    }

    fn heal(&mut self) {
        for who in 0..self.peers.len() {
            self.peers[who].side = 0;
            self.boot(who);
        }
    }

    // Promises

    /// What must hold at any time.
    fn check_now(&self, who: usize) -> Result<(), String> {
        let holder = &self.peers[who].holder;
        // The text of what is forgotten is not held by whoever knows that.
        let known: BTreeSet<&MessageKey> = self.gone.keys().filter(|key| holder.has_forgotten(key)).collect();
        if !known.is_empty()
            && let Some((key, _)) = holder.texts().find(|(key, _)| known.contains(key))
        {
            return Err(format!("MS2: holder {who} has text about {key:?}, which it knows to be forgotten"));
        }
        Ok(())
    }

    /// What must hold after a long rest.
    fn check_rest(&self) -> Result<(), String> {
        let holders: Vec<(usize, &Peer)> = self.peers.iter().enumerate().filter(|(_, peer)| peer.may_hold).collect();
        let Some((_, first)) = holders.first() else { return Ok(()) };
        // What only a device has forgotten that may hold no more, nobody else has heard of.
        let by_holder = |by: &BTreeSet<usize>| by.iter().any(|by| self.peers[*by].may_hold);
        let gone: BTreeSet<MessageKey> =
            self.gone.iter().filter(|(_, by)| by_holder(by)).map(|(key, _)| *key).collect();
        let view = first.holder.view();
        let words = first.holder.heads_shown();
        for (n, Peer { holder, .. }) in &holders {
            let of = holder.view();
            let shown: BTreeSet<(MessageKey, Rev)> = of.messages.values().map(|it| (it.caller, it.content)).collect();
            for ((key, rev), by) in &self.said {
                // What a device said that may hold no more, and that nobody had, is lost with it.
                let is_ours = self.peers[*by].may_hold;
                if is_ours && !self.gone.contains_key(key) && !shown.contains(&(*key, *rev)) {
                    return Err(format!("MS1: holder {n} lacks {key:?}, which was accepted and not forgotten"));
                }
            }
            if let Some(key) = of.messages.values().map(|it| it.caller).find(|key| gone.contains(key)) {
                return Err(format!("MS2: holder {n} shows {key:?}, which is forgotten"));
            }
            if let Some((key, _)) = holder.texts().find(|(key, _)| gone.contains(key)) {
                return Err(format!("MS2: holder {n} keeps text about {key:?}, which is forgotten"));
            }
            let other = if of.messages != view.messages {
                let keys = |view: &View| view.messages.iter().map(|it| format!("{it:?}")).collect::<BTreeSet<_>>();
                let differs: Vec<String> = keys(&of).symmetric_difference(&keys(&view)).cloned().collect();
                Some(format!("messages: {}", differs.join("; ")))
            } else if of.covered != view.covered {
                Some("summaries".to_owned())
            } else {
                let shown = holder.heads_shown();
                (shown != words).then(|| format!("heads: {shown:?} and {words:?}"))
            };
            if let Some(other) = other {
                return Err(format!("MS3: holder {n} and the first see other {other}"));
            }
            if holder.holes_of() != first.holder.holes_of() {
                return Err(format!("MS5: holder {n} and the first still ask each other"));
            }
            if holder.waiting().len() >= 2 * SETTINGS.batch {
                return Err(format!("ML1: at holder {n} {} messages wait after a rest", holder.waiting().len()));
            }
            let mut lines = BTreeSet::new();
            for (batch, keys) in &of.covered {
                let Some(row) = holder.batch(batch) else { continue };
                if let Some(line) = of.lines(row).find(|line| !keys.contains(&line.key) || !lines.insert(line.key)) {
                    return Err(format!("MS6: {:?} is in two summaries", line.key));
                }
            }
            if let Some(head) = words.iter().find(|head| head.contains("Xaver")) {
                return Err(format!("MS7: a head says what nobody said: {head}"));
            }
        }
        Ok(())
    }
}

fn verified(sent: Vec<Sent>) -> Result<Vec<SignedGroup>, String> {
    sent.into_iter().map(|it| it.verify(&WS, &Keys).map_err(|error| error.to_string())).collect()
}

fn message(id: u64, content: u64, now: u64) -> Message {
    Message {
        id: id.to_string(),
        conversation: "talk".to_owned(),
        session: None,
        speaker: "Ann".to_owned(),
        text: format!("the code of box {id} is {id}0{content}"),
        time_ms: now.cast_signed(),
        offset_min: 0,
    }
}
