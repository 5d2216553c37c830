//! Everything that asks a running agent.

mod approvals;
mod audit;
mod backup;
mod calls;
mod care;
mod conflicts;
mod console;
mod foreign;
mod mcp;
#[cfg(feature = "mcp")]
mod mcp_bundle;
mod mcp_import;
#[cfg(feature = "mcp")]
mod mcp_proxy;
mod memory;
mod mesh;
mod models;
mod page;
mod pending;
mod plugins;
mod rights;
mod secrets;

pub(super) use self::mesh::epoch;
pub(super) use self::rights::templates;

use crate::cli::args::{Command, InviteArgs, McpCommand};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Ui;

pub(crate) async fn run(command: Command, client: Client, ui: Ui) -> Result<Exit, Failure> {
    let client = &client;
    match command {
        Command::Down => super::up::down(client, ui).await,
        Command::Ui(args) => page::ui(client, args, ui).await,
        Command::Status => mesh::status(client, ui).await,
        Command::Invite(InviteArgs { list: true, .. }) => mesh::invites(client, ui).await,
        Command::Invite(InviteArgs { void: Some(id), .. }) => mesh::void_invite(client, &id, ui).await,
        Command::Invite(args) => mesh::invite(client, &args, ui).await,
        Command::Join(args) => mesh::join(client, args, ui).await,
        Command::Leave => mesh::leave(client, ui).await,
        Command::Nearby => mesh::nearby(client, ui).await,
        Command::Pending => pending::pending(client, ui).await,
        Command::Approve(args) => match &args.tools {
            Some(tools) => pending::approve_tools(client, &args.id, tools, ui).await,
            None => mesh::approve(client, &args, ui).await,
        },
        Command::Reject { id, tools: None } => mesh::reject(client, &id, ui).await,
        Command::Reject { id, tools: Some(tools) } => pending::reject_tools(client, &id, &tools, ui).await,
        Command::Forget { node, with_their_guests, with_their_rights } => {
            mesh::forget(client, &node, (with_their_guests, with_their_rights), ui).await
        }
        Command::Nodes { id: None } => mesh::nodes(client, ui).await,
        Command::Nodes { id: Some(id) } => mesh::node(client, &id, ui).await,
        Command::Tools { node } => mesh::tools(client, node.as_deref(), ui).await,
        Command::Call(args) => calls::call(client, args, ui).await,
        Command::Calls(args) => calls::calls(client, args, ui).await,
        Command::Result { id, part, output, wait } => {
            calls::result(client, &id, part, output.as_deref(), wait, ui).await
        }
        Command::Cancel { id, reason } => calls::cancel(client, &id, reason, ui).await,
        Command::Approvals(args) => approvals::approvals(client, args, ui).await,
        Command::Audit(args) => audit::audit(client, args, ui).await,
        Command::Person { command } => rights::person(client, command, ui).await,
        Command::Workspace { command } => rights::workspace(client, command, ui).await,
        Command::Rule { command } => rights::rule(client, command, ui).await,
        Command::Policy { command } => rights::policy(client, command, ui).await,
        Command::Memory { workspace, command } => memory::memory(client, &workspace, command, ui).await,
        Command::Model { command } => models::model(client, command, ui).await,
        Command::Plugin { command } => plugins::plugin(client, command, ui).await,
        Command::Node { command } => foreign::node(client, command, ui),
        Command::Secret { command } => secrets::secret(client, command, ui),
        Command::Mcp { command: Some(McpCommand::Import { file, write }), .. } => {
            mcp_import::import(client, &file, write, ui)
        }
        Command::Mcp { command: Some(McpCommand::Config { client: of, agent, bundle }), .. } => {
            mcp::config(client, of, agent, bundle.as_deref(), ui)
        }
        Command::Mcp { command: Some(McpCommand::Clients { command }), .. } => mcp::clients(client, command, ui).await,
        Command::Mcp { args, command: None } => mcp::serve(client, args, ui).await,
        Command::Token(args) => care::token(client, args, ui).await,
        Command::Logs { follow, lines } => care::logs(client, follow, lines, ui).await,
        Command::Backup { file, force } => backup::backup(client, &file, force, ui).await,
        Command::Restore(args) => backup::restore(client, &args, ui).await,
        Command::Rename { of, name } => care::rename(client, of.as_deref(), &name, ui).await,
        Command::Reload => care::reload(client, ui).await,
        Command::Doctor => care::doctor(client, ui).await,
        // Handled before there is a client.
        Command::Up(_) | Command::Demo(_) | Command::Completions { .. } | Command::Man { .. } => Ok(Exit::Usage),
    }
}
