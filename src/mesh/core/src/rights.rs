//! Rights as this peer holds them: what was said about them and by whom, and the view compiled from what stands.
//!
//! What somebody says where it is no owner as far as this peer knows is not held: its log is read again once that place
//! is known to count. So nobody else takes room here, and the order in which statements and membership changes arrive is
//! nothing. Of an owner so much is held and no more; its log is read again when there is room.

mod answers;
mod room;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::answer_words;
use crate::audience::Audience;
use crate::budget::Amount;
use crate::effects::Effects;
use crate::entry::{Kind, Place, SignedEntry};
use crate::frame::EntryItem;
use crate::ids::{Hash, Incarnation, Known, NodeId, PeerId, ReqId};
use crate::io::{AnswerChoice, Edit, LogReader, Now, Output, Refusal};
use crate::limits;
use crate::log::Logs;
use crate::nodes::Nodes;
use crate::policy::bounds::WAIT_MS_DEFAULT;
use crate::policy::{
    Cause, Choice, Consent, Content, Credential, Decision, DeviceFacts, Domain, Given, InForce, Key, Mode, Offered,
    OpenAsk, PersonId, Policy, Principal, Request, Role, RuleRef, Said, Statement, ToolPattern, Value, Verdict, View,
};
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::{Header, Tier};
use crate::rows::{self, Row as _};
use crate::rule_words;
use crate::tailnet::Untagged;
use crate::trust::Trust;
use answers::Answers;
pub(crate) use answers::{call_of, read as read_answer};
use room::Room;

/// The envelope of a statement with its salt, and room to spare.
const ENVELOPE_BYTES_MAX: usize = 512;

type LogId = (PeerId, Incarnation);

/// All that the view was told of a member last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    node: NodeId,
    confirmed: bool,
    tier: Tier,
    scope: Option<Vec<ToolPattern>>,
    directory: Option<Hash>,
    untagged: Option<Untagged>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rights {
    policy: Arc<Policy>,
    entries: BTreeMap<Place, SignedEntry>,
    /// Those that do not count by present membership.
    void: Arc<BTreeSet<Place>>,
    view: Arc<View>,
    told: BTreeMap<PeerId, Told>,
    /// Membership, and the count of changes of directories, that `told` was made of.
    devices_of: Option<(Hash, u64)>,
    /// Amount that is held of each author's.
    room: Room,
    /// Parts of logs in which something was said that was not read.
    unheard: BTreeMap<LogId, (u64, u64)>,
    /// Logs that are being read, each with the last place that was asked for.
    asked: BTreeMap<LogId, u64>,
    /// Of every log that said anything, how far.
    known: BTreeMap<LogId, u64>,
    /// All that people said to calls that ask.
    answers: Answers,
    /// True if open calls have to be looked at again.
    changed: bool,
    rules: ProtocolRules,
}

/// The yeses that a call waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The asks that are open.
    pub(crate) asks: Vec<OpenAsk>,
    /// Why, for people.
    pub(crate) why: String,
}

/// Fate of a call, by the rights that are known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// It may run.
    Go {
        /// All that people said that lets it run, for the target to see.
        consents: Vec<Hash>,
    },
    /// A person has to say yes first.
    Ask(Asked),
    /// Its origin knew more about rights than is known here: it waits until that is here too.
    Behind,
    /// A tag on which the approval of its origin or target rests does not count now: it waits, as for a device that is
    /// away. New calls are refused at the door.
    Untagged {
        /// Why, for people.
        why: String,
    },
    /// It does not run.
    No {
        /// Why, for people.
        why: String,
        /// True if it is what the target offers, or forbids itself.
        of_target: bool,
    },
}

/// The statement about rights in this entry; `None` if there is none, or it is of another kind than the entry.
pub(crate) fn read(entry: &SignedEntry) -> Option<Said> {
    let said = Said::from_body(entry.body()?)?;
    (said.key.kind() == entry.entry.kind).then_some(said)
}

/// True of a yes to this call, whoever says it and whatever its header is.
fn is_yes_to(given: &crate::policy::Given, id: ReqId) -> bool {
    matches!(given.consent.choice, Choice::Once { call, .. } if call == id)
}

const fn log_id(place: &Place) -> LogId {
    (place.author, place.incarnation)
}

impl Rights {
    /// Nothing yet.
    pub(crate) fn new(rules: ProtocolRules) -> Self {
        let view = Arc::new(View::default().by(rules));
        Self { policy: Arc::new(Policy::by(rules)), view, rules, ..Self::default() }
    }

    /// Restores a row of [`crate::io::Space::Policy`]. `None`: it is damaged.
    pub(crate) fn restore(&mut self, value: &[u8]) -> Option<()> {
        let entry = SignedEntry::from_stored(value)?;
        let said = read(&entry)?;
        self.insert(entry, said);
        Some(())
    }

    /// Restores a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged.
    pub(crate) fn restore_unheard(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(log) = rows::unheard_of(key) {
            self.unheard.insert(log?, <(u64, u64)>::from_bytes(value)?);
        }
        Some(())
    }

    /// Compiles what was restored.
    pub(crate) fn boot(&mut self, trust: &Trust) {
        self.void = Arc::new(self.entries.keys().filter(|place| !trust.rights_stand(place)).copied().collect());
        let consents = std::mem::take(Arc::make_mut(&mut self.view).consents_mut());
        let mut view = View::new(&self.policy, &|place| !self.void.contains(place), []).by(self.rules);
        *view.consents_mut() = consents;
        self.view = Arc::new(view);
        self.changed = true; // which calls ask is in no row
    }

    fn insert(&mut self, entry: SignedEntry, said: Said) -> bool {
        let place = entry.place();
        let news = Arc::make_mut(&mut self.policy).insert(place, Statement { hlc: entry.entry.hlc, said });
        let known = self.known.entry(log_id(&place)).or_default();
        *known = place.seq.max(*known);
        let len = entry.len();
        if self.entries.insert(place, entry).is_none() {
            self.room.add(place.author, len);
        }
        news
    }

    fn remove(&mut self, place: &Place, fx: &mut Effects<'_>) {
        let Some(entry) = self.entries.remove(place) else { return };
        self.room.take(&place.author, entry.len());
        Arc::make_mut(&mut self.void).remove(place);
        fx.delete(rows::statement(place));
    }

    // --- Calls --------------------------------------------------------------------------------------------------------

    /// Places up to which this peer knows what members said about rights: first by which it belongs itself, then owners, and the
    /// longest logs first. For the header of a call.
    pub(crate) fn mark(&self, me: &PeerId, trust: &Trust) -> Vec<Known> {
        let known = self.known.iter().filter(|((author, _), _)| self.told.contains_key(author));
        let mut mark: Vec<Known> = known
            .map(|((author, incarnation), seq)| Known { author: *author, incarnation: *incarnation, seq: *seq })
            .collect();
        mark.sort_by_key(|known| (Reverse(self.is_owners(&known.author)), Reverse(known.seq), *known));
        let own = trust.member(me).and_then(|member| trust.record(&member.grant)).map(SignedEntry::place);
        if let Some(Place { author, incarnation, seq }) = own {
            mark.insert(0, Known { author, incarnation, seq });
        }
        mark.truncate(limits::MARK_MAX);
        mark
    }

    /// True if whoever made this mark knew something that is not here. A newcomer got the last word of each log without
    /// the log, and membership changes come also beside their logs.
    fn lacks(&self, mark: &[Known], logs: &Logs, trust: &Trust) -> bool {
        self.lacking(mark, logs, trust).next().is_some()
    }

    /// The parts of a mark that are not here, see [`Self::lacks`].
    pub(crate) fn lacking<'a>(
        &'a self,
        mark: &'a [Known],
        logs: &'a Logs,
        trust: &'a Trust,
    ) -> impl Iterator<Item = &'a Known> {
        mark.iter().filter(move |Known { author, incarnation, seq }| {
            let told = self.known.get(&(*author, *incarnation)).copied().unwrap_or(0);
            logs.held(author, *incarnation).max(told) < *seq
                && !trust.holds(&Place { author: *author, incarnation: *incarnation, seq: *seq })
        })
    }

    /// The question that a call asks. `entry`: hash of that of its header, once there is one.
    pub(crate) fn question(&self, header: &Header, origin: PeerId, entry: Option<Hash>) -> Request {
        // A device speaks for itself by its key; what it is called may have changed since.
        let principal = match &header.principal {
            Principal::Device(_) => self.told.get(&origin).map(|told| Principal::Device(told.node.clone())),
            Principal::Person(_) | Principal::Agent(..) => None,
        };
        Request {
            principal: principal.unwrap_or_else(|| header.principal.clone()),
            origin,
            credential: header.token.clone().map(|token| Credential { token, over: false }),
            workspace: header.workspace.clone().map(Domain::Workspace),
            target: header.target,
            tool: header.tool.clone(),
            call: entry.map(|hash| (header.id, hash)),
        }
    }

    /// Decides on a call that is on its way. `entry`: hash of that of its header.
    pub(crate) fn rule(
        &self,
        header: &Header,
        (origin, entry): (PeerId, Hash),
        (logs, trust): (&Logs, &Trust),
        rules: ProtocolRules,
    ) -> Ruling {
        let request = self.question(header, origin, Some(entry));
        let decision = self.view.decide(&request);
        let go = match decision.verdict {
            Verdict::Allow => true,
            Verdict::Ask => !rules.enforces(ProtocolRule::AskWaits) || self.goes_unasked(header, rules),
            Verdict::Deny => decision.rule == Cause::OwnerOnly && !rules.enforces(ProtocolRule::Tier),
        };
        if go {
            return Ruling::Go { consents: decision.consents };
        }
        if let Cause::Untagged(_) = decision.rule {
            return Ruling::Untagged { why: rule_words::denied(&request, &decision) };
        }
        // Also a ban may have been lifted since by somebody whom the origin had heard.
        if self.lacks(&header.mark, logs, trust) && rules.enforces(ProtocolRule::MarkWaits) {
            return Ruling::Behind;
        }
        if decision.verdict == Verdict::Ask {
            let why = rule_words::denied(&request, &decision);
            return Ruling::Ask(Asked { asks: decision.asks, why });
        }
        let why = self.refusal(&decision).unwrap_or_else(|| rule_words::denied(&request, &decision));
        Ruling::No { why, of_target: decision.rule.is_of_target() }
    }

    /// A rule that a test may leave out: whose answer it is, and to which header.
    fn goes_unasked(&self, header: &Header, rules: ProtocolRules) -> bool {
        let of_call =
            |rule| !rules.enforces(rule) && self.view.consents().all().any(|given| is_yes_to(given, header.id));
        of_call(ProtocolRule::ConsentApprover)
    }

    /// The one who said no, in words.
    fn refusal(&self, decision: &Decision) -> Option<String> {
        let Consent { by, note, .. } = self.answers.get(decision.consents.first()?)?;
        Some(answer_words::no(&by, &note, &decision.rule.to_string()))
    }

    /// All that people said that lets a call run, in words; empty if nobody was asked.
    pub(crate) fn said_yes(&self, consents: &[Hash]) -> String {
        let said: Vec<Consent> = consents.iter().filter_map(|hash| self.answers.get(hash)).collect();
        answer_words::yes(said.iter())
    }

    // --- Answers ------------------------------------------------------------------------------------------------------

    /// Restores a row of [`rows::consent`]. `None`: it is damaged.
    pub(crate) fn restore_answer(&mut self, value: &[u8], now: Now) -> Option<()> {
        self.answers.restore(value, now, self.rules, Arc::make_mut(&mut self.view).consents_mut())
    }

    /// Takes what a person said to a call that asks. `times`: that which its hour, or its call, has left, if it is known, and
    /// that for which an hour counts at most; `waits`: of a call, that it is known here and has not started.
    pub(crate) fn hear_answer(
        &mut self,
        entry: &SignedEntry,
        times: (Option<u64>, u64),
        waits: &dyn Fn(&ReqId) -> bool,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        let consents = Arc::make_mut(&mut self.view).consents_mut();
        if self.answers.hear(entry, times, waits, trust, consents, fx) {
            self.changed = true;
            fx.view_changed = true;
        }
    }

    /// Time for which an answer counts yet, as it is told to others; `None`: it is none that is held here.
    pub(crate) fn answer_left_ms(&self, hash: &Hash, now: u64) -> Option<u64> {
        self.answers.left_ms(hash, now)
    }

    /// Yeses for an hour that are held here, and those that were said here before this process began.
    pub(crate) fn hours(&self) -> impl Iterator<Item = Given> {
        let is_hour = |given: &&Given| matches!(given.consent.choice, Choice::Hour { .. });
        self.view.consents().all().filter(is_hour).cloned().chain(self.answers.former())
    }

    /// Those to whom an answer was told; `None`: it is none that is held here.
    pub(crate) fn answer_audience(&self, hash: &Hash) -> Option<Audience> {
        self.answers.audience(hash)
    }

    /// The answers that a call rests on, for its target.
    pub(crate) fn answers(&self, consents: &[Hash], now: u64) -> Vec<EntryItem> {
        self.answers.items(consents, now)
    }

    /// The asks to which this person has given this answer to this call.
    pub(crate) fn answered(&self, id: &ReqId, by: &PersonId, choice: AnswerChoice) -> Option<Vec<RuleRef>> {
        let same = |said: &Choice| match said {
            Choice::Once { call, .. } => choice == AnswerChoice::Once && call == id,
            Choice::Deny { call, .. } => choice == AnswerChoice::No && call == id,
            Choice::Hour { .. } | Choice::Withdrawn { .. } => false,
        };
        let given = self.view.consents().all().find(|given| given.consent.by == *by && same(&given.consent.choice))?;
        Some(given.consent.of.clone())
    }

    /// Forgets what was said to a call that is over.
    pub(crate) fn end_call(&mut self, id: &ReqId, fx: &mut Effects<'_>) {
        if self.answers.poll_timeout().is_some() {
            self.answers.end_call(id, Arc::make_mut(&mut self.view).consents_mut(), fx);
        }
    }

    /// Ends the hours that are over.
    pub(crate) fn handle_timeout(&mut self, fx: &mut Effects<'_>) {
        let due = self.answers_timeout().is_some_and(|at| at <= fx.now.mono_ms);
        if due {
            let consents = Arc::make_mut(&mut self.view).consents_mut();
            self.changed |= self.answers.handle_timeout(consents, fx);
            fx.view_changed = true;
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn answers_timeout(&self) -> Option<u64> {
        self.answers.poll_timeout()
    }

    /// Devices at which somebody may say yes to a call, owners and one-time devices left out: at most
    /// [`crate::audience::APPROVERS_MAX`].
    pub(crate) fn approvers_at(&self, request: &Request, asks: &[OpenAsk], trust: &Trust) -> Vec<PeerId> {
        let people: BTreeSet<PersonId> = asks.iter().flat_map(|ask| self.view.approvers(request, ask)).collect();
        let shared = self.told.iter().filter(|(_, told)| told.tier == Tier::Shared).map(|(peer, _)| peer);
        let at = shared.filter(|peer| {
            let device = self.view.device(peer);
            !trust.is_owner(peer) && device.is_some_and(|(_, of)| of.iter().any(|person| people.contains(person)))
        });
        at.take(crate::audience::APPROVERS_MAX).copied().collect()
    }

    /// Asks that a decision does not leave open because of yeses for an hour.
    pub(crate) fn answered_by_hours<'a>(&'a self, decision: &'a Decision) -> impl Iterator<Item = OpenAsk> + 'a {
        let given = decision.consents.iter().filter_map(|hash| self.view.consents().get(hash));
        given.flat_map(|given| {
            let of_agent = matches!(&given.consent.choice, Choice::Hour { principal: Principal::Agent(..), .. });
            let ask = move |rule: &RuleRef| OpenAsk { rule: rule.clone(), of_agent, wait_ms: WAIT_MS_DEFAULT };
            given.consent.of.iter().map(ask)
        })
    }

    /// True unless a device asks for itself that rights know by no name: no two of its calls are alike to them.
    pub(crate) fn knows_asker(&self, request: &Request) -> bool {
        !matches!(request.principal, Principal::Device(_)) || self.view.name_of(&request.origin).is_some()
    }

    /// Why whoever asked may ask nothing any more, so that what runs for it is stopped; `None`: it may.
    pub(crate) fn exclusion(&self, header: &Header, origin: PeerId) -> Option<String> {
        let request = self.question(header, origin, None);
        let decision = self.view.decide(&request);
        decision.rule.is_of_asker().then(|| rule_words::denied(&request, &decision))
    }

    /// The statement by which a device speaks for nobody any more; `None`: it does not, as far as is known here.
    pub(crate) fn unseated(&self, device: PeerId, by: Principal) -> Option<(Kind, Vec<u8>)> {
        let key = Key::Device(device);
        let seats = |content: &Content| match content {
            Content::Value(value) => matches!(&**value, Value::Device(device) if !device.people.is_empty()),
            Content::Unreadable => true,
            Content::Deleted => false,
        };
        let said = self.said();
        if !said.heads(&key).iter().any(|(_, statement)| seats(&statement.said.content)) {
            return None;
        }
        let stands = |place: &Place| !self.void.contains(place);
        let said = self.policy.edit((key.clone(), None), by, false, &stands);
        Some((key.kind(), said.to_body().ok()?))
    }

    /// True if a call could run by what is known here.
    pub(crate) fn permits(&self, header: &Header, origin: PeerId) -> bool {
        self.view.decide(&self.question(header, origin, None)).verdict != Verdict::Deny
    }

    /// True once for each change of what is said, or of devices, since the last time.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The rights that hold here.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// All that was said, with what of it stands.
    pub(crate) fn said(&self) -> InForce {
        InForce::new(self.policy.clone(), self.void.clone())
    }

    /// All that holds, of which most is told: the mode, then the smallest entries, up to [`limits::RIGHTS_BYTES_MAX`].
    pub(crate) fn in_force(&self) -> impl Iterator<Item = &SignedEntry> {
        let mut heads: Vec<&SignedEntry> = self.heads().filter_map(|place| self.entries.get(place)).collect();
        heads.sort_by_key(|entry| (entry.entry.kind != Key::Mode.kind(), entry.len()));
        let mut bytes = 0;
        heads.into_iter().take_while(move |entry| {
            bytes += entry.len();
            bytes <= limits::RIGHTS_BYTES_MAX
        })
    }

    fn heads(&self) -> impl Iterator<Item = &Place> {
        let registers = self.policy.keys().filter_map(|key| self.policy.register(key));
        registers.flat_map(|register| register.heads(&|place| !self.void.contains(place))).map(|(place, _)| place)
    }

    /// True if somebody said something else in place of what this entry says.
    pub(crate) fn is_replaced(&self, entry: &SignedEntry) -> bool {
        let place = entry.place();
        let key = read(entry).map(|said| said.key).filter(|_| !self.void.contains(&place));
        let register = key.and_then(|key| self.policy.register(&key));
        register.is_some_and(|register| {
            let heads = register.heads(&|place| !self.void.contains(place));
            !heads.into_iter().any(|(head, _)| *head == place)
        })
    }

    // --- What is said -------------------------------------------------------------------------------------------------

    /// Takes a statement.
    pub(crate) fn hear(&mut self, entry: &SignedEntry, trust: &Trust, fx: &mut Effects<'_>) {
        let place = entry.place();
        if self.entries.contains_key(&place) {
            return;
        }
        let Some(said) = read(entry) else { return };
        let takes = said.content.takes();
        let may = self.room.of_author(&place.author, Amount::default(), takes) && self.room.may_ask(&place.author);
        if !trust.rights_stand(&place) || !may {
            self.leave_unheard(&place, fx);
            return;
        }
        let Some(over) = self.room.make(&place.author, entry.len(), trust) else {
            self.room.refuse(place.author);
            self.leave_unheard(&place, fx);
            return;
        };
        for (author, keeps) in over {
            self.drop_beyond(&author, keeps, fx);
        }
        let key = said.key.clone();
        fx.put(rows::statement(&place), entry);
        self.insert(entry.clone(), said);
        self.refresh(&key, fx);
    }

    /// What is said at this place is not held: it is read from the log when it may be.
    fn leave_unheard(&mut self, place: &Place, fx: &mut Effects<'_>) {
        let range = self.unheard.entry(log_id(place)).or_insert((place.seq, place.seq));
        *range = (range.0.min(place.seq), range.1.max(place.seq));
        fx.put(rows::unheard(&place.author, place.incarnation), range);
        self.changed = true; // one more place of a mark is held
    }

    /// Drops statements of an author that has more than its share until it has no more than this: first what does not
    /// take away, and of that the last.
    fn drop_beyond(&mut self, author: &PeerId, keeps: u64, fx: &mut Effects<'_>) {
        let of = |seq, incarnation| Place { author: *author, incarnation, seq };
        let all = self.entries.range(of(0, Incarnation(0))..=of(u64::MAX, Incarnation(u32::MAX)));
        let mut all: Vec<(bool, Place, Key)> =
            all.filter_map(|(place, entry)| read(entry).map(|said| (said.content.takes(), *place, said.key))).collect();
        all.sort_by_key(|(takes, place, _)| (*takes, Reverse(*place)));
        for (_, place, key) in all {
            if self.room.of(author) <= keeps {
                break;
            }
            self.drop_one(&place, &key, fx);
            self.refresh(&key, fx);
        }
        self.room.refuse(*author);
    }

    /// Holds a statement no more, which can be read again.
    fn drop_one(&mut self, place: &Place, key: &Key, fx: &mut Effects<'_>) {
        Arc::make_mut(&mut self.policy).remove(key, place);
        self.remove(place, fx);
        self.leave_unheard(place, fx);
    }

    fn refresh(&mut self, key: &Key, fx: &mut Effects<'_>) {
        let void = &self.void;
        Arc::make_mut(&mut self.view).refresh(&self.policy, &|place| !void.contains(place), key);
        self.changed = true;
        fx.view_changed = true;
    }

    /// Membership has changed, and with it what stands and who may say something.
    ///
    /// What does not stand any more and is in the log is held no more: it is read again should it come to stand.
    pub(crate) fn handle_trust(&mut self, trust: &Trust, logs: &Logs, fx: &mut Effects<'_>) {
        self.room.handle_trust();
        let void: BTreeSet<Place> = self.entries.keys().filter(|place| !trust.rights_stand(place)).copied().collect();
        let changed: Vec<Place> = void.symmetric_difference(&self.void).copied().collect();
        self.void = Arc::new(void);
        let keys = changed.iter().filter_map(|place| self.entries.get(place)).filter_map(read).map(|said| said.key);
        let keys: BTreeSet<Key> = keys.collect();
        for key in &keys {
            self.refresh(key, fx);
        }
        let is_in_log = |place: &Place| {
            let log = log_id(place);
            logs.held(&log.0, log.1) >= place.seq && !logs.is_dropped(log, place.seq)
        };
        let gone = self.void.iter().filter(|place| is_in_log(place));
        let gone = gone.filter_map(|place| Some((*place, read(self.entries.get(place)?)?.key)));
        for (place, key) in gone.collect::<Vec<_>>() {
            self.drop_one(&place, &key, fx);
        }
        self.read_unheard(trust, fx);
    }

    /// Reads what was said before its author was known to be an owner, or when there was no room for it.
    pub(crate) fn read_unheard(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        if !self.asked.is_empty() {
            return;
        }
        let ranges = self.unheard.iter().filter_map(|((author, log), (first, last))| {
            let last = trust.rights_stand_until(author, *log).min(*last);
            let has_room = self.room.of_author(author, Amount::default(), false) && self.room.may_ask(author);
            let due = *first <= last && has_room;
            due.then_some((*author, *log, *first, last))
        });
        let ranges: Vec<_> = ranges.collect();
        if !ranges.is_empty() {
            self.asked = ranges.iter().map(|(author, log, _, last)| ((*author, *log), *last)).collect();
            fx.out.push(Output::ReadLog { reader: LogReader::Rights, ranges });
        }
    }

    /// Our own log answers.
    pub(crate) fn handle_log_read(&mut self, entries: &[SignedEntry], more: bool, trust: &Trust, fx: &mut Effects<'_>) {
        let last = entries.last().filter(|_| more).map(SignedEntry::place);
        for (log, asked) in std::mem::take(&mut self.asked) {
            let read = match &last {
                Some(last) if log > log_id(last) => continue,
                Some(last) if log == log_id(last) => last.seq,
                Some(_) | None => asked,
            };
            let Some(range) = self.unheard.get_mut(&log) else { continue };
            range.0 = read + 1;
            if range.0 <= range.1 {
                fx.put(rows::unheard(&log.0, log.1), range);
            } else {
                self.unheard.remove(&log);
                fx.delete(rows::unheard(&log.0, log.1));
            }
        }
        for entry in entries.iter().filter(|entry| entry.entry.kind.is_about_rights()) {
            self.hear(entry, trust, fx);
        }
        if more {
            self.read_unheard(trust, fx);
        }
    }

    /// Forgets what is truncated and was replaced. What stands stays, whatever its author says of its log.
    pub(crate) fn handle_truncation(
        &mut self,
        truncation: &SignedEntry,
        logs: &Logs,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        let Place { author, incarnation, .. } = truncation.place();
        let of = |seq| Place { author, incarnation, seq };
        self.changed = true; // more places of marks may count as held
        let gone = self.entries.range(of(0)..=of(u64::MAX));
        let gone = gone.filter(|(place, _)| logs.is_dropped((author, incarnation), place.seq));
        let gone: Vec<(Place, Key)> = gone.filter_map(|(place, entry)| Some((*place, read(entry)?.key))).collect();
        for (place, key) in gone {
            let void = &self.void;
            Arc::make_mut(&mut self.policy).forget(&key, &|place| !void.contains(place), &|other| *other == place);
            let stays = |(other, _): (&Place, &Statement)| *other == place;
            if !self.policy.register(&key).is_some_and(|register| register.statements().any(stays)) {
                self.remove(&place, fx);
            }
        }
        self.read_unheard(trust, fx);
    }

    // --- Devices ------------------------------------------------------------------------------------------------------

    /// Takes up what the mesh knows of its members by now. One whose key two devices use, or that contradicts itself, is
    /// not denied anything: nothing begins for it while that is so (`screen`, [`crate::facts::Facts::may_get_calls`]).
    pub(crate) fn refresh_devices(&mut self, trust: &Trust, nodes: &Nodes) {
        let seen = Some((trust.fingerprint(), nodes.changes()));
        if self.devices_of == seen {
            return;
        }
        self.devices_of = seen;
        let members = &trust.membership().members;
        let chosen = nodes.chosen_names(trust);
        let gone: Vec<PeerId> = self.told.keys().filter(|peer| !members.contains_key(peer)).copied().collect();
        for peer in &gone {
            self.told.remove(peer);
            Arc::make_mut(&mut self.view).remove_device(peer);
            self.changed = true;
        }
        for (peer, member) in members {
            let node = chosen.get(peer).unwrap_or(&member.node_id);
            let confirmed = !member.takes_names_by_itself();
            let entry = nodes.entry(peer).map(|entry| entry.hash);
            let scope = member.stay.as_ref().and_then(|stay| stay.scope.clone());
            let untagged = nodes.untagged(peer, member);
            let (tier, directory) = (member.tier, entry);
            let told = Told { node: node.clone(), confirmed, tier, scope: scope.clone(), directory, untagged };
            if self.told.get(peer) == Some(&told) {
                continue;
            }
            self.told.insert(*peer, told);
            let directory = nodes.directory(peer);
            let tools = directory.iter().flat_map(|directory| &directory.tools).map(Offered::of).collect();
            let deny = directory.map(|directory| directory.deny.clone()).unwrap_or_default();
            let (node, tier) = (node.clone(), member.tier);
            let facts = DeviceFacts { peer: *peer, node, confirmed, tier, trusted: true, untagged, scope, tools, deny };
            Arc::make_mut(&mut self.view).set_device(facts);
            self.changed = true;
        }
    }

    // --- Edits --------------------------------------------------------------------------------------------------------

    /// Judges changes that somebody at a door of ours wants made: the entries that say so, in order. `next`: the place of
    /// the first of them.
    ///
    /// # Errors
    /// The first rule that an edit violates. Then none of them is made.
    pub(crate) fn judge(
        &self,
        edit: Edit,
        next: Place,
        hlc: u64,
        trust: &Trust,
    ) -> Result<Vec<(Kind, Vec<u8>)>, Refusal> {
        let Edit { by, mut changes, declared, force, seen } = edit;
        let stands = |place: &Place| !self.void.contains(place);
        let in_force = self.said();
        if seen.iter().any(|(key, places)| in_force.places(key) != *places) {
            return Err(Refusal::EditedMeanwhile);
        }
        let (mut policy, mut view) = (Policy::clone(&self.policy), View::clone(&self.view));
        let broken = |view: &View| -> BTreeSet<_> { view.broken_checks().map(|(name, ..)| name.clone()).collect() };
        let before = broken(&view);
        // Whoever makes the first workspace wants them to decide.
        let makes = |(key, value): &(Key, Option<Value>)| matches!(key, Key::Workspace(_)) && value.is_some();
        let first = view.workspaces().next().is_none() && changes.iter().any(makes);
        let is_said = changes.iter().any(|(key, _)| *key == Key::Mode);
        let is_unsaid = policy.register(&Key::Mode).is_none();
        if first && !is_said && view.mode() == Mode::Open && (is_unsaid || self.is_owner(&by)) {
            changes.insert(0, (Key::Mode, Some(Value::Mode(Mode::Workspaces))));
        }
        let mut entries = Vec::new();
        let mut more = Amount::default();
        let mut bytes: usize = self.heads().filter_map(|place| self.entries.get(place)).map(SignedEntry::len).sum();
        for (key, value) in changes {
            view.may_edit(&by, &key, value.as_ref()).map_err(Refusal::NotAllowed)?;
            // What the file of a device says that is no owner any more is anybody's to edit.
            let file = in_force.declared_by(&key).filter(|file| self.is_owners(file));
            // What a file says is its from then on, also where somebody has said it before.
            if policy.says(&key, value.as_ref(), &stands) && (!declared || file.is_some() || value.is_none()) {
                continue;
            }
            if let Some(file) = file.filter(|_| !declared && key != Key::Mode) {
                return Err(Refusal::Declared { file });
            }
            if let Some(value) = &value {
                policy.admit(&key, value, &stands).map_err(Refusal::InvalidRecord)?;
            }
            let said = policy.edit((key.clone(), value), by.clone(), declared, &stands);
            let body = said.to_body().map_err(Refusal::InvalidRecord)?;
            if !self.room.of_author(&next.author, more, said.content.takes()) {
                let max = limits::STATEMENTS_MAX;
                return Err(Refusal::Full(format!(
                    "this device has said {max} things about rights, which is all that the mesh holds of one device; what \
                     was replaced makes room after 15 days, what was taken away never does: make the change at another \
                     owner's device (what takes away is still taken here, {max} times)"
                )));
            }
            let size = ENVELOPE_BYTES_MAX + body.len();
            more.add(Amount::one(size as u64));
            bytes += size;
            let wanted = room::room_of(0) * more.entries + more.bytes;
            if !self.room.has_share(&next.author, wanted, trust) {
                return Err(Refusal::Full(
                    "all that was said about rights takes as much room as it may, and this device has its share of it: remove \
                     the device whose owner has said so much (`sigil nodes`, `sigil forget`), or make the change at the \
                     device that founded the mesh"
                        .to_owned(),
                ));
            }
            if said.content != Content::Deleted && bytes > limits::RIGHTS_BYTES_MAX {
                let max = limits::RIGHTS_BYTES_MAX / 1024;
                return Err(Refusal::Full(format!("what is said about rights may take {max} KiB in all")));
            }
            entries.push((key.kind(), body));
            policy.insert(Place { seq: next.seq + entries.len() as u64 - 1, ..next }, Statement { hlc, said });
            view.refresh(&policy, &stands, &key);
        }
        if force && self.is_owner(&by) {
            return Ok(entries);
        }
        let failed = view.broken_checks().find(|(name, ..)| !before.contains(*name));
        match failed {
            Some((name, check, verdict)) => {
                Err(Refusal::CheckFailed { check: name.clone(), verdict, expect: check.expect })
            }
            None => Ok(entries),
        }
    }

    /// True if this device is an owner.
    fn is_owners(&self, device: &PeerId) -> bool {
        self.told.get(device).is_some_and(|told| told.tier == Tier::Owner)
    }

    fn is_owner(&self, by: &Principal) -> bool {
        matches!(by, Principal::Person(person) if self.view.role(person) == Some(Role::Owner))
    }
}
