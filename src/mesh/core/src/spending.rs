//! Spending: what every author has used up of its budget, and whose log has stopped here for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::budget::{Amount, Budget, Budgets, OverBudget, TIMES};
use crate::config::Rate;
use crate::effects::Effects;
use crate::entry::{Kind, SignedEntry};
use crate::ids::{PeerId, ReqId, ToolName};
use crate::io::{DiskSpace, Fact, Now, Refusal, StoppedLog};
use crate::limits;
use crate::people::Principal;
use crate::protocol_rule::ProtocolRule;
use crate::rates::Rates;
use crate::rows::{self, BudgetRow, Row as _};
use crate::trust::Trust;

const HOUR_MS: u64 = 3_600_000;
/// An account's row is written when it is off by so much: a crash forgets no more than that.
const SAVE_AFTER: Amount = Amount { entries: 32, bytes: 32 * 1024 };
/// Endings and cancel requests of one call that are charged to its origin; more of them are their author's own doing.
const ANSWERS_CHARGED_MAX: usize = 8;

/// Divisor of an owner's log budget for a former owner that this device never met as an owner.
const FORMER_OWNER_PART: u64 = 8;

/// The budget of a peer. A former owner keeps what is held from its time as an owner, beside the budget of its present tier.
fn budget_of(budgets: &Budgets, peer: &PeerId, as_owner: BudgetRow, trust: &Trust) -> Budget {
    let budget = *budgets.of(trust.tier(peer));
    if trust.is_owner(peer) || !trust.was_owner(peer) {
        return budget;
    }
    if !trust.enforces(ProtocolRule::FormerOwnerBudget) {
        return Budget { log: budgets.owner.log, answers: budgets.owner.answers, ..budget };
    }
    let former = |owner: Amount, as_owner: Amount, guest: Amount| Amount {
        entries: (owner.entries / FORMER_OWNER_PART).max(as_owner.entries).saturating_add(guest.entries),
        bytes: (owner.bytes / FORMER_OWNER_PART).max(as_owner.bytes).saturating_add(guest.bytes),
    };
    Budget {
        log: former(budgets.owner.log, as_owner.log, budget.log),
        answers: former(budgets.owner.answers, as_owner.answers, budget.answers),
        ..budget
    }
}

/// A level that falls steadily. Its unit is one thousandth, or one 3,600,000th, of what is counted.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    level: u128,
    at_ms: u64,
}

impl Bucket {
    /// Lets it fall by `rate` for each millisecond since the last time.
    fn fall(&mut self, rate: u64, now: u64) {
        let gone = u128::from(now.saturating_sub(self.at_ms)) * u128::from(rate);
        self.level = self.level.saturating_sub(gone);
        self.at_ms = now;
    }

    /// Milliseconds until it is at or below `level`; 0 = it is.
    fn until(&self, level: u128, rate: u64) -> u64 {
        let over = self.level.saturating_sub(level);
        u64::try_from(over.div_ceil(u128::from(rate.max(1)))).unwrap_or(u64::MAX)
    }
}

/// Room that truncations have freed and their author may not fill again at once: it comes back steadily within a period.
/// Honest authors drop what is older than that, so they have it back before they drop as much again.
#[derive(Debug, Clone, Copy, Default)]
struct Returning {
    entries: Bucket,
    bytes: Bucket,
}

impl Returning {
    fn fall(&mut self, budget: Amount, now: u64) {
        self.entries.fall(budget.entries, now);
        self.bytes.fall(budget.bytes, now);
    }

    fn add(&mut self, amount: Amount, period_ms: u64) {
        self.entries.level += u128::from(amount.entries) * u128::from(period_ms);
        self.bytes.level += u128::from(amount.bytes) * u128::from(period_ms);
    }

    fn amount(self, period_ms: u64) -> Amount {
        let of = |Bucket { level, .. }| {
            if level == 0 { 0 } else { u64::try_from(level / u128::from(period_ms.max(1))).unwrap_or(u64::MAX) }
        };
        Amount { entries: of(self.entries), bytes: of(self.bytes) }
    }
}

/// Room that one author has filled here.
#[derive(Debug, Clone, Default)]
struct Account {
    held: BudgetRow,
    saved: BudgetRow,
    /// Part of it that its author wrote as an owner, at the most.
    as_owner: BudgetRow,
    /// Of [`BudgetRow::log`], and of [`BudgetRow::answers`].
    returning: (Returning, Returning),
    hour: (Bucket, Bucket),
    /// Of ourselves: the calls that our doors accepted.
    calls: Bucket,
}

#[derive(Debug, Clone, Copy)]
struct Stopped {
    over: OverBudget,
    /// Our clock at which it may go on; `None`: when there is room again.
    until: Option<u64>,
}

impl Account {
    /// True if its row is off by much.
    fn is_off(&self) -> bool {
        let off = |a: Amount, b: Amount| {
            a.entries.abs_diff(b.entries) >= SAVE_AFTER.entries || a.bytes.abs_diff(b.bytes) >= SAVE_AFTER.bytes
        };
        off(self.held.log, self.saved.log) || off(self.held.answers, self.saved.answers)
    }

    /// All that counts against the budget of its log, and against that of its answers.
    fn counted(&mut self, budget: &Budget, period_ms: u64, now: u64) -> BudgetRow {
        self.returning.0.fall(budget.log, now);
        self.returning.1.fall(budget.answers, now);
        let BudgetRow { mut log, mut answers, .. } = self.held;
        log.add(self.returning.0.amount(period_ms));
        answers.add(self.returning.1.amount(period_ms));
        BudgetRow { log, answers }
    }

    fn charge_hour(&mut self, amount: Amount, limit: Amount, now: u64) {
        for (bucket, n, limit) in
            [(&mut self.hour.0, amount.entries, limit.entries), (&mut self.hour.1, amount.bytes, limit.bytes)]
        {
            if limit != u64::MAX {
                bucket.fall(limit, now);
                bucket.level += u128::from(n) * u128::from(HOUR_MS);
            }
        }
    }

    /// Milliseconds until `amount` is within the hour's budget; 0 = it is. `calm`: and a good part beyond it, so that a
    /// log that was stopped does not stop again with the next entry.
    fn hour_wait(&mut self, amount: Amount, limit: Amount, times: u64, calm: bool, now: u64) -> u64 {
        let mut wait = 0;
        for (bucket, n, limit) in
            [(&mut self.hour.0, amount.entries, limit.entries), (&mut self.hour.1, amount.bytes, limit.bytes)]
        {
            if limit == u64::MAX {
                continue;
            }
            bucket.fall(limit, now);
            let whole = u128::from(limit) * u128::from(times) * u128::from(HOUR_MS);
            let room = u128::from(n) * u128::from(HOUR_MS);
            let room = if calm { room.max(whole / 8) } else { room };
            wait = wait.max(bucket.until(whole.saturating_sub(room), limit));
        }
        wait
    }
}

/// Where an entry is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Charge {
    /// The peer whose hourly budget is charged: the author, or the origin of the call that is answered. `None` for an answer
    /// to a call that is unknown here: the limit of the whole log bounds it.
    pub(crate) payer: Option<PeerId>,
    /// True if it answers a call of somebody else than its author.
    pub(crate) answer: bool,
}

/// Room that an entry takes: its envelope and its body, also where that is withheld, so that everyone counts the same.
pub(crate) fn amount(entry: &SignedEntry) -> Amount {
    Amount::one(entry.bytes.len() as u64 + u64::from(entry.entry.body.len))
}

/// True if an entry is about a call of somebody else than its author, as its envelope says.
pub(crate) fn is_answer(entry: &SignedEntry) -> bool {
    let about_call = entry.entry.kind == Kind::OUTCOME || entry.entry.kind == Kind::CANCEL;
    entry.entry.audience.ends().is_some_and(|(origin, _)| about_call && origin != entry.author)
}

/// The payer for an entry of `author`: the origin of the call that it answers, if the book says so.
pub(crate) fn charge(entry: &SignedEntry, payer: Payer) -> Charge {
    let answer = is_answer(entry);
    // Its target says so, of a call that we may never have heard of.
    let by_target = answer && entry.entry.audience.ends().is_some_and(|(_, target)| target == entry.author);
    let own = (!by_target).then_some(entry.author);
    let payer = match payer {
        Payer::Origin(origin) => Some(origin),
        Payer::Author => Some(entry.author),
        Payer::Unknown => own,
    };
    Charge { payer, answer }
}

/// Whose hour an answer is part of, as the book has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payer {
    /// That of the origin of its call.
    Origin(PeerId),
    /// Its author's own.
    Author,
    /// No such call is known.
    Unknown,
}

/// The call that such an entry is about, if its body is here.
pub(crate) fn answers(entry: &SignedEntry) -> Option<ReqId> {
    #[derive(Deserialize)]
    struct About {
        id: ReqId,
    }
    let about: About = is_answer(entry).then(|| entry.record()).flatten()?;
    Some(about.id)
}

/// True if the origin of a call with `known` rows of history pays for what `author` says of it.
pub(crate) const fn is_charged_to_origin(has_say: bool, known: usize) -> bool {
    has_say && known <= 2 * ANSWERS_CHARGED_MAX
}

/// Room on our disk for what others write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum DiskLevel {
    /// For everyone.
    #[default]
    Enough,
    /// Below the floor: for what owners write or cause.
    Low,
    /// Below half of it: for what owners cause, and by which something ends, or is decided, or goes.
    Critical,
}

impl DiskLevel {
    /// True if an entry of this kind is taken. `by_owner`: its author is one; `for_owner`: it is charged to one.
    fn admits(self, kind: Kind, by_owner: bool, for_owner: bool) -> bool {
        match self {
            Self::Enough => true,
            Self::Low => by_owner || for_owner,
            Self::Critical => for_owner && [Kind::MEMBERSHIP, Kind::OUTCOME, Kind::TRUNCATION].contains(&kind),
        }
    }
}

/// All accounts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spending {
    budgets: Budgets,
    /// Time within which what a truncation freed may be filled again.
    period_ms: u64,
    disk: DiskLevel,
    /// Of the askers at our own doors.
    rates: Rates,
    accounts: BTreeMap<PeerId, Account>,
    /// Authors whose logs are stopped: every step asks, and mostly there is none.
    stopped: BTreeMap<PeerId, Stopped>,
    /// Authors whose rows are off by much.
    unsaved: BTreeSet<PeerId>,
}

impl Spending {
    /// `keep_entries_ms`: age that an entry has at least before its author truncates it.
    pub(crate) fn new(budgets: Budgets, keep_entries_ms: u64) -> Self {
        Self { budgets, period_ms: keep_entries_ms / 2, ..Self::default() }
    }

    /// The disk has crossed a mark.
    pub(crate) fn handle_disk(&mut self, space: DiskSpace) {
        self.disk = match space {
            DiskSpace { free, floor } if free >= floor => DiskLevel::Enough,
            DiskSpace { free, floor } if free >= floor / 2 => DiskLevel::Low,
            DiskSpace { .. } => DiskLevel::Critical,
        };
    }

    /// Takes back a row of [`crate::io::Space::Meta`]; others are none of its business.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) {
        if let Some(author) = rows::budget_of(key)
            && let Some(row) = BudgetRow::from_bytes(value)
        {
            let account = self.accounts.entry(author).or_default();
            (account.held, account.saved) = (row, row);
        }
        if let Some(author) = rows::budget_as_owner_of(key)
            && let Some(row) = BudgetRow::from_bytes(value)
        {
            self.accounts.entry(author).or_default().as_owner = row;
        }
    }

    /// True if the log of this author is stopped.
    pub(crate) fn is_stopped(&self, author: &PeerId) -> bool {
        self.stopped.contains_key(author)
    }

    /// Authors whose logs are stopped.
    pub(crate) fn stopped_authors(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.stopped.keys().copied()
    }

    /// Takes an entry of another author that comes in its place, or stops its log.
    pub(crate) fn takes(&mut self, entry: &SignedEntry, charge: Charge, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let (author, amount) = (entry.author, amount(entry));
        if self.is_stopped(&author) {
            return false;
        }
        let account = self.accounts.entry(author).or_default();
        let budget = budget_of(&self.budgets, &author, account.as_owner, trust);
        let counted = account.counted(&budget, self.period_ms, fx.now.mono_ms);
        let live = entry.entry.hlc >> 16 >= fx.now.wall_ms.saturating_sub(HOUR_MS);
        let (by_owner, for_owner) = (trust.is_owner(&author), trust.is_owner(&charge.payer.unwrap_or(author)));
        let returns = counted != account.held;
        let over = if self.disk.admits(entry.entry.kind, by_owner, for_owner) || !fx.enforces(ProtocolRule::DiskFloor) {
            over(account, counted, entry, charge, live, &budget, fx.now)
        } else {
            Some(Stopped { over: OverBudget::Disk, until: None })
        };
        let later = fx.now.mono_ms + again_ms(self.period_ms);
        let until = |stopped: Stopped| Stopped { until: stopped.until.or(returns.then_some(later)), ..stopped };
        let over = over.map(until);
        if let Some(stopped) = over.filter(|_| fx.enforces(ProtocolRule::LogBudget)) {
            self.stopped.insert(author, stopped);
            fx.view_changed = true;
            fx.fact(Fact::Warning("is over its budget here; its newer entries wait", author));
            return false;
        }
        self.hold(author, charge.answer, amount);
        if trust.is_owner(&author)
            && let Some(account) = self.accounts.get_mut(&author)
        {
            account.as_owner = account.held;
        }
        if let Some(payer) = charge.payer.filter(|_| live) {
            self.charge(&payer, amount, trust, fx.now.mono_ms);
        }
        true
    }

    /// Counts an entry of our own.
    pub(crate) fn note_own(&mut self, entry: &SignedEntry, answer: bool) {
        self.hold(entry.author, answer, amount(entry));
    }

    /// Charges somebody's hour.
    pub(crate) fn charge(&mut self, payer: &PeerId, amount: Amount, trust: &Trust, now: u64) {
        let limit = self.budgets.of(trust.tier(payer)).per_hour;
        if limit != Amount::UNLIMITED {
            self.accounts.entry(*payer).or_default().charge_hour(amount, limit, now);
        }
    }

    fn hold(&mut self, author: PeerId, answer: bool, amount: Amount) {
        let account = self.accounts.entry(author).or_default();
        if answer { &mut account.held.answers } else { &mut account.held.log }.add(amount);
        if account.is_off() {
            self.unsaved.insert(author);
        }
    }

    /// An entry of so many bytes is kept beside its author's log, in place of one of so many.
    pub(crate) fn note_beside(&mut self, author: PeerId, former: usize, bytes: usize) {
        let account = self.accounts.entry(author).or_default();
        account.held.log.take(Amount { entries: 0, bytes: former as u64 });
        account.held.log.add(Amount { entries: 0, bytes: bytes as u64 });
        if account.is_off() {
            self.unsaved.insert(author);
        }
    }

    /// An entry's row is deleted, by its author's word. `me`: of ourselves we believe that it was old.
    pub(crate) fn release(&mut self, entry: &SignedEntry, me: &PeerId, trust: &Trust, fx: &Effects<'_>) {
        let amount = amount(entry);
        let Some(account) = self.accounts.get_mut(&entry.author) else { return };
        let budget = budget_of(&self.budgets, &entry.author, account.as_owner, trust);
        account.counted(&budget, self.period_ms, fx.now.mono_ms);
        let (held, returning) = if is_answer(entry) {
            (&mut account.held.answers, &mut account.returning.1)
        } else {
            (&mut account.held.log, &mut account.returning.0)
        };
        held.take(amount);
        if entry.author != *me && fx.enforces(ProtocolRule::FreedBySteps) {
            returning.add(amount, self.period_ms);
        }
        let least = |a: Amount, b: Amount| Amount { entries: a.entries.min(b.entries), bytes: a.bytes.min(b.bytes) };
        let BudgetRow { log, answers } = account.held;
        account.as_owner =
            BudgetRow { log: least(account.as_owner.log, log), answers: least(account.as_owner.answers, answers) };
    }

    /// Asks for one more call of our own, and counts it: against what this device may ask, and against the rate of whoever
    /// asks at its doors, if it has one. What is refused counts for neither.
    ///
    /// # Errors
    /// Budget that is used up, with the time after which it makes sense to ask again.
    pub(crate) fn ask(
        &mut self,
        me: &PeerId,
        asker: Option<(&Principal, &ToolName, Rate)>,
        trust: &Trust,
        now: u64,
    ) -> Result<(), Refusal> {
        let account = self.accounts.entry(*me).or_default();
        let budget = budget_of(&self.budgets, me, account.as_owner, trust);
        let refused = |over, retry_after_ms| Refusal::OverBudget { over, retry_after_ms };
        let one = Amount::one(0);
        if !account.held.log.has_room(one, budget.log) {
            return Err(refused(OverBudget::Log(budget.log), HOUR_MS));
        }
        let wait = account.hour_wait(one, budget.per_hour, 1, false, now);
        if wait > 0 {
            return Err(refused(OverBudget::PerHour(budget.per_hour.entries), wait));
        }
        let has_rate = budget.calls_per_s != u64::MAX;
        if has_rate {
            account.calls.fall(budget.calls_per_s, now);
            let wait = account.calls.until(u128::from(budget.burst.saturating_sub(1)) * 1_000, budget.calls_per_s);
            if wait > 0 {
                return Err(refused(OverBudget::Rate(budget.calls_per_s), wait));
            }
        }
        if let Some((principal, tool, rate)) = asker
            && !(has_rate && matches!(principal, Principal::Device(_)))
        {
            self.rates.ask(principal, tool, rate, now).map_err(|limited| Refusal::RateLimited(Box::new(limited)))?;
        }
        if has_rate {
            account.calls.level += 1_000;
        }
        Ok(())
    }

    /// True if our own log has room for answers to calls of others: else we begin none of them, and end none. Half of it
    /// is left for those of owners.
    pub(crate) fn may_answer(&self, me: &PeerId, by_owner: bool, trust: &Trust) -> bool {
        let account = self.accounts.get(me);
        let as_owner = account.map_or(BudgetRow::default(), |account| account.as_owner);
        let limit = budget_of(&self.budgets, me, as_owner, trust).answers;
        let half = Amount { entries: limit.entries.div_ceil(2), bytes: limit.bytes.div_ceil(2) };
        let limit = if by_owner { limit } else { half };
        let held = account.map_or(Amount::default(), |account| account.held.answers);
        held.has_room(Amount::one(limits::CALL_ENTRY_BYTES_MAX as u64), limit)
    }

    /// Lets logs go on whose time has come, or that have room again. True if there are any.
    pub(crate) fn resume(&mut self, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let now = fx.now.mono_ms;
        let before = self.stopped.len();
        self.stopped.retain(|author, stopped| {
            let account = self.accounts.entry(*author).or_default();
            let budget = budget_of(&self.budgets, author, account.as_owner, trust);
            let counted = account.counted(&budget, self.period_ms, now);
            let one = Amount::one(limits::CALL_ENTRY_BYTES_MAX as u64);
            let goes_on = match stopped.over {
                OverBudget::PerHour(_) => account.hour_wait(one, budget.per_hour, TIMES, true, now) == 0,
                OverBudget::Log(_) => counted.log.has_room(one, budget.log.times(TIMES)),
                OverBudget::Answers(_) => counted.answers.has_room(one, budget.answers.times(TIMES)),
                // Until its author says that this entry is gone.
                OverBudget::EntryBytes(_) => false,
                OverBudget::Disk => {
                    self.disk == DiskLevel::Enough || self.disk == DiskLevel::Low && trust.is_owner(author)
                }
                OverBudget::Open(_) | OverBudget::Blobs(_) | OverBudget::Keys(_) | OverBudget::Rate(_) => true,
            };
            let returns = stopped.until.is_some() || counted != account.held;
            stopped.until = stopped.until.filter(|until| *until > now);
            stopped.until = stopped.until.or(returns.then_some(now + again_ms(self.period_ms)));
            !goes_on
        });
        let resumed = self.stopped.len() < before;
        fx.view_changed |= resumed;
        resumed
    }

    /// The log of this author has stepped over what it says is gone, perhaps over the entry at which it stopped.
    pub(crate) fn note_step(&mut self, author: &PeerId) {
        if self.stopped.get(author).is_some_and(|stopped| matches!(stopped.over, OverBudget::EntryBytes(_))) {
            self.stopped.remove(author);
        }
    }

    /// When [`Self::resume`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.stopped.values().filter_map(|stopped| stopped.until).min()
    }

    /// Writes what has changed by much, in a batch that is written anyway.
    pub(crate) fn save(&mut self, fx: &mut Effects<'_>) {
        if fx.writes.is_empty() {
            return;
        }
        for author in std::mem::take(&mut self.unsaved) {
            if let Some(account) = self.accounts.get_mut(&author).filter(|account| account.is_off()) {
                account.saved = account.held;
                fx.put(rows::budget(&author), &account.held);
                if account.as_owner != BudgetRow::default() {
                    fx.put(rows::budget_as_owner(&author), &account.as_owner);
                }
            }
        }
    }

    /// Room that the log of each author takes here: entries and bytes, answers to calls of others among them.
    pub(crate) fn held(&self) -> impl Iterator<Item = (PeerId, Amount)> + '_ {
        self.accounts.iter().map(|(author, account)| {
            let mut all = account.held.log;
            all.add(account.held.answers);
            (*author, all)
        })
    }

    /// Logs that are stopped here, for people. `held`: the place of the newest entry that is held of an author.
    pub(crate) fn stopped(&self, held: impl Fn(&PeerId) -> u64, now: Now) -> Vec<StoppedLog> {
        let view = |(author, stopped): (&PeerId, &Stopped)| StoppedLog {
            peer: *author,
            at: held(author),
            over: stopped.over,
            until_ms: stopped.until.map(|until| now.wall_ms + until.saturating_sub(now.mono_ms)),
        };
        self.stopped.iter().map(view).collect()
    }
}

/// Between two looks whether enough has come back of what a truncation freed.
const fn again_ms(period_ms: u64) -> u64 {
    if period_ms < 64 * 1_000 { 1_000 } else { period_ms / 64 }
}

/// The reason for which an entry stops its author's log, if there is one.
fn over(
    account: &mut Account,
    counted: BudgetRow,
    entry: &SignedEntry,
    charge: Charge,
    live: bool,
    budget: &Budget,
    now: Now,
) -> Option<Stopped> {
    let stop = |over| Some(Stopped { over, until: None });
    let amount = amount(entry);
    let kind = entry.entry.kind;
    let bytes_max = if kind == Kind::CALL || kind == Kind::OUTCOME || kind == Kind::CANCEL {
        limits::CALL_ENTRY_BYTES_MAX
    } else if kind == Kind::CONSENT {
        limits::CONSENT_BYTES_MAX
    } else if kind == Kind::AUDIT {
        limits::AUDIT_BYTES_MAX
    } else if kind == Kind::TRUNCATION {
        limits::TRUNCATION_BYTES_MAX
    } else {
        limits::ENTRY_BYTES_MAX
    };
    if amount.bytes > bytes_max as u64 {
        return stop(OverBudget::EntryBytes(bytes_max));
    }
    let (log, answers) = (budget.log.times(TIMES), budget.answers.times(TIMES));
    if charge.answer && !counted.answers.has_room(amount, answers) {
        return stop(OverBudget::Answers(answers));
    }
    if !charge.answer && !counted.log.has_room(amount, log) {
        return stop(OverBudget::Log(log));
    }
    if !live || charge.payer != Some(entry.author) || budget.per_hour == Amount::UNLIMITED {
        return None;
    }
    if account.hour_wait(amount, budget.per_hour, TIMES, false, now.mono_ms) == 0 {
        return None;
    }
    let wait = account.hour_wait(amount, budget.per_hour, TIMES, true, now.mono_ms);
    let over = OverBudget::PerHour(budget.per_hour.times(TIMES).entries);
    Some(Stopped { over, until: Some(now.mono_ms + wait) })
}
