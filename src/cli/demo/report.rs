//! Findings of the demo: promises held or broken, times, and the ending of every call.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::cli::output::table;

/// Endings under which the tool must not have run.
const NEVER_RAN: [&str; 3] = ["expired", "denied", "undeliverable"];

/// One thing that sigil promises, and whether it was so.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    pub(super) name: &'static str,
    pub(super) held: bool,
    pub(super) detail: String,
}

/// An accepted call of the witness tool.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) id: String,
    pub(super) node: String,
    /// Word of its state when the demo looked last.
    pub(super) state: String,
    pub(super) reason: String,
}

/// Lines that each (id, attempt) left, by node.
pub(super) type Witness = BTreeMap<String, BTreeMap<(String, String), usize>>;

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) promises: Vec<Promise>,
    /// Milliseconds.
    pub(super) times: BTreeMap<&'static str, u64>,
    pub(super) calls: Vec<Made>,
    pub(super) witness: Witness,
    pub(super) peers: Vec<Value>,
    /// Cause of an early end of the story, if there was one.
    pub(super) broke_off: Option<String>,
}

impl Report {
    pub(super) fn all_held(&self) -> bool {
        self.broke_off.is_none() && !self.promises.is_empty() && self.promises.iter().all(|promise| promise.held)
    }

    /// Compares what was promised of each call with what the tools wrote.
    pub(super) fn judge_calls(&self) -> Vec<Promise> {
        let ids = |found: Vec<&str>| {
            let shown: Vec<_> = found.iter().take(3).copied().collect();
            if found.is_empty() { String::new() } else { format!(": {}", shown.join(", ")) }
        };
        let open: Vec<&str> =
            self.calls.iter().filter(|call| is_open(&call.state)).map(|call| call.id.as_str()).collect();
        let lines =
            || self.witness.iter().flat_map(|(node, ran)| ran.iter().map(move |(run, count)| (node, run, *count)));
        let twice: Vec<&str> = lines().filter(|(.., count)| *count > 1).map(|(_, (id, _), _)| id.as_str()).collect();
        let known: BTreeMap<&str, &str> =
            self.calls.iter().map(|call| (call.id.as_str(), call.node.as_str())).collect();
        let strangers: Vec<&str> = lines()
            .filter(|(node, (id, _), _)| known.get(id.as_str()) != Some(&node.as_str()))
            .map(|(_, (id, _), _)| id.as_str())
            .collect();
        let lines_of = |id: &str| lines().filter(|(_, (ran, _), _)| ran == id).map(|(.., count)| count).sum::<usize>();
        let of_state = |states: &[&str]| -> Vec<&Made> {
            self.calls.iter().filter(|call| states.contains(&call.state.as_str())).collect()
        };
        let done = of_state(&["done"]);
        let done_wrong: Vec<&str> = done.iter().map(|call| call.id.as_str()).filter(|id| lines_of(id) != 1).collect();
        let unrun = of_state(&NEVER_RAN);
        let unrun_wrong: Vec<&str> = unrun.iter().map(|call| call.id.as_str()).filter(|id| lines_of(id) != 0).collect();
        let promise = |name, held, detail| Promise { name, held, detail };
        vec![
            promise(
                "every accepted call has an ending",
                open.is_empty() && !self.calls.is_empty(),
                format!("{} accepted, {} still open{}", self.calls.len(), open.len(), ids(open)),
            ),
            promise("no (id, attempt) ran twice", twice.is_empty(), format!("{} ran twice{}", twice.len(), ids(twice))),
            promise(
                "every call that is done left exactly one line",
                done_wrong.is_empty(),
                format!(
                    "{} done, {} of them without exactly one line{}",
                    done.len(),
                    done_wrong.len(),
                    ids(done_wrong)
                ),
            ),
            promise(
                "no line without a call to that device",
                strangers.is_empty(),
                format!("{} such lines{}", strangers.len(), ids(strangers)),
            ),
            promise(
                "a call reported as not run left no line",
                unrun_wrong.is_empty(),
                format!("{} not run, {} of them with a line{}", unrun.len(), unrun_wrong.len(), ids(unrun_wrong)),
            ),
        ]
    }

    /// Calls by node and ending, beside the lines in that node's file.
    pub(super) fn calls_table(&self) -> String {
        let states: BTreeSet<&str> = self.calls.iter().map(|call| call.state.as_str()).collect();
        let mut heads = vec!["NODE", "CALLS"];
        heads.extend(&states);
        heads.push("LINES IN ITS FILE");
        let mut nodes: Vec<&str> = self.witness.keys().map(String::as_str).collect();
        for call in &self.calls {
            if !nodes.contains(&call.node.as_str()) {
                nodes.push(&call.node);
            }
        }
        let row = |name: &str, counts: &dyn Fn(&Made) -> bool, lines: usize| {
            let of: Vec<&Made> = self.calls.iter().filter(|call| counts(call)).collect();
            let mut row = vec![name.to_owned(), of.len().to_string()];
            row.extend(states.iter().map(|state| of.iter().filter(|call| call.state == **state).count().to_string()));
            row.push(lines.to_string());
            row
        };
        let lines_at = |node: &str| self.witness.get(node).map_or(0, |ran| ran.values().sum());
        let mut rows: Vec<_> = nodes.iter().map(|node| row(node, &|call| call.node == *node, lines_at(node))).collect();
        rows.push(row("all", &|_| true, nodes.iter().map(|node| lines_at(node)).sum()));
        table(&heads, &rows)
    }

    pub(super) fn to_json(&self, elapsed_ms: u64) -> Value {
        let mut endings: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &self.calls {
            *endings.entry(&call.state).or_default() += 1;
        }
        let calls: Vec<_> = self
            .calls
            .iter()
            .map(|call| json!({ "id": call.id, "node": call.node, "state": call.state, "reason": call.reason }))
            .collect();
        let promises: Vec<_> = self
            .promises
            .iter()
            .map(|promise| json!({ "promise": promise.name, "held": promise.held, "detail": promise.detail }))
            .collect();
        let lines: BTreeMap<_, usize> = self.witness.iter().map(|(node, ran)| (node, ran.values().sum())).collect();
        json!({
            "held": self.all_held(), "broke_off": self.broke_off, "promises": promises, "times_ms": self.times,
            "peers": self.peers, "endings": endings, "lines": lines, "calls": calls, "elapsed_ms": elapsed_ms,
        })
    }
}

/// True if a state is not an ending.
pub(super) fn is_open(state: &str) -> bool {
    matches!(state, "accepted" | "asking" | "queued" | "dispatched" | "running")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(id: &str, node: &str, state: &str) -> Made {
        Made { id: id.into(), node: node.into(), state: state.into(), reason: String::new() }
    }

    fn honest() -> Report {
        let ran = |runs: &[(&str, &str)]| {
            runs.iter().map(|(id, attempt)| ((id.to_string(), attempt.to_string()), 1)).collect()
        };
        Report {
            calls: vec![
                made("1", "a", "done"),
                made("2", "a", "expired"),
                made("3", "b", "interrupted"),
                made("4", "b", "done"),
            ],
            witness: Witness::from([("a".into(), ran(&[("1", "1")])), ("b".into(), ran(&[("3", "1"), ("4", "1")]))]),
            ..Report::default()
        }
    }

    fn broken(report: &Report) -> Vec<&'static str> {
        report.judge_calls().into_iter().filter(|promise| !promise.held).map(|promise| promise.name).collect()
    }

    #[test]
    fn an_honest_run_holds() {
        let mut report = honest();
        assert!(broken(&report).is_empty(), "{:?}", broken(&report));
        assert!(!report.all_held(), "nothing promised is not everything held");
        report.promises = report.judge_calls();
        assert!(report.all_held());
    }

    #[test]
    fn every_lie_is_found() {
        type Lie = (&'static str, fn(&mut Report));
        let lies: [Lie; 6] = [
            ("every accepted call has an ending", |report| report.calls[3].state = "running".into()),
            ("no (id, attempt) ran twice", |report| {
                *report.witness.get_mut("b").unwrap().values_mut().next().unwrap() = 2;
            }),
            ("every call that is done left exactly one line", |report| report.witness.get_mut("a").unwrap().clear()),
            ("every call that is done left exactly one line", |report| {
                report.witness.get_mut("a").unwrap().insert(("1".into(), "2".into()), 1);
            }),
            ("no line without a call to that device", |report| {
                report.witness.get_mut("a").unwrap().insert(("3".into(), "1".into()), 1);
            }),
            ("a call reported as not run left no line", |report| {
                report.witness.get_mut("a").unwrap().insert(("2".into(), "1".into()), 1);
            }),
        ];
        for (promise, lie) in lies {
            let mut report = honest();
            lie(&mut report);
            assert_eq!(broken(&report), [promise]);
        }
        assert_eq!(broken(&Report::default()), ["every accepted call has an ending"], "no calls prove nothing");
    }

    #[test]
    fn the_table_sets_calls_beside_lines() {
        assert_eq!(
            honest().calls_table(),
            "NODE  CALLS  done  expired  interrupted  LINES IN ITS FILE\na     2      1     1        0            1\nb     2      1     0        1            2\nall   4      2     1        1            3"
        );
    }
}
