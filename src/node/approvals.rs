//! The tools of this device that an owner approved, in the form in which they were shown: followed for providers that hold tools
//! back until then.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::ids::{Hash, ToolName};
use mesh_core::io::View;
use mesh_core::policy::{Key, Value};
use tokio::sync::watch;

/// Forms of tools that were approved, by their names.
pub type Approved = Arc<BTreeMap<ToolName, Hash>>;

/// Tells `approved` of each change, until the mesh ends.
pub async fn follow(mut view: watch::Receiver<Arc<View>>, approved: watch::Sender<Approved>) {
    loop {
        let now = of(&view.borrow_and_update());
        approved.send_if_modified(|held| {
            let differs = **held != now;
            if differs {
                *held = Arc::new(now);
            }
            differs
        });
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// What is approved of this device now. Of several words about it that nobody has brought together none counts.
fn of(view: &View) -> BTreeMap<ToolName, Hash> {
    let key = Key::Tools(view.me);
    match view.said.value(&key) {
        Some(Value::Tools(tools)) if view.said.heads(&key).len() == 1 => tools.approved.clone(),
        _ => BTreeMap::new(),
    }
}
