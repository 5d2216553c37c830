//! Spending: what every author has used up of its budget, and whose log has stopped here for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::audience::Audience;
use crate::budget::{Amount, Budget, Budgets, OverBudget, TIMES};
use crate::effects::Effects;
use crate::entry::{Kind, SignedEntry};
use crate::ids::{PeerId, ReqId};
use crate::io::{Fact, Now, StoppedLog};
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::record::Tier;
use crate::rows::{self, BudgetRow, Row as _};
use crate::trust::Trust;

const HOUR_MS: u64 = 3_600_000;
/// An account's row is written when it is off by so much: a crash forgets no more than that.
const SAVE_AFTER: Amount = Amount { entries: 32, bytes: 32 * 1024 };
/// Endings and cancel requests of one call that are charged to its origin; more of them are their author's own doing.
const ANSWERS_CHARGED_MAX: usize = 8;

/// The budget of a peer. Who was an owner once has written more than others may, so its log is not held to less.
fn budget_of(budgets: &Budgets, peer: &PeerId, trust: &Trust) -> Budget {
    let tier = trust.tier(peer);
    let budget = *budgets.of(tier);
    if tier != Some(Tier::Owner) && trust.was_owner(peer) {
        let Budget { log, answers, .. } = budgets.owner;
        return Budget { log, answers, ..budget };
    }
    budget
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

/// What one author has filled here.
#[derive(Debug, Clone, Default)]
struct Account {
    held: BudgetRow,
    saved: BudgetRow,
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
    /// Whose hour it is part of: the author's, or that of the origin whose call it answers.
    pub(crate) payer: PeerId,
    /// True if it answers a call of somebody else than its author.
    pub(crate) answer: bool,
}

/// What an entry takes: its envelope and its body, also where that is withheld, so that everyone counts the same.
pub(crate) fn amount(entry: &SignedEntry) -> Amount {
    Amount::one(entry.bytes.len() as u64 + u64::from(entry.entry.body.len))
}

/// True if an entry is about a call of somebody else than its author, as its envelope says.
pub(crate) fn is_answer(entry: &SignedEntry) -> bool {
    let about_call = entry.entry.kind == Kind::OUTCOME || entry.entry.kind == Kind::CANCEL;
    match entry.entry.audience {
        Audience::Call { origin, .. } => about_call && origin != entry.author,
        Audience::Everyone | Audience::Unknown(_) => false,
    }
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

/// All accounts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spending {
    budgets: Budgets,
    accounts: BTreeMap<PeerId, Account>,
    /// Authors whose logs are stopped: every step asks, and mostly there is none.
    stopped: BTreeMap<PeerId, Stopped>,
    /// Authors whose rows are off by much.
    unsaved: BTreeSet<PeerId>,
}

impl Spending {
    pub(crate) fn new(budgets: Budgets) -> Self {
        Self { budgets, accounts: BTreeMap::new(), stopped: BTreeMap::new(), unsaved: BTreeSet::new() }
    }

    /// Takes back a row of [`crate::io::Space::Meta`]; others are none of its business.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) {
        if let Some(author) = rows::budget_of(key)
            && let Some(row) = BudgetRow::from_bytes(value)
        {
            self.accounts.insert(author, Account { held: row, saved: row, ..Account::default() });
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
        let budget = budget_of(&self.budgets, &author, trust);
        if self.is_stopped(&author) {
            return false;
        }
        let account = self.accounts.entry(author).or_default();
        let live = entry.entry.hlc >> 16 >= fx.now.wall_ms.saturating_sub(HOUR_MS);
        let over = over(account, entry, charge, live, &budget, fx.now);
        if let Some(stopped) = over.filter(|_| fx.enforces(ProtocolRule::LogBudget)) {
            self.stopped.insert(author, stopped);
            fx.view_changed = true;
            fx.fact(Fact::Warning("is over its budget here; its newer entries wait", author));
            return false;
        }
        self.hold(author, charge.answer, amount);
        if live {
            self.charge(&charge.payer, amount, trust, fx.now.mono_ms);
        }
        true
    }

    /// Counts an entry of our own.
    pub(crate) fn note_own(&mut self, entry: &SignedEntry, answer: bool) {
        self.hold(entry.author, answer, amount(entry));
    }

    /// Charges somebody's hour.
    pub(crate) fn charge(&mut self, payer: &PeerId, amount: Amount, trust: &Trust, now: u64) {
        let limit = budget_of(&self.budgets, payer, trust).per_hour;
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

    /// An entry's row is deleted.
    pub(crate) fn release(&mut self, entry: &SignedEntry) {
        let amount = amount(entry);
        if let Some(account) = self.accounts.get_mut(&entry.author) {
            let answer = is_answer(entry);
            if answer { &mut account.held.answers } else { &mut account.held.log }.take(amount);
            if account.is_off() {
                self.unsaved.insert(entry.author);
            }
        }
    }

    /// Asks for one more call of our own, and counts it.
    ///
    /// # Errors
    /// The budget that is used up, with the milliseconds after which it makes sense to ask again.
    pub(crate) fn ask(&mut self, me: &PeerId, trust: &Trust, now: u64) -> Result<(), (OverBudget, u64)> {
        let budget = budget_of(&self.budgets, me, trust);
        let account = self.accounts.entry(*me).or_default();
        let one = Amount::one(0);
        if !account.held.log.has_room(one, budget.log) {
            return Err((OverBudget::Log(budget.log), HOUR_MS));
        }
        let wait = account.hour_wait(one, budget.per_hour, 1, false, now);
        if wait > 0 {
            return Err((OverBudget::PerHour(budget.per_hour.entries), wait));
        }
        if budget.calls_per_s == u64::MAX {
            return Ok(());
        }
        account.calls.fall(budget.calls_per_s, now);
        let wait = account.calls.until(u128::from(budget.burst.saturating_sub(1)) * 1_000, budget.calls_per_s);
        if wait > 0 {
            return Err((OverBudget::Rate(budget.calls_per_s), wait));
        }
        account.calls.level += 1_000;
        Ok(())
    }

    /// True if our own log has room for answers to calls of others: else we begin none of them.
    pub(crate) fn may_answer(&self, me: &PeerId, trust: &Trust) -> bool {
        let limit = budget_of(&self.budgets, me, trust).answers;
        let held = self.accounts.get(me).map_or(Amount::default(), |account| account.held.answers);
        held.has_room(Amount::one(limits::CALL_ENTRY_BYTES_MAX as u64), limit)
    }

    /// Lets logs go on whose time has come, or that have room again. True if there are any.
    pub(crate) fn resume(&mut self, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let now = fx.now.mono_ms;
        let before = self.stopped.len();
        self.stopped.retain(|author, stopped| {
            let budget = budget_of(&self.budgets, author, trust);
            let account = self.accounts.entry(*author).or_default();
            let one = Amount::one(limits::CALL_ENTRY_BYTES_MAX as u64);
            let goes_on = match stopped.over {
                OverBudget::PerHour(_) => account.hour_wait(one, budget.per_hour, TIMES, true, now) == 0,
                OverBudget::Log(_) => account.held.log.has_room(one, budget.log.times(TIMES)),
                OverBudget::Answers(_) => account.held.answers.has_room(one, budget.answers.times(TIMES)),
                // Until its author says that this entry is gone.
                OverBudget::EntryBytes(_) => false,
                OverBudget::Open(_) | OverBudget::Blobs(_) | OverBudget::Keys(_) | OverBudget::Rate(_) => true,
            };
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
            }
        }
    }

    /// What the log of each author takes here: entries and bytes, answers to calls of others among them.
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

/// The reason for which an entry stops its author's log, if there is one.
fn over(
    account: &mut Account,
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
    } else {
        limits::ENTRY_BYTES_MAX
    };
    if amount.bytes > bytes_max as u64 {
        return stop(OverBudget::EntryBytes(bytes_max));
    }
    let (log, answers) = (budget.log.times(TIMES), budget.answers.times(TIMES));
    if charge.answer && !account.held.answers.has_room(amount, answers) {
        return stop(OverBudget::Answers(answers));
    }
    if !charge.answer && !account.held.log.has_room(amount, log) {
        return stop(OverBudget::Log(log));
    }
    if !live || charge.payer != entry.author || budget.per_hour == Amount::UNLIMITED {
        return None;
    }
    if account.hour_wait(amount, budget.per_hour, TIMES, false, now.mono_ms) == 0 {
        return None;
    }
    let wait = account.hour_wait(amount, budget.per_hour, TIMES, true, now.mono_ms);
    let over = OverBudget::PerHour(budget.per_hour.times(TIMES).entries);
    Some(Stopped { over, until: Some(now.mono_ms + wait) })
}
