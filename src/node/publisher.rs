//! Tells the mesh which tools this device offers: what the catalogue lists, at a pace that others can follow.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_core::ids::ToolName;
use mesh_core::policy::ToolPattern;
use mesh_core::record::ToolDecl;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::blobs::Blobs;
use super::catalogue::Catalogue;
use crate::mesh::{MeshError, MeshHandle};

/// Shortest time between two records of what is offered, unless a person asks: each is signed and goes to everyone.
const PACE: Duration = Duration::from_secs(2);
/// Time for which a tool that is gone is still told of: a provider that restarts takes it away and brings it back.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// The mesh, as far as it is told.
pub trait Offering: Send + Sync {
    /// Offers these tools in place of those before, and shows what this device forbids itself.
    fn offer(&self, tools: Vec<ToolDecl>, deny: Vec<ToolPattern>) -> BoxFuture<'_, Result<(), MeshError>>;
}

impl Offering for MeshHandle {
    fn offer(&self, tools: Vec<ToolDecl>, deny: Vec<ToolPattern>) -> BoxFuture<'_, Result<(), MeshError>> {
        Box::pin(MeshHandle::offer(self, tools, deny))
    }
}

/// The one way by which the mesh is told. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    catalogue: watch::Receiver<Arc<Catalogue>>,
    mesh: Arc<dyn Offering>,
    blobs: Arc<dyn Blobs>,
    told: Arc<Mutex<Told>>,
}

/// All that was said last.
struct Told {
    tools: Vec<ToolDecl>,
    deny: Vec<ToolPattern>,
    at: Instant,
}

impl Publisher {
    /// Tells `mesh` of `catalogue`; it knows what that lists now. Cards of tools go to `blobs`.
    #[must_use]
    pub fn new(mut catalogue: watch::Receiver<Arc<Catalogue>>, mesh: Arc<dyn Offering>, blobs: Arc<dyn Blobs>) -> Self {
        let now = catalogue.borrow_and_update().clone();
        let told = Told { tools: now.decls(), deny: now.deny().to_vec(), at: Instant::now() };
        Self { catalogue, mesh, blobs, told: Arc::new(Mutex::new(told)) }
    }

    /// Tells what is offered now, unless that is what was told last.
    ///
    /// # Errors
    /// The mesh does not run any more.
    pub async fn publish(&self) -> Result<(), MeshError> {
        // Held while it is told, so that what is older cannot come later.
        let mut told = self.told.lock().await;
        let now = self.catalogue.borrow().clone();
        let (tools, deny) = (now.decls(), now.deny().to_vec());
        if (&tools, &deny) == (&told.tools, &told.deny) {
            return Ok(());
        }
        self.keep_cards(&now).await;
        self.mesh.offer(tools.clone(), deny.clone()).await?;
        *told = Told { tools, deny, at: Instant::now() };
        Ok(())
    }

    /// Keeps the cards that are told of, before they are. One that cannot be kept is told of all the same: it is kept when the
    /// disk takes it, with the next change.
    async fn keep_cards(&self, catalogue: &Catalogue) {
        for card in catalogue.cards() {
            if let Err(error) = self.blobs.keep(card.hash, card.bytes.clone()).await {
                tracing::warn!(%error, "the card of a tool could not be kept");
            }
        }
    }

    /// Tells each change that providers make by themselves, until `stop` or the end of the mesh.
    pub async fn follow(mut self, stop: CancellationToken) {
        let now = self.catalogue.borrow().clone();
        self.keep_cards(&now).await;
        while let Some(Ok(())) = stop.run_until_cancelled(self.catalogue.changed()).await {
            let due = stop.run_until_cancelled(self.until_due()).await;
            if due.is_none() || self.publish().await.is_err() {
                return;
            }
        }
    }

    /// Waits until what is offered may be told: at the pace, and what is gone only once it stays away.
    async fn until_due(&mut self) {
        let mut gone_since = None;
        loop {
            self.catalogue.mark_unchanged();
            let paced = self.told.lock().await.at + PACE;
            gone_since = if self.lacks_some().await { gone_since.or_else(|| Some(Instant::now())) } else { None };
            let due = gone_since.map_or(paced, |since| paced.max(since + GONE_AFTER));
            if Instant::now() >= due || !matches!(timeout_at(due, self.catalogue.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// True if a tool of which others were told that it runs is not offered now, or does not work.
    async fn lacks_some(&self) -> bool {
        let told = self.told.lock().await;
        let ran = told.tools.iter().filter(|tool| tool.state.is_ready());
        let ran: Vec<ToolName> = ran.map(|tool| tool.name.clone()).collect();
        let now = self.catalogue.borrow();
        ran.iter().any(|name| now.get(name).is_none_or(|tool| !tool.works))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::blobs::BlobStore;
    use crate::node::catalogue::{Member, Origin};
    use crate::node::testing::Fake;
    use crate::tasks::TaskGroup;
    use std::sync::PoisonError;

    /// Keeps what it is told, and when.
    #[derive(Default)]
    struct Mesh(std::sync::Mutex<Vec<(Instant, Vec<String>)>>);

    impl Offering for Mesh {
        fn offer(&self, tools: Vec<ToolDecl>, _: Vec<ToolPattern>) -> BoxFuture<'_, Result<(), MeshError>> {
            let names = tools.into_iter().map(|tool| tool.name.to_string()).collect();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), names));
            Box::pin(async { Ok(()) })
        }
    }

    struct Bench {
        catalogue: watch::Sender<Arc<Catalogue>>,
        mesh: Arc<Mesh>,
        publisher: Publisher,
        began: Instant,
        tasks: TaskGroup,
        _home: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let catalogue = watch::Sender::default();
            let mesh = Arc::new(Mesh::default());
            let home = tempfile::tempdir().unwrap();
            let blobs = Arc::new(BlobStore::open(home.path()).unwrap());
            let publisher = Publisher::new(catalogue.subscribe(), mesh.clone(), blobs);
            let tasks = TaskGroup::default();
            tasks.spawn(publisher.clone().follow(tasks.stopping()));
            Self { catalogue, mesh, publisher, began: Instant::now(), tasks, _home: home }
        }

        fn offer(&self, tools: &[&str]) {
            let member = Member { origin: Origin::Builtin, provider: Arc::new(Fake::new(tools)) };
            self.catalogue.send_replace(Arc::new(Catalogue::fold(&[member], &[])));
        }

        /// All that was told: after how many seconds, and which tools.
        fn told(&self) -> Vec<(u64, String)> {
            let told = self.mesh.0.lock().unwrap();
            told.iter().map(|(at, names)| (at.duration_since(self.began).as_secs(), names.join(" "))).collect()
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_are_told_at_the_pace_and_the_same_is_not_told_again() {
        let bench = Bench::new();
        for n in 0..50 {
            bench.offer(&["a", &format!("b{n}")][..=(n % 2)]);
            bench.offer(&["a", "b"]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        pass(30).await;
        assert_eq!(bench.told(), [(2, "a b".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_flaps_is_not_told_and_what_stays_away_is() {
        let bench = Bench::new();
        bench.offer(&["a", "b"]);
        pass(5).await;
        bench.offer(&["a"]);
        pass(9).await;
        bench.offer(&["a", "b"]);
        pass(30).await;
        assert_eq!(bench.told(), [(2, "a b".to_owned())]);
        bench.offer(&["a"]);
        pass(20).await;
        assert_eq!(bench.told()[1..], [(54, "a".to_owned())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_person_does_not_wait() {
        let bench = Bench::new();
        bench.offer(&["a"]);
        bench.publisher.publish().await.unwrap();
        bench.offer(&[]);
        bench.publisher.publish().await.unwrap();
        assert_eq!(bench.told(), [(0, "a".to_owned()), (0, String::new())]);
        pass(60).await;
        assert_eq!(bench.told().len(), 2);
        assert!(bench.tasks.shutdown(Duration::from_secs(1)).await, "it stops when it is told to");
    }
}
