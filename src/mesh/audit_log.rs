//! The audit as owners keep it, read a page at a time, newest first.

use std::ops::Bound;

use mesh_core::audit_record::{AuditBatch, AuditRow};
use mesh_core::entry::{Place, SignedEntry};
use mesh_core::ids::{PeerId, ToolName};
use mesh_core::io::Space;
use mesh_core::policy::{Principal, Verdict};
use mesh_core::rows::{self, Row as _};

use crate::mesh::error::MeshError;
use crate::mesh::store::Store;

/// Entries that one page may look at.
const SCANNED_MAX: usize = 2_000;

/// Selection of what happened.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only of this principal.
    pub principal: Option<Principal>,
    /// Only what this device was asked for.
    pub target: Option<PeerId>,
    /// Only what was about this tool.
    pub tool: Option<ToolName>,
    /// Only what was answered so.
    pub verdict: Option<Verdict>,
    /// Only what happened at this wall time or later.
    pub since_ms: Option<u64>,
    /// Only what happened before this wall time.
    pub until_ms: Option<u64>,
}

impl AuditFilter {
    fn passes(&self, row: &AuditRow) -> bool {
        let same_tool = |tool: &ToolName| row.tool.as_ref().is_some_and(|of| of.folded() == tool.folded());
        self.principal.as_ref().is_none_or(|principal| row.principal.as_ref() == Some(principal))
            && self.target.is_none_or(|target| row.target == Some(target))
            && self.tool.as_ref().is_none_or(same_tool)
            && self.verdict.is_none_or(|verdict| row.verdict == verdict)
            && self.since_ms.is_none_or(|since| row.last_ms >= since)
            && self.until_ms.is_none_or(|until| row.at_ms < until)
    }
}

/// Place of a row: where its entry stands among all, and which row of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor {
    /// Wall time by which the entry is kept.
    pub at_ms: u64,
    /// The entry.
    pub place: Place,
    /// Its row, from 0; all rows of an entry that was only passed over.
    pub row: u16,
}

/// One row, and whose it is.
#[derive(Debug, Clone)]
pub struct AuditItem {
    /// Where it stands.
    pub at: AuditCursor,
    /// The device at whose doors it happened.
    pub device: PeerId,
    /// The row.
    pub row: AuditRow,
    /// So many more happened there about then, of which nothing is known.
    pub left_out: u64,
}

/// A page, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditPage {
    /// The rows.
    pub items: Vec<AuditItem>,
    /// Where the search ended, if there may be more.
    pub next: Option<AuditCursor>,
}

/// Reads a page. `after`: the last row that was shown.
pub(super) fn read_page(
    store: &dyn Store,
    filter: &AuditFilter,
    after: Option<AuditCursor>,
    limit: usize,
) -> Result<AuditPage, MeshError> {
    let mut page = AuditPage::default();
    let mut end = after.map_or(Bound::Unbounded, |after| Bound::Included(rows::audit(after.at_ms, &after.place).key));
    let mut scanned = 0;
    loop {
        let rows = store.range(Space::Audit, Bound::Unbounded, end, true, 64).map_err(MeshError::Store)?;
        let Some((last, _)) = rows.last() else { return Ok(page) };
        for (key, value) in &rows {
            let Some((at_ms, place)) = rows::audit_of(key) else { continue };
            if filter.since_ms.is_some_and(|since| at_ms < since) {
                return Ok(page);
            }
            let batch = SignedEntry::from_bytes(value).and_then(|entry| AuditBatch::of(&entry)).unwrap_or_default();
            for (row, said) in (0_u16..).zip(batch.rows).collect::<Vec<_>>().into_iter().rev() {
                let at = AuditCursor { at_ms, place, row };
                if after.is_some_and(|after| at >= after) || !filter.passes(&said) {
                    continue;
                }
                if page.items.len() == limit {
                    page.next = page.items.last().map(|item| item.at);
                    return Ok(page);
                }
                page.items.push(AuditItem { at, device: place.author, row: said, left_out: batch.left_out });
            }
        }
        scanned += rows.len();
        if scanned >= SCANNED_MAX {
            page.next = rows::audit_of(last).map(|(at_ms, place)| AuditCursor { at_ms, place, row: 0 });
            return Ok(page);
        }
        end = Bound::Excluded(last.clone());
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::audience::Audience;
    use mesh_core::audit_record::Happened;
    use mesh_core::crypto::Symbolic;
    use mesh_core::entry::{Kind, encode};
    use mesh_core::ids::MeshId;
    use mesh_core::io::{Batch, Now};
    use mesh_core::test_kit::Author;
    use tokio::sync::mpsc;

    use super::*;
    use crate::mesh::store::MemStore;

    fn row(n: usize, tool: &str) -> AuditRow {
        AuditRow {
            tool: Some(tool.parse().unwrap()),
            ..AuditRow::new(Happened::CallRefused, None, Verdict::Deny, &n.to_string())
        }
    }

    #[test]
    fn pages_show_each_row_once_newest_first() {
        let now = Now { mono_ms: 0, wall_ms: 0 };
        let mut author = Author::new(Symbolic::new(1), MeshId([3; 32]), now);
        let store = MemStore::new(mpsc::channel(8).0);
        let mut batch = Batch::default();
        for n in 0..20 {
            let said = AuditBatch { rows: vec![row(2 * n, "a"), row(2 * n + 1, "B.c")], left_out: 0 };
            let entry = author.entry(Kind::AUDIT, encode(&said), |entry| entry.audience = Audience::Owners);
            batch.writes.push(rows::audit(n as u64 / 3, &entry.place()).put(&entry));
        }
        store.commit(1, batch);
        for (filter, limit, expected) in [
            (AuditFilter::default(), 7, (0..40).rev().collect::<Vec<usize>>()),
            (AuditFilter { tool: Some("b.c".parse().unwrap()), ..AuditFilter::default() }, 3, {
                (0..20).rev().map(|n| 2 * n + 1).collect()
            }),
            (AuditFilter { verdict: Some(Verdict::Allow), ..AuditFilter::default() }, 3, Vec::new()),
        ] {
            let (mut after, mut shown) = (None, Vec::new());
            loop {
                let page = read_page(&store, &filter, after, limit).unwrap();
                assert!(page.items.len() <= limit);
                shown.extend(page.items.iter().map(|item| item.row.rule.parse::<usize>().unwrap()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(shown, expected);
        }
    }
}
