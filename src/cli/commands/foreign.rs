//! `sigil node`: foreign nodes that this device hosts. Files on this device, with or without an agent, which looks at them every two
//! seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::secrets::check;
use crate::cli::args::NodeCommand;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, span, table};
use crate::node::foreign::records::{CERTIFICATE_NAME, Nodes, NodesError};
use crate::plugin::PluginName;

pub(super) fn node(client: &Client, command: NodeCommand, ui: Ui) -> Result<Exit, Failure> {
    let nodes = Nodes::of(client.home());
    match command {
        NodeCommand::List => list(&nodes, ui),
        NodeCommand::Add { name, expires } => {
            check(client.home())?;
            add(&nodes, &name, expires, ui)
        }
        NodeCommand::Remove { name } => {
            check(client.home())?;
            if !nodes.remove(&name).map_err(|error| failed(&error))? {
                return Err(Failure::new(Exit::NotFound, format!("this device has no node `{name}`"))
                    .hint("`sigil node list` shows all"));
            }
            if ui.json {
                ui.document("sigil.node/1", json!({ "name": name.as_str() }));
            } else {
                ui.print(&format!("The node {name} is out, and its token opens nothing any more."));
            }
            Ok(Exit::Ok)
        }
    }
}

fn failed(error: &NodesError) -> Failure {
    let exit = match error {
        NodesError::Taken(_) | NodesError::TooMany => Exit::Conflict,
        NodesError::Life => Exit::Usage,
        NodesError::System { .. } => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn add(nodes: &Nodes, name: &PluginName, expires: Option<Duration>, ui: Ui) -> Result<Exit, Failure> {
    let (certificate, _) = nodes
        .certificate()
        .map_err(|error| Failure::new(Exit::Failed, format!("making the certificate of this device: {error}")))?;
    let token = nodes.add(name, expires, now_ms()).map_err(|error| failed(&error))?;
    if ui.json {
        let node = json!({
            "name": name.as_str(), "token": token, "certificate": certificate, "certificate_name": CERTIFICATE_NAME,
        });
        ui.document("sigil.node/1", node);
        return Ok(Exit::Ok);
    }
    ui.print(&format!(
        "The node {name} is let in. Its token, which is shown this once:\n\n{token}\n\nThe certificate that it is to trust, for the \
         name `{CERTIFICATE_NAME}` (also in {}):\n\n{certificate}\nIt comes in at the address of `[listen] grpc` in sigil.toml, \
         which is off unless that says one, such as \"0.0.0.0:7443\".",
        nodes.certificate_file().display()
    ));
    Ok(Exit::Ok)
}

fn list(nodes: &Nodes, ui: Ui) -> Result<Exit, Failure> {
    let listed = nodes.list().map_err(|error| Failure::new(Exit::Failed, format!("listing the nodes: {error}")))?;
    let now = now_ms();
    if ui.json {
        let item = |node: &crate::node::foreign::records::Record| json!({ "name": node.name.as_str(), "created_ms": node.created_ms, "expires_ms": node.expires_ms });
        ui.document("sigil.nodes/1", json!({ "items": listed.iter().map(item).collect::<Vec<_>>() }));
    } else if listed.is_empty() {
        ui.print("This device hosts no foreign nodes. `sigil node add NAME` lets one in.");
    } else {
        let ends = |end: Option<u64>| match end {
            None => "never".to_owned(),
            Some(end) if end <= now => "over".to_owned(),
            Some(end) => format!("in {}", span((end - now) / 1000)),
        };
        let age = |made: u64| span(now.saturating_sub(made) / 1000);
        let rows: Vec<_> = listed
            .iter()
            .map(|node| vec![node.name.to_string(), age(node.created_ms), ends(node.expires_ms)])
            .collect();
        ui.print(&table(&["NAME", "AGE", "TOKEN ENDS"], &rows));
    }
    Ok(Exit::Ok)
}
