//! The promises, read from outside: doors, witness files and logs. Names as in `docs/protocol.md`, Invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::Value;

use super::clock::{pause, wait_for};
use super::fail::{Fail, broken};
use super::http::text;
use super::load::Made;
use super::peer::START_LINE;
use super::stage::Stage;

const ENDINGS: [&str; 7] = ["done", "failed", "interrupted", "expired", "cancelled", "denied", "undeliverable"];

/// accepted-calls-end: time after the last fault within which every accepted call has its ending at its origin, with
/// room for a machine that is busy with other things.
const ENDED_WITHIN: Duration = Duration::from_secs(30 + 5);
/// books-and-logs-agree: two rounds of anti-entropy.
const SAME_WITHIN: Duration = Duration::from_secs(60 + 5);
/// Time after its agent ended in which a tool may still write its line; none of ours takes longer.
const STRAGGLERS: Duration = Duration::from_millis(300);

/// True if a state is an ending.
pub(super) fn is_ending(state: &str) -> bool {
    ENDINGS.contains(&state)
}

/// Calls as one peer tells them, by id.
type Told = BTreeMap<String, Value>;

/// At which peers each (id, attempt) ran, by index.
type Runs = BTreeMap<(String, u8), Vec<usize>>;

impl Stage<'_> {
    /// Checks everything that must hold when the play is over.
    pub(super) fn judge(&mut self) -> Result<(), Fail> {
        let made = self.book.lock().unwrap_or_else(PoisonError::into_inner).made.clone();
        let members = self.members();
        let told = self.all_ended(&made, &members)?;
        for call in told.values() {
            let unconfirmed = if call["confirmed"] == true { "" } else { " (unconfirmed)" };
            *self.measured.endings.entry(format!("{}{unconfirmed}", text(call, "state"))).or_default() += 1;
        }
        self.all_agree(&made, &members)?;
        pause(STRAGGLERS)?;
        let mut runs = Runs::new();
        for (index, peer) in self.peers.iter().enumerate() {
            for run in peer.witness() {
                runs.entry(run).or_default().push(index);
            }
        }
        ran_once(&runs)?;
        for call in &made {
            let knows = members.contains(&call.target) && !self.rolled_back.contains(&call.target);
            told_truly(call, told.get(&call.id), &runs, knows)?;
        }
        for (index, peer) in self.peers.iter_mut().enumerate() {
            epochs_led(&peer.spec.name, &peer.log(), self.rolled_back.contains(&index))?;
            if let Some(status) = peer.exited()
                && !self.silent.contains(&index)
            {
                return Err(broken("fail-stop", format!("{} ended by itself with {status}", peer.spec.name)));
            }
            if peer.log().contains("panicked at") {
                return Err(broken("no panics", format!("{} panicked", peer.spec.name)));
            }
        }
        Ok(())
    }

    fn told_by(&self, peer: usize) -> Result<Told, Fail> {
        Ok(self.peers[peer].calls()?.into_iter().map(|call| (text(&call, "id").to_owned(), call)).collect())
    }

    /// accepted-calls-end: every accepted call has an ending at its origin. Calls of origins that are gone have nobody
    /// to tell.
    fn all_ended(&mut self, made: &[Made], members: &[usize]) -> Result<Told, Fail> {
        let mine: Vec<&Made> = made.iter().filter(|call| members.contains(&call.origin)).collect();
        let mut told = Told::new();
        let mut open = Vec::new();
        let within = ENDED_WITHIN.saturating_sub(self.quiet_for()).max(Duration::from_secs(1));
        let ended = wait_for(within, || {
            told.clear();
            for origin in members {
                let calls = match self.told_by(*origin) {
                    Ok(calls) => calls,
                    Err(why) => return Some(Err(why)),
                };
                let asked_here = |id: &str| mine.iter().any(|call| call.id == id && call.origin == *origin);
                told.extend(calls.into_iter().filter(|(id, _)| asked_here(id)));
            }
            open = without_ending(&mine, &told);
            open.is_empty().then_some(Ok(()))
        })?;
        match ended {
            Some(Ok(())) => {}
            Some(Err(why)) => return Err(why),
            None => {
                let first =
                    told.get(open[0]).map_or_else(|| format!("{} is not known there", open[0]), Value::to_string);
                return Err(broken(
                    "accepted-calls-end",
                    format!("{} of {} calls have no ending, the first: {first}", open.len(), mine.len()),
                ));
            }
        }
        self.measured.ended = Some(self.quiet_for());
        Ok(told)
    }

    /// outcome-never-changes and books-and-logs-agree: all owners tell the same ending of every call, and of every
    /// attempt.
    fn all_agree(&self, made: &[Made], members: &[usize]) -> Result<(), Fail> {
        let owners: Vec<usize> =
            members.iter().copied().filter(|peer| self.peers[*peer].spec.tier == "owner").collect();
        let ids: BTreeSet<&str> =
            made.iter().filter(|call| members.contains(&call.origin)).map(|call| call.id.as_str()).collect();
        let mut apart = None;
        let same = wait_for(SAME_WITHIN, || {
            let books: Result<Vec<_>, Fail> =
                owners.iter().map(|peer| Ok((self.peers[*peer].spec.name.as_str(), self.told_by(*peer)?))).collect();
            let books = match books {
                Ok(books) => books,
                Err(why) => return Some(Err(why)),
            };
            if let Err(why) = books.iter().try_for_each(|(name, told)| endings_stay(name, told, &ids)) {
                return Some(Err(why));
            }
            apart = difference(&books, &ids);
            apart.is_none().then_some(Ok(()))
        })?;
        same.unwrap_or_else(|| Err(broken("books-and-logs-agree", apart.unwrap_or_default())))
    }
}

fn without_ending<'a>(made: &[&'a Made], told: &Told) -> Vec<&'a str> {
    let is_open = |call: &&&Made| told.get(&call.id).is_none_or(|call| !is_ending(text(call, "state")));
    made.iter().filter(is_open).map(|call| call.id.as_str()).collect()
}

/// The first call that two peers tell differently.
fn difference(books: &[(&str, Told)], ids: &BTreeSet<&str>) -> Option<String> {
    let ((first, reference), others) = books.split_first()?;
    let state = |told: &Told, id: &str| told.get(id).map(|call| text(call, "state").to_owned());
    let apart = |id: &&str| {
        let word = state(reference, id);
        let (name, told) = others.iter().find(|(_, told)| state(told, id) != word)?;
        Some(format!("{first} tells {word:?} of {id}, {name} tells {:?}", state(told, id)))
    };
    ids.iter().find_map(apart)
}

/// outcome-never-changes: of an attempt only one confirmed ending is ever told.
fn endings_stay(name: &str, told: &Told, ids: &BTreeSet<&str>) -> Result<(), Fail> {
    for (id, call) in told.iter().filter(|(id, _)| ids.contains(id.as_str())) {
        let mut endings: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for row in call["history"].as_array().into_iter().flatten() {
            if row["confirmed"] == true && is_ending(text(row, "state")) {
                endings.entry(row["attempt"].as_u64().unwrap_or_default()).or_default().insert(text(row, "state"));
            }
        }
        if let Some((attempt, states)) = endings.iter().find(|(_, states)| states.len() > 1) {
            return Err(broken(
                "outcome-never-changes",
                format!("attempt {attempt} of {id} ended {states:?} at {name}: {call}"),
            ));
        }
    }
    Ok(())
}

/// at-most-one-run: no attempt runs twice, over all peers.
fn ran_once(runs: &Runs) -> Result<(), Fail> {
    match runs.iter().find(|(_, at)| at.len() > 1) {
        Some(((id, attempt), at)) => {
            Err(broken("at-most-one-run", format!("attempt {attempt} of {id} ran at the peers {at:?}")))
        }
        None => Ok(()),
    }
}

/// endings-are-true and outcome-never-changes: the witness files bear out what the origin tells of a call, and it ran
/// nowhere but at its target.
fn told_truly(call: &Made, told: Option<&Value>, runs: &Runs, target_knows: bool) -> Result<(), Fail> {
    let of_call = (call.id.clone(), 0)..=(call.id.clone(), u8::MAX);
    let ran: Vec<(u8, usize)> = runs.range(of_call).map(|((_, attempt), at)| (*attempt, at[0])).collect();
    if let Some((_, at)) = ran.iter().find(|(_, at)| *at != call.target) {
        return Err(broken(
            "endings-are-true, right target",
            format!("{} was for peer {}, and ran at peer {at}", call.id, call.target),
        ));
    }
    let Some(told) = told else { return Ok(()) };
    if told.get("alias_of").is_some_and(Value::is_string) {
        return if ran.is_empty() {
            Ok(())
        } else {
            Err(broken("at-most-one-run, one key is one call", format!("an alias ran: {told}")))
        };
    }
    let last = told["attempt"].as_u64().unwrap_or_default();
    match (text(told, "state"), told["confirmed"] == true) {
        ("done" | "failed", _) if !ran.iter().any(|(attempt, _)| u64::from(*attempt) == last) => {
            Err(broken("endings-are-true", format!("told, but never ran: {told}")))
        }
        ("expired" | "cancelled" | "denied", true) if !ran.is_empty() => {
            Err(broken("endings-are-true", format!("ran {} times: {told}", ran.len())))
        }
        // The target is there, has had time to say what it did, and was not rolled back to a state before that.
        ("expired" | "cancelled" | "denied" | "undeliverable", false) if !ran.is_empty() && target_knows => {
            Err(broken("outcome-never-changes", format!("ran {} times, and was never put right: {told}", ran.len())))
        }
        _ => Ok(()),
    }
}

/// one-leader-per-epoch and obeyed-epochs-rise, from a peer's log: an epoch is of one incarnation, and nobody ever goes
/// back to an older one, but one whose home was rolled back, when it starts.
fn epochs_led(name: &str, log: &str, rolled_back: bool) -> Result<(), Fail> {
    let mut led: BTreeMap<u64, usize> = BTreeMap::new();
    let (mut boot, mut highest) = (0, 0);
    for line in log.lines() {
        if line == START_LINE {
            boot += 1;
            highest = if rolled_back { 0 } else { highest };
        }
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let fields = &event["fields"];
        let epoch = fields["epoch"].as_u64().unwrap_or_default();
        match text(fields, "message") {
            // Another mesh counts its own epochs.
            "joined a mesh" => {
                highest = 0;
                led.clear();
            }
            "gateway changed" if epoch > 0 => {
                if epoch < highest {
                    return Err(broken(
                        "obeyed-epochs-rise",
                        format!("{name} went back from epoch {highest} to {epoch}"),
                    ));
                }
                highest = epoch;
                if fields["leads"] == true && *led.entry(epoch).or_insert(boot) != boot {
                    return Err(broken(
                        "one-leader-per-epoch",
                        format!("{name} led epoch {epoch} in two incarnations"),
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn promise(result: Result<(), Fail>) -> &'static str {
        match result {
            Ok(()) => "kept",
            Err(Fail::Broken { promise, .. }) => promise,
            Err(other) => panic!("{other}"),
        }
    }

    fn runs(of: &[(&str, u8, usize)]) -> Runs {
        let mut runs = Runs::new();
        for (id, attempt, at) in of {
            runs.entry(((*id).to_owned(), *attempt)).or_default().push(*at);
        }
        runs
    }

    #[test]
    fn an_attempt_that_ran_twice_is_found() {
        assert_eq!(promise(ran_once(&runs(&[("a", 1, 0), ("a", 2, 0), ("b", 1, 1)]))), "kept");
        assert_eq!(promise(ran_once(&runs(&[("a", 1, 0), ("a", 1, 0)]))), "at-most-one-run");
        assert_eq!(promise(ran_once(&runs(&[("a", 1, 0), ("a", 1, 2)]))), "at-most-one-run");
    }

    #[test]
    fn endings_are_held_against_the_witness() {
        let call = Made { id: "a".to_owned(), origin: 0, target: 1 };
        let check = |state: &str, confirmed: bool, ran: &[(&str, u8, usize)], there: bool| {
            let told = json!({ "id": "a", "state": state, "confirmed": confirmed, "attempt": 1 });
            promise(told_truly(&call, Some(&told), &runs(ran), there))
        };
        let once = &[("a", 1, 1)][..];
        assert_eq!(check("done", true, once, true), "kept");
        assert_eq!(check("done", true, &[], true), "endings-are-true");
        assert_eq!(check("done", true, &[("b", 1, 1)], true), "endings-are-true", "another call ran");
        assert_eq!(check("done", true, &[("a", 1, 2)], true), "endings-are-true, right target");
        for state in ["expired", "cancelled", "denied"] {
            assert_eq!(check(state, true, &[], true), "kept");
            assert_eq!(check(state, true, once, true), "endings-are-true", "{state}");
            assert_eq!(check(state, false, once, true), "outcome-never-changes", "{state}");
            assert_eq!(check(state, false, once, false), "kept", "its target has not reported yet");
        }
        assert_eq!(check("interrupted", true, once, true), "kept");
        assert_eq!(check("interrupted", true, &[], true), "kept", "may or may not have happened");
    }

    #[test]
    fn calls_without_an_ending_and_unknown_ones_are_found() {
        let made = ["a", "b", "c"].map(|id| Made { id: id.to_owned(), origin: 0, target: 1 });
        let told = Told::from([("a".into(), json!({ "state": "done" })), ("b".into(), json!({ "state": "running" }))]);
        assert_eq!(without_ending(&made.each_ref(), &told), ["b", "c"]);
    }

    #[test]
    fn books_that_differ_are_found() {
        let book = |state: &str| Told::from([("a".to_owned(), json!({ "state": state }))]);
        let ids = BTreeSet::from(["a"]);
        assert_eq!(difference(&[("one", book("done")), ("two", book("done"))], &ids), None);
        assert!(difference(&[("one", book("done")), ("two", book("expired"))], &ids).is_some());
        assert!(difference(&[("one", book("done")), ("two", Told::new())], &ids).is_some());
    }

    #[test]
    fn a_confirmed_ending_that_changes_is_found() {
        let told = |rows: Value| Told::from([("a".to_owned(), json!({ "history": rows }))]);
        let row = |state: &str, attempt: u8, confirmed: bool| json!({ "state": state, "attempt": attempt, "confirmed": confirmed });
        let check = |rows: &[Value]| promise(endings_stay("one", &told(json!(rows)), &BTreeSet::from(["a"])));
        assert_eq!(check(&[row("expired", 1, false), row("done", 1, true)]), "kept");
        assert_eq!(check(&[row("interrupted", 1, true), row("done", 2, true)]), "kept");
        assert_eq!(check(&[row("interrupted", 1, true), row("done", 1, true)]), "outcome-never-changes");
    }

    #[test]
    fn epochs_are_of_one_boot_and_never_older() {
        let event = |message: &str, epoch: u64, leads: bool| {
            json!({ "fields": { "message": message, "epoch": epoch, "leads": leads } }).to_string()
        };
        let check = |lines: &[String]| promise(epochs_led("one", &lines.join("\n"), false));
        let (start, changed) = (START_LINE.to_owned(), |epoch, leads| event("gateway changed", epoch, leads));
        assert_eq!(
            check(&[start.clone(), changed(1, true), changed(0, false), changed(2, false), changed(3, true)]),
            "kept"
        );
        assert_eq!(check(&[start.clone(), changed(3, false), changed(2, false)]), "obeyed-epochs-rise");
        assert_eq!(check(&[start.clone(), changed(3, true), start.clone(), changed(3, true)]), "one-leader-per-epoch");
        assert_eq!(check(&[start.clone(), changed(3, true), start.clone(), changed(3, false)]), "kept");
        assert_eq!(
            check(&[start.clone(), changed(3, true), event("joined a mesh", 0, false), changed(1, false)]),
            "kept"
        );
    }
}
