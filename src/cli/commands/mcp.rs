//! `sigil mcp`: being an MCP server for a client, the settings of clients, and the list of those that were here.

use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};

use super::console::show;
use crate::cli::args::{McpArgs, McpClient, McpClientsCommand, McpProfile};
use crate::cli::client::{Client, Extras, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, items, relative, table, text};

/// Speaks MCP on standard input and output until the input ends.
#[cfg(feature = "mcp")]
pub(super) async fn serve(client: &Client, args: McpArgs, ui: Ui) -> Result<Exit, Failure> {
    super::mcp_proxy::serve(client, args.agent.as_deref(), args.profile.map(McpProfile::as_str), ui).await
}

/// Says that it cannot.
#[cfg(not(feature = "mcp"))]
#[expect(clippy::unused_async, reason = "as the other one")]
pub(super) async fn serve(_: &Client, _: McpArgs, _: Ui) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Usage, "this sigil was built without its MCP door")
        .hint("build it with the feature `mcp`, which is among the default ones"))
}

/// Name of the agent as which a client asks, the member of its settings that holds servers, and where these settings are.
const fn about(client: McpClient) -> (&'static str, &'static str, &'static str) {
    match client {
        McpClient::Claude => ("claude", "mcpServers", "claude_desktop_config.json (Settings, Developer, Edit Config)"),
        McpClient::ClaudeCode => ("claude-code", "mcpServers", ".mcp.json in the project"),
        McpClient::Cursor => ("cursor", "mcpServers", "~/.cursor/mcp.json, or .cursor/mcp.json in the project"),
        McpClient::Openclaw => ("openclaw", "mcpServers", "the client's own settings, below `mcp`"),
        McpClient::Vscode => ("vscode", "servers", ".vscode/mcp.json in the project"),
        McpClient::Other => ("mcp-client", "mcpServers", "the client's own settings"),
    }
}

/// Prints the settings with which a client starts `sigil mcp` for this home.
pub(super) fn config(
    client: &Client,
    of: McpClient,
    agent: Option<String>,
    bundle: Option<&Path>,
    ui: Ui,
) -> Result<Exit, Failure> {
    let (name, member, place) = about(of);
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Failed, format!("where this program is, is not known: {error}")))?;
    let agent = agent.unwrap_or_else(|| name.to_owned());
    if let Some(file) = bundle {
        return bundled(&program, client.home(), &agent, file, ui);
    }
    let mut server = json!({
        "command": program.display().to_string(),
        "args": ["mcp", "--as", agent, "--home", client.home().display().to_string()],
    });
    if let (McpClient::Vscode, Some(members)) = (of, server.as_object_mut()) {
        members.insert("type".to_owned(), "stdio".into());
    }
    let block = json!({ member: { "sigil": server } });
    if ui.json {
        ui.document("sigil.mcp.config/1", json!({ "file": place, "settings": block }));
    } else {
        ui.print(&serde_json::to_string_pretty(&block).unwrap_or_default());
        ui.say(&format!("add this to {place}, then start the client anew"));
    }
    Ok(Exit::Ok)
}

/// Writes a bundle that starts this program for this home.
#[cfg(feature = "mcp")]
fn bundled(program: &Path, home: &Path, agent: &str, file: &Path, ui: Ui) -> Result<Exit, Failure> {
    super::mcp_bundle::write(program, home, agent, file)
        .map_err(|error| Failure::new(Exit::Failed, format!("writing {}: {error}", file.display())))?;
    if ui.json {
        ui.document("sigil.mcp.bundle/1", json!({ "file": file.display().to_string(), "agent": agent }));
    } else {
        ui.print(&file.display().to_string());
        ui.say("open it with the client; it starts this program for this home, and holds no secret");
    }
    Ok(Exit::Ok)
}

/// Says that it cannot.
#[cfg(not(feature = "mcp"))]
fn bundled(_: &Path, _: &Path, _: &str, _: &Path, _: Ui) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Usage, "this sigil was built without its MCP door")
        .hint("build it with the feature `mcp`, which is among the default ones"))
}

/// Lists clients, or says something of one.
pub(super) async fn clients(client: &Client, command: Option<McpClientsCommand>, ui: Ui) -> Result<Exit, Failure> {
    const PATH: &str = "/api/v1/mcp/clients";
    match command {
        None => {
            let body = client.get(PATH).await?;
            Ok(show(ui, "sigil.mcp.clients/1", body, |body| list(body, ui)))
        }
        Some(McpClientsCommand::Set { who, profile, pin }) => {
            let body = json!({ "profile": profile.as_str(), "pinned": pin }).to_string();
            let path = format!("{PATH}/{}", segment(&named(client, &who).await?));
            let extras = Extras { body: Some(body), ..Extras::default() };
            let answer = client.ask(Method::PUT, &path, extras).await?.json()?;
            Ok(show(ui, "sigil.mcp.client/1", answer, |it| {
                format!("{} is shown: {}.", clean(&text(it, "principal")), clean(&text(it, "profile")))
            }))
        }
        Some(McpClientsCommand::Revoke { who }) => {
            let who = named(client, &who).await?;
            let answer = client.ask(Method::DELETE, &format!("{PATH}/{}", segment(&who)), Extras::default()).await?;
            Ok(show(ui, "sigil.mcp.client/1", answer.json()?, |_| {
                format!("{} comes in no more. What it has asked for goes on: `sigil calls` shows it.", clean(&who))
            }))
        }
    }
}

/// A name alone is an agent of whoever sits at this device.
async fn named(client: &Client, who: &str) -> Result<String, Failure> {
    if who.contains(':') {
        return Ok(who.to_owned());
    }
    let listed = client.get("/api/v1/mcp/clients").await?;
    let ends = format!("/{who}");
    let known = items(&listed).iter().map(|it| text(it, "principal")).find(|it| it.ends_with(&ends));
    Ok(known.unwrap_or_else(|| format!("agent:owner/{who}")))
}

fn list(body: &Value, ui: Ui) -> String {
    if items(body).is_empty() {
        return "No MCP client was here yet. `sigil mcp config --client NAME` prints what one needs.".to_owned();
    }
    let row = |it: &Value| {
        let state = if it.get("revoked").and_then(Value::as_bool) == Some(true) { "revoked" } else { "ok" };
        let tools = it.get("listed").and_then(Value::as_u64).map(|tools| tools.to_string()).unwrap_or_default();
        vec![
            text(it, "principal"),
            ui.state(state),
            text(it, "profile"),
            text(it, "says"),
            relative(it, "last_seen"),
            tools,
        ]
    };
    let rows: Vec<_> = items(body).iter().map(row).collect();
    table(&["ASKS AS", "STATE", "PROFILE", "SAYS IT IS", "LAST SEEN", "TOOLS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_asks_as_an_agent_of_its_own() {
        for client in
            [McpClient::Claude, McpClient::ClaudeCode, McpClient::Cursor, McpClient::Openclaw, McpClient::Vscode]
        {
            let name = about(client).0;
            assert!(name.parse::<mesh_core::policy::AgentName>().is_ok(), "{name}");
        }
    }
}
