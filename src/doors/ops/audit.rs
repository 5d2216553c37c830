//! The audit for people: calls as their own rows tell of them, and beside them what was refused or edited. Newest first.

use std::iter::Peekable;
use std::vec::IntoIter;

use mesh_core::ids::ToolName;
use mesh_core::io::{CallRecord, View};
use mesh_core::policy::{Principal, Role, Verdict};
use mesh_core::record::Tier;

use super::calls::device_meant;
use crate::doors::identity::Identity;
use crate::mesh::{
    Asker, AuditCursor, AuditFilter, AuditItem, AuditPage, CallCursor, CallFilter, CallPage, ForNode, MeshHandle,
};
use crate::status::{ErrorCode, OpError};

/// Selection of what happened.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this principal.
    pub principal: Option<Principal>,
    /// Only what this device was asked for: a name or a peer id.
    pub node: Option<String>,
    /// Only what was about this tool.
    pub tool: Option<ToolName>,
    /// Only what was answered so.
    pub verdict: Option<Verdict>,
    /// Only what happened at this wall time or later.
    pub since_ms: Option<u64>,
    /// Only what happened before this wall time.
    pub until_ms: Option<u64>,
}

/// Start of a page: the last row and the last call that were shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Of what was refused or edited.
    pub rows: Option<AuditCursor>,
    /// Of calls.
    pub calls: Option<CallCursor>,
}

/// One line of the audit.
#[derive(Debug, Clone)]
pub enum Line {
    /// A call.
    Call(Box<CallRecord>),
    /// Something that was refused, or an edit of rights.
    Other(Box<AuditItem>),
}

/// A page, newest first.
#[derive(Debug, Default)]
pub struct Page {
    /// The lines.
    pub items: Vec<Line>,
    /// Start of the next page, if there may be more.
    pub next: Option<Place>,
}

/// Lists what happened, at most `limit` lines.
///
/// # Errors
/// The caller is no owner ([`ErrorCode::Denied`]), this device is none ([`ErrorCode::NotOwner`]), `node` means several
/// devices or none, or the mesh cannot answer.
pub async fn list(
    mesh: &MeshHandle,
    who: &Identity,
    filter: Filter,
    after: Place,
    limit: usize,
) -> Result<Page, OpError> {
    let view = mesh.view();
    require_owner(&view, who)?;
    let Filter { principal, node, tool, verdict, since_ms, until_ms } = filter;
    let node = node.map(|text| device_meant(&view, &text)).transpose()?;
    let target = match &node {
        Some(ForNode::Peer(peer)) => Some(*peer),
        Some(ForNode::Gone { text, .. }) => {
            return Err(OpError::new(ErrorCode::UnknownNode, format!("no device is called `{text}`"))
                .hint("`sigil nodes` lists the devices; one that was removed is named by its whole peer id"));
        }
        None => None,
    };
    let asker = principal.clone().map(|principal| Asker { principal, token: None });
    let calls = CallFilter { node, state: None, asker, tool: tool.clone(), verdict, since_ms, until_ms };
    let rows = AuditFilter { principal, target, tool, verdict, since_ms, until_ms };
    let (rows, calls) = tokio::join!(mesh.audit(rows, after.rows, limit), mesh.calls(calls, after.calls, limit));
    Ok(merged(rows?, calls?, after, limit))
}

/// Owners read it, at devices of owners: through the socket, or by a token of an owner that is narrowed in nothing but that
/// it may only read.
fn require_owner(view: &View, who: &Identity) -> Result<(), OpError> {
    let is_owners = view.by_peer(&view.me).is_some_and(|node| node.tier == Tier::Owner);
    if !is_owners {
        return Err(OpError::new(
            ErrorCode::NotOwner,
            "the audit is kept at devices of tier owner, and this one is not",
        )
        .hint("`sigil nodes` shows which devices are: ask there"));
    }
    let holder = match who.holder() {
        Some(holder) => Some(holder.clone()).filter(|_| who.is_whole()),
        None => view.rights.sits_at(&view.me),
    };
    match holder {
        Some(Principal::Person(person)) if view.rights.role(&person) == Some(Role::Owner) => Ok(()),
        Some(_) | None => Err(OpError::new(ErrorCode::Denied, "the audit is for owners of the mesh")
            .hint("an owner reads it: `sigil person list` shows who that is; a token of theirs must not be narrowed")),
    }
}

/// The next of one of the two lists, or where its search ended.
enum Next {
    Line(u64),
    /// Anything older may be missing here.
    Horizon(u64),
    End,
}

impl Next {
    const fn at_ms(&self) -> u64 {
        match self {
            Self::Line(at) | Self::Horizon(at) => *at,
            Self::End => 0,
        }
    }
}

fn next<T>(items: &mut Peekable<IntoIter<T>>, at: impl Fn(&T) -> u64, horizon: Option<u64>) -> Next {
    items.peek().map_or(horizon.map_or(Next::End, Next::Horizon), |item| Next::Line(at(item)))
}

fn merged(rows: AuditPage, calls: CallPage, after: Place, limit: usize) -> Page {
    let mut page = Page::default();
    let mut place = after;
    let (rows_next, calls_next) = (rows.next, calls.next);
    let (mut rows, mut calls) = (rows.items.into_iter().peekable(), calls.items.into_iter().peekable());
    loop {
        let row = next(&mut rows, |item| item.at.at_ms, rows_next.map(|at| at.at_ms));
        let call = next(&mut calls, CallRecord::listed_ms, calls_next.map(|at| at.accepted_ms));
        if matches!((&row, &call), (Next::End, Next::End)) {
            return page;
        }
        let is_row = matches!(call, Next::End) || !matches!(row, Next::End) && row.at_ms() >= call.at_ms();
        let stops = page.items.len() >= limit || matches!(if is_row { &row } else { &call }, Next::Horizon(_));
        if stops {
            if rows.peek().is_none() && rows_next.is_some() {
                place.rows = rows_next;
            }
            if calls.peek().is_none() && calls_next.is_some() {
                place.calls = calls_next;
            }
            page.next = Some(place);
            return page;
        }
        if is_row {
            let Some(item) = rows.next() else { return page };
            place.rows = Some(item.at);
            page.items.push(Line::Other(Box::new(item)));
        } else {
            let Some(record) = calls.next() else { return page };
            place.calls = Some(CallCursor { accepted_ms: record.listed_ms(), id: record.header.id });
            page.items.push(Line::Call(Box::new(record)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::audit_record::{AuditRow, Happened};
    use mesh_core::entry;
    use mesh_core::frame::Phase;
    use mesh_core::ids::{Incarnation, PeerId};
    use mesh_core::io::CallState;
    use mesh_core::record::Payload;
    use mesh_core::test_kit::header;
    use proptest::prelude::*;

    use super::*;

    const ME: PeerId = PeerId([1; 32]);

    fn row(at_ms: u64, n: u16) -> AuditItem {
        let place = entry::Place { author: ME, incarnation: Incarnation(1), seq: 1 };
        let row = AuditRow::new(Happened::DoorRefused, None, Verdict::Deny, "");
        AuditItem { at: AuditCursor { at_ms, place, row: n }, device: ME, row, left_out: 0 }
    }

    fn call(at_ms: u64, n: u64) -> CallRecord {
        let mut header = header(&ME, n, ME, "echo");
        header.accepted_ms = at_ms;
        CallRecord {
            header: Arc::new(header),
            origin: ME,
            state: CallState::Open(Phase::Queued),
            confirmed: false,
            attempt: 1,
            output: Payload::empty(),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            reason: String::new(),
            alias_of: None,
            history: Vec::new(),
        }
    }

    /// What a source answers: those after a place, at most so many, or fewer with word of where the search ended.
    fn rows(all: &[AuditItem], after: Option<AuditCursor>, max: usize) -> AuditPage {
        let left: Vec<_> = all.iter().filter(|item| after.is_none_or(|after| item.at < after)).cloned().collect();
        let items: Vec<_> = left.iter().take(max).cloned().collect();
        let next = items.last().filter(|_| left.len() > max).map(|item| item.at);
        AuditPage { items, next }
    }

    fn calls(all: &[CallRecord], after: Option<CallCursor>, max: usize) -> CallPage {
        let at = |record: &CallRecord| CallCursor { accepted_ms: record.listed_ms(), id: record.header.id };
        let left: Vec<_> = all.iter().filter(|record| after.is_none_or(|after| at(record) < after)).cloned().collect();
        let items: Vec<_> = left.iter().take(max).cloned().collect();
        let next = items.last().filter(|_| left.len() > max).map(at);
        CallPage { items, next }
    }

    proptest! {
        #[test]
        fn both_lists_are_shown_whole_and_in_order(
            mut of_rows in prop::collection::vec(1..30_u64, 0..25),
            mut of_calls in prop::collection::vec(1..30_u64, 0..25),
            limit in 1..9_usize,
        ) {
            of_rows.sort_unstable_by(|a, b| b.cmp(a));
            of_calls.sort_unstable_by(|a, b| b.cmp(a));
            let all_rows: Vec<_> = (0..100).rev().zip(&of_rows).map(|(n, at)| row(*at, n)).collect();
            let all_calls: Vec<_> = (0..100).rev().zip(&of_calls).map(|(n, at)| call(*at, n)).collect();
            let (mut place, mut times, mut counts) = (Place::default(), Vec::new(), (0, 0));
            loop {
                let page = merged(rows(&all_rows, place.rows, limit), calls(&all_calls, place.calls, limit), place, limit);
                prop_assert!(page.items.len() <= limit);
                for line in &page.items {
                    match line {
                        Line::Call(record) => { counts.1 += 1; times.push(record.listed_ms()); }
                        Line::Other(item) => { counts.0 += 1; times.push(item.at.at_ms); }
                    }
                }
                let Some(next) = page.next else { break };
                prop_assert!(next != place, "it goes on");
                place = next;
            }
            prop_assert_eq!(counts, (all_rows.len(), all_calls.len()));
            prop_assert!(times.is_sorted_by(|a, b| a >= b), "{:?}", times);
        }
    }
}
