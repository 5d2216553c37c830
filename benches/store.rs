//! Limits of the store: promised batches per second with 64 in flight, the latency of one, and the time to open.
//! `SIGIL_BENCH_DIR` names a directory on the disk to be measured; default is the system's temporary one.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_core::io::{Batch, Space, Write};
use sigil::mesh::store::{DurableNote, FjallStore, Store};
use tokio::sync::mpsc;

const IN_FLIGHT: u64 = 64;

/// As an accepted call writes it: a log entry, the open call, and a counter.
fn batch(n: u64) -> Batch {
    let row = |space, key: &[u8], len| Write { space, key: key.to_vec(), value: Some(vec![7; len].into()) };
    let writes = vec![
        row(Space::Log, &n.to_be_bytes(), 400),
        row(Space::Open, &n.to_be_bytes(), 400),
        row(Space::Meta, b"counter", 8),
    ];
    Batch { writes, sync: true }
}

struct Bench {
    store: FjallStore,
    notes: mpsc::Receiver<DurableNote>,
    sent: u64,
    durable: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = match std::env::var_os("SIGIL_BENCH_DIR") {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let dir = dir.expect("a directory to write in");
        let (tx, notes) = mpsc::channel(1024);
        let (store, _) = FjallStore::open(&dir.path().join("store"), tx).expect("a new store");
        Self { store, notes, sent: 0, durable: 0, _dir: dir }
    }

    /// Writes `count` batches with at most `in_flight` of them not durable.
    fn run(&mut self, count: u64, in_flight: u64) -> Duration {
        let start = tokio::time::Instant::now().into_std();
        let end = self.sent + count;
        while self.durable < end {
            while self.sent < end && self.sent - self.durable < in_flight {
                self.sent += 1;
                self.store.commit(self.sent, batch(self.sent));
            }
            match self.notes.blocking_recv() {
                Some(DurableNote::Durable(txn)) => self.durable = txn,
                other => panic!("{other:?}"),
            }
        }
        Instant::elapsed(&start)
    }
}

fn store(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    let mut bench = Bench::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("promised, one at a time", |b| b.iter_custom(|count| bench.run(count, 1)));
    group.bench_function("promised, 64 in flight", |b| b.iter_custom(|count| bench.run(count, IN_FLIGHT)));
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
