//! The table of who may use what.

use mesh_core::ids::{NodeId, PeerId, ToolName};
use mesh_core::policy::{Cause, Domain, Principal, Role, Seat, Verdict, WorkspaceId};

use super::explain::Rights;
use crate::status::{ErrorCode, OpError};

/// Most cells of a table: more than anybody reads, and a tenth of a second of work.
pub const CELLS_MAX: usize = 20_000;

/// Kind of a row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// A person.
    #[default]
    Person,
    /// An agent of which something is said.
    Agent,
    /// A device that asks for itself.
    Device,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nothing was said of it: a role, a workspace's `otherwise`, or the tiers of a mesh without workspaces.
    Default,
    /// A rule.
    Rule,
    /// The device: its own `node.deny`, or the state of its tool.
    Node,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The answer.
    pub verdict: Verdict,
    /// Rule that decided, by its public name.
    pub rule: String,
    /// Where it comes from.
    pub from: Source,
}

/// A table: one row for each who, one column for each tool of each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Who asks.
    pub rows: Vec<Principal>,
    /// Tool that is asked for.
    pub cols: Vec<(NodeId, ToolName)>,
    /// Row by row, as many as there are columns; `None` where no device of the mesh may ask for this row.
    pub cells: Vec<Vec<Option<Cell>>>,
}

impl Rights {
    /// The table of a workspace, or of all devices. `nodes` are the members of the mesh, in the order of the columns.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`]: it would have more than [`CELLS_MAX`] cells.
    pub fn matrix(
        &self,
        workspace: Option<&WorkspaceId>,
        by: By,
        nodes: &[(NodeId, PeerId)],
    ) -> Result<Matrix, OpError> {
        let rows = self.rows(workspace, by, nodes);
        let tools = |(node, peer): &(NodeId, PeerId)| {
            let node = node.clone();
            self.view.tools(peer).map(move |(tool, _)| (node.clone(), tool.clone())).collect::<Vec<_>>()
        };
        let cols: Vec<(NodeId, ToolName)> = nodes.iter().flat_map(tools).collect();
        let cells = rows.len().saturating_mul(cols.len());
        if cells > CELLS_MAX {
            let detail = format!("this table would have {cells} cells, and may have {CELLS_MAX}");
            return Err(OpError::new(ErrorCode::TooLarge, detail).hint("ask for one workspace, or one device"));
        }
        let domain = || workspace.cloned().map(Domain::Workspace);
        let cell = |who: &Principal, (node, tool): &(NodeId, ToolName)| {
            let request = self.view.question(who, domain(), node, tool)?;
            let decision = self.view.decide(&request);
            let from = source(&decision.rule);
            Some(Cell { verdict: decision.verdict, rule: decision.rule.to_string(), from })
        };
        let cells = rows.iter().map(|who| cols.iter().map(|col| cell(who, col)).collect()).collect();
        Ok(Matrix { rows, cols, cells })
    }

    fn rows(&self, workspace: Option<&WorkspaceId>, by: By, nodes: &[(NodeId, PeerId)]) -> Vec<Principal> {
        let members = workspace.map(|id| {
            let said = self.said.workspaces.get(&Domain::Workspace(id.clone()));
            said.map(|workspace| workspace.members.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        });
        let is_in = |seat: Seat| members.as_ref().is_none_or(|members| members.contains(&seat));
        match by {
            By::Person => {
                let people = self.view.people().map(|(person, _)| person);
                let people = people.filter(|person| {
                    // Owners of the mesh are owners of each workspace.
                    self.view.role(person) == Some(Role::Owner) || is_in(Seat::Person((*person).clone()))
                });
                people.cloned().map(Principal::Person).collect()
            }
            By::Agent => {
                let agents = self.said.agents.keys();
                agents.map(|agent| Principal::Agent(agent.person.clone(), agent.agent.clone())).collect()
            }
            By::Device => {
                let nodes = nodes.iter().map(|(node, _)| node);
                nodes.filter(|node| is_in(Seat::Device((*node).clone()))).cloned().map(Principal::Device).collect()
            }
        }
    }
}

fn source(cause: &Cause) -> Source {
    match cause {
        Cause::Rule(at) if at.is_otherwise() => Source::Default,
        Cause::Rule(_) => Source::Rule,
        Cause::Local(_)
        | Cause::ToolAbsent
        | Cause::ToolPending
        | Cause::ToolChanged
        | Cause::DeviceUnknown
        | Cause::Untagged(_) => Source::Node,
        Cause::PrincipalDevice
        | Cause::PrincipalUnknown
        | Cause::PrincipalSuspended
        | Cause::TokenOver
        | Cause::TokenScope
        | Cause::TierScope
        | Cause::OwnerOnly
        | Cause::WorkspaceUnknown
        | Cause::WorkspaceNotMember
        | Cause::WorkspaceScope
        | Cause::Open
        | Cause::Owner
        | Cause::Manager
        | Cause::Own
        | Cause::Default => Source::Default,
    }
}
