//! Providers that start, fail, are lost, and are replaced while they run.

use super::*;
use crate::node::catalogue::Origin;
use crate::node::provider::{Provider, State};
use crate::node::testing::Fake;
use std::collections::BTreeSet;

impl Bench {
    /// Puts one provider in force in place of all.
    fn put(&self, provider: Arc<dyn Provider>) {
        self.host.put_in_force(vec![Member { origin: Origin::Builtin, provider }], Vec::new());
    }

    /// Takes new settings, as a reload does.
    fn reload(&mut self, text: &str) {
        let text = text.replace("DIR", self.dir.path().to_str().unwrap());
        std::fs::write(self.dir.path().join("sigil.toml"), text).unwrap();
        let config = config::load(self.dir.path(), &Overrides::default()).unwrap().0;
        self.declared = self.declared.renewed(&config).unwrap();
        self.host.put_in_force(self.declared.members(), config.node.deny.clone());
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(file)).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

fn starting() -> State {
    State::Starting { step: "pulling the image".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_ten_seconds_for_its_provider_and_then_says_what_that_was_at() {
    let mut bench = bench("");
    let fake = Arc::new(Fake::new(&["lamp"]));
    fake.be(starting());
    bench.put(fake.clone());
    for (timeout_ms, waited) in [(0, "10s"), (60_000, "10s"), (3_000, "3s")] {
        let began = Instant::now();
        bench.host.invoke(invocation(1, "lamp", timeout_ms, Payload::empty()));
        let (_, _, outcome) = bench.end().await;
        assert_eq!(outcome.ending, Ending::Failed);
        let told = format!("`lamp` did not start within {waited}: it is starting: pulling the image");
        assert_eq!((outcome.reason, format!("{}s", began.elapsed().as_secs())), (told, waited.to_owned()));
    }
    fake.be(State::Unhealthy { why: "exit code 7".to_owned() });
    let outcome = bench.call("lamp", b"").await;
    assert!(outcome.reason.ends_with("10s: it does not work now: exit code 7"), "{}", outcome.reason);
    assert_eq!(bench.call("lamp", b"{").await.ending, Ending::Failed, "what is wrong does not wait");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_runs_once_its_provider_can_and_may_be_cancelled() {
    let mut bench = bench("");
    let fake = Arc::new(Fake::new(&["lamp"]));
    fake.be(starting());
    bench.put(fake.clone());
    bench.host.invoke(invocation(1, "lamp", 0, Payload::empty()));
    bench.host.invoke(invocation(2, "lamp", 0, Payload::empty()));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(bench.inputs.try_recv().is_err() && bench.running() == 2, "both wait");
    bench.host.kill(invocation(2, "lamp", 0, Payload::empty()).id, 1);
    let (id, _, outcome) = bench.end().await;
    assert_eq!((id, outcome.ending), (invocation(2, "lamp", 0, Payload::empty()).id, Ending::Cancelled));
    fake.be(State::Ready);
    let (_, _, outcome) = bench.end().await;
    assert_eq!((outcome.ending, outcome.output), (Ending::Done, Payload::Inline(Bytes::from("lamp"))));

    // Its provider comes up without the tool: then there is none.
    fake.be(starting());
    bench.host.invoke(invocation(3, "lamp", 0, Payload::empty()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    fake.offer(&["other"]);
    let (_, _, outcome) = bench.end().await;
    assert!(outcome.ending == Ending::Denied && outcome.reason.contains("offers no tool"), "{outcome:?}");
}

#[tokio::test]
async fn each_end_of_a_run_has_its_ending() {
    let mut bench = bench("");
    let why = || "why".to_owned();
    for (end, ending, output) in [
        (RunEnd::Done, Ending::Done, "lamp"),
        (RunEnd::Failed(why()), Ending::Failed, "lamp"),
        (RunEnd::Denied(why()), Ending::Denied, ""),
        (RunEnd::Limit(why()), Ending::Failed, "lamp"),
        (RunEnd::Cancelled(why()), Ending::Cancelled, "lamp"),
        (RunEnd::Lost(why()), Ending::Interrupted, ""),
        (RunEnd::NotStarted(why()), Ending::Failed, ""),
    ] {
        bench.put(Arc::new(Fake::new(&["lamp"]).ending(end.clone())));
        let outcome = bench.call("lamp", b"").await;
        let reason = if end == RunEnd::Done { "" } else { "why" };
        assert_eq!((outcome.ending, outcome.reason.as_str()), (ending, reason));
        assert_eq!(outcome.output, Payload::Inline(Bytes::from(output)), "{end:?}");
        assert_eq!(outcome.partial, matches!(end, RunEnd::Limit(_) | RunEnd::Cancelled(_)), "{end:?}");
    }
}

#[tokio::test]
async fn arguments_that_do_not_fit_their_schema_are_told_and_nothing_runs() {
    let mut bench = bench("");
    let schema = serde_json::json!({ "properties": { "quality": { "type": "integer", "maximum": 100 } } });
    let schema = Arc::new(crate::node::schema::InputSchema::compile(&schema).unwrap());
    let fake = Arc::new(Fake::new(&[]));
    fake.offer_as("lamp", crate::node::provider::Offer { input: Some(schema), ..crate::node::testing::offer() });
    bench.put(fake);
    assert_eq!(bench.call("lamp", br#"{"quality":100}"#).await.ending, Ending::Done);
    let outcome = bench.call("lamp", br#"{"quality":120}"#).await;
    let reason = "invalid_argument: /quality: 120 is greater than the maximum of 100";
    assert_eq!((outcome.ending, outcome.reason.as_str()), (Ending::Denied, reason));
    assert_eq!(outcome.output, Payload::empty());
}

#[tokio::test]
async fn a_tool_in_review_is_offered_and_not_run() {
    let mut bench = bench("");
    let fake = Arc::new(Fake::new(&[]));
    fake.offer_as("lamp", crate::node::provider::Offer { in_review: true, ..crate::node::testing::offer() });
    bench.put(fake);
    assert_eq!(bench.host.catalogue().borrow().decls()[0].state, mesh_core::record::Fitness::REVIEW);
    let outcome = bench.call("lamp", b"").await;
    assert!(outcome.ending == Ending::Denied && outcome.reason.contains("sigil pending"), "{outcome:?}");
}

#[tokio::test]
async fn what_a_provider_offers_by_itself_is_in_the_catalogue() {
    let bench = bench("");
    let fake = Arc::new(Fake::new(&["lamp"]));
    bench.put(fake.clone());
    let mut catalogue = bench.host.catalogue();
    fake.offer(&["lamp", "door"]);
    let both = |catalogue: &Arc<Catalogue>| catalogue.decls().len() == 2;
    tokio::time::timeout(Duration::from_secs(10), catalogue.wait_for(both)).await.expect("in time").unwrap();
}

fn version(n: usize) -> String {
    // The gate is open unless a test has closed it.
    let script = format!(
        "echo $SIGIL_REQUEST_ID {n} >> DIR/began; while [ -e DIR/closed ]; do sleep 0.01; done; \
         echo $SIGIL_REQUEST_ID {n} >> DIR/ended; printf {n}"
    );
    format!("[tools.tool]\ncommand = 'sh'\nargs = ['-c', '''{script}''']\n[tools.other]\ncommand = 'true'\n")
}

#[tokio::test]
async fn what_runs_ends_in_its_version_and_the_next_call_runs_in_the_new_one() {
    let mut bench = bench(&version(1));
    let closed = bench.dir.path().join("closed");
    std::fs::write(&closed, "").unwrap();
    let old: Vec<_> = bench.declared.members().iter().map(|member| Arc::downgrade(&member.provider)).collect();
    bench.host.invoke(invocation(1, "tool", 0, Payload::empty()));
    let began = async {
        while bench.lines("began").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), began).await.expect("it runs");
    bench.reload(&version(2));
    bench.host.invoke(invocation(2, "tool", 0, Payload::empty()));
    while bench.lines("began").len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(old.iter().filter(|old| old.strong_count() > 0).count(), 3, "the old version lives while it runs");
    std::fs::remove_file(&closed).unwrap();
    let mut ends = BTreeMap::new();
    for _ in 0..2 {
        let (id, _, outcome) = bench.end().await;
        assert_eq!(outcome.ending, Ending::Done, "{outcome:?}");
        ends.insert(id, outcome.output);
    }
    let id = |counter| invocation(counter, "tool", 0, Payload::empty()).id;
    assert_eq!(ends[&id(1)], Payload::Inline(Bytes::from("1")));
    assert_eq!(ends[&id(2)], Payload::Inline(Bytes::from("2")));
    let gone = async {
        while old.iter().filter(|old| old.strong_count() > 0).count() > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is gone when it has ended; the others stay");

    // One that is taken away takes no more.
    bench.reload("");
    assert_eq!(bench.call("tool", b"").await.ending, Ending::Denied);
}

#[tokio::test]
async fn a_thousand_calls_while_a_tool_is_replaced_ten_times_have_one_ending_each_in_one_version() {
    const CALLS: u64 = 1000;
    const AT_ONCE: u64 = 16;
    let mut bench = bench(&version(0));
    let mut endings: BTreeMap<ReqId, Payload> = BTreeMap::new();
    let (mut asked, mut versions) = (0, 0);
    while endings.len() < 1000 {
        while asked < CALLS && asked < endings.len() as u64 + AT_ONCE {
            asked += 1;
            bench.host.invoke(invocation(asked, "tool", 0, Payload::empty()));
        }
        let (id, _, outcome) = bench.end().await;
        assert_eq!(outcome.ending, Ending::Done, "{outcome:?}");
        assert_eq!(endings.insert(id, outcome.output), None, "a second ending");
        if endings.len().is_multiple_of(91) && versions < 10 {
            versions += 1;
            bench.reload(&version(versions));
        }
    }
    assert!(bench.inputs.try_recv().is_err() && bench.running() == 0);
    assert_eq!(versions, 10);
    let (mut began, mut ended) = (bench.lines("began"), bench.lines("ended"));
    began.sort();
    ended.sort();
    assert_eq!(began, ended, "each that began has ended in the version in which it began");
    let told: BTreeSet<String> = endings
        .iter()
        .map(|(id, output)| match output {
            Payload::Inline(bytes) => format!("{id} {}", String::from_utf8_lossy(bytes)),
            Payload::Blob { .. } => panic!("a small output"),
        })
        .collect();
    assert_eq!(began.iter().cloned().collect::<BTreeSet<_>>(), told, "what ran is what was told");
    assert_eq!(began.len(), 1000, "each ran once");
    let ran: BTreeSet<&str> = began.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(ran.len(), 11, "every version ran some");
}
