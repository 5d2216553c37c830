//! Memory of a workspace: appended to, asked, compacted, looked through, corrected, forgotten.
//!
//! So far there is one workspace, `home`, which devices of tier owner hold. Whoever looks after the mesh may use it; to all
//! others it is as if it were not there. The first parameter of every function is a [`Place`], which only [`place`] gives.

use memory_core::compaction::{Report, Trigger};
use memory_core::ids::{MessageKey, WorkspaceId};
use mesh_core::io::Refusal;
use mesh_core::policy::Domain;
use mesh_core::record::Tier;

use crate::doors::identity::Identity;
use crate::memory::{
    Answer, Appended, Embedding, Fact, Forgotten, Item, MemoryHandle, Mode, NewMessage, Question, Selection, Stats,
    SummaryShown, Wanted, Writing, WritingWatch, home_of,
};
use crate::mesh::MeshHandle;
use crate::status::{ErrorCode, OpError};

/// Name of the workspace that there is without anybody making one.
pub const HOME: &str = "home";
/// Messages of one request.
pub const MESSAGES_MAX: usize = 1_000;
/// Questions of one request.
pub const QUESTIONS_MAX: usize = 16;
/// Batches that one request compacts; whoever wants all asks again.
const BATCHES_AT_ONCE: usize = 20;

/// The memory of a workspace that the caller may use.
#[derive(Debug, Clone)]
pub struct Place {
    memory: MemoryHandle,
    workspace: WorkspaceId,
}

/// Use that is made of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is looked at.
    Read,
    /// It is appended to, compacted, corrected, or something of it forgotten.
    Write,
}

/// The memory of a workspace by its name, if the caller may use it and this device may hold it.
///
/// # Errors
/// [`ErrorCode::UnknownWorkspace`], the same for one that is not there and one that is none of the caller's business;
/// [`ErrorCode::NoHolder`] at a device that holds none; [`ErrorCode::Denied`] for a token that only reads.
pub fn place(
    mesh: &MeshHandle,
    memory: &MemoryHandle,
    who: &Identity,
    name: &Domain,
    of: Use,
) -> Result<Place, OpError> {
    let view = mesh.view();
    if !who.may_use_memory(&view.rights) || name.to_string() != HOME {
        let shown = format!("there is no memory of a workspace `{name}`, or it is not open to you");
        return Err(OpError::new(ErrorCode::UnknownWorkspace, shown).hint(
            "the memory of this mesh is that of `home`; it is open to `sigil` on an owner's device, to MCP clients that its owners or admins start there, and to tokens of owners and admins that are not narrowed",
        ));
    }
    if view.by_peer(&view.me).is_none_or(|me| me.tier != Tier::Owner) {
        return Err(OpError::new(ErrorCode::NoHolder, "this device holds no memory: devices of tier owner do")
            .hint("ask on a device that `sigil nodes` shows as owner"));
    }
    if of == Use::Write && !matches!(who, Identity::Client(_)) {
        who.require_admin(&view.rights)?;
    }
    Ok(Place { memory: memory.clone(), workspace: home_of(&view.mesh) })
}

/// Appends messages; durable when it comes back. `by_content`: one without an id gets one of its content, so that the same
/// import a second time changes nothing.
///
/// # Errors
/// The first message that is over its limits, and then nothing is stored; [`ErrorCode::DiskFull`].
pub async fn append(
    place: &Place,
    mesh: &MeshHandle,
    messages: Vec<NewMessage>,
    by_content: bool,
) -> Result<Vec<Appended>, OpError> {
    if let Some(disk) = mesh.view().disk {
        return Err(Refusal::DiskFull { free: disk.free, floor: disk.floor }.into());
    }
    Ok(place.memory.run(place.workspace, move |it| it.append(messages, by_content)).await?)
}

/// Looks for what answers each question.
///
/// # Errors
/// The disk.
pub async fn ask(place: &Place, mut questions: Vec<Question>) -> Result<Vec<Answer>, OpError> {
    if let Some(meaning) = place.memory.meaning() {
        for question in questions.iter_mut().filter(|question| question.mode != Mode::Text) {
            question.vector = meaning.of_question(&question.text).await;
            // What one has waited for in vain, the others need not.
            if question.vector.is_none() {
                break;
            }
        }
    }
    let work = move |it: &mut crate::memory::Workspace| questions.iter().map(|question| it.ask(question)).collect();
    Ok(place.memory.run(place.workspace, work).await?)
}

/// All that a compaction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// What is durable of it.
    pub report: Report,
    /// More could be taken: ask again.
    pub more: bool,
}

/// Takes the oldest batch, or `all` of what is there beyond the newest `keep` messages, a batch at a time so that others are
/// answered in between.
///
/// # Errors
/// The disk.
pub async fn compact(place: &Place, keep: usize, all: bool) -> Result<Compacted, OpError> {
    let mut report = Report::default();
    for _ in 0..if all { BATCHES_AT_ONCE } else { 1 } {
        let work = move |it: &mut crate::memory::Workspace| {
            let of_batch = it.compact(Trigger::Asked { keep })?;
            Ok((of_batch, it.reader().stats().recent > keep))
        };
        let (of_batch, more) = place.memory.run(place.workspace, work).await?;
        report = report.plus(of_batch);
        if !more || of_batch.summaries_created == 0 {
            return Ok(Compacted { report, more: false });
        }
    }
    Ok(Compacted { report, more: true })
}

/// A page of messages.
#[derive(Debug)]
pub struct Page {
    /// Oldest first.
    pub items: Vec<Item>,
    /// Start of the next page.
    pub next: Option<crate::memory::Place>,
}

/// Lists messages, oldest first, at most `limit`.
///
/// # Errors
/// The disk.
pub async fn list(
    place: &Place,
    wanted: Wanted,
    after: Option<crate::memory::Place>,
    limit: usize,
) -> Result<Page, OpError> {
    let (items, next) = place.memory.run(place.workspace, move |it| it.reader().list(wanted, after, limit)).await?;
    Ok(Page { items, next })
}

/// The messages that a caller appended under this id of its own.
///
/// # Errors
/// The disk.
pub async fn by_external_id(place: &Place, id: String) -> Result<Vec<Item>, OpError> {
    Ok(place.memory.run(place.workspace, move |it| it.reader().by_external_id(&id)).await?)
}

/// One message.
///
/// # Errors
/// [`ErrorCode::UnknownItem`]; the disk.
pub async fn get(place: &Place, key: MessageKey) -> Result<Item, OpError> {
    Ok(place.memory.run(place.workspace, move |it| it.reader().get(&key)).await?)
}

/// Summaries that reach into a time, the newest first, at most `limit`.
///
/// # Errors
/// The disk.
pub async fn summaries(place: &Place, from_ms: i64, to_ms: i64, limit: usize) -> Result<Vec<SummaryShown>, OpError> {
    Ok(place.memory.run(place.workspace, move |it| it.reader().summaries(from_ms, to_ms, limit)).await?)
}

/// Facts about a topic, the newest first, at most `limit`.
///
/// # Errors
/// The disk.
pub async fn facts(place: &Place, topic: String, as_of_ms: Option<i64>, limit: usize) -> Result<Vec<Fact>, OpError> {
    Ok(place.memory.run(place.workspace, move |it| it.reader().facts(&topic, as_of_ms, limit)).await?)
}

/// Gives a message another text; `false`: it says that already.
///
/// # Errors
/// [`ErrorCode::UnknownItem`]; the text is over its limits; the disk.
pub async fn correct(place: &Place, key: MessageKey, text: String) -> Result<bool, OpError> {
    Ok(place.memory.run(place.workspace, move |it| it.correct(&key, text)).await?)
}

/// Forgets a selection for ever, or only lists what would go.
///
/// # Errors
/// The disk.
pub async fn forget(place: &Place, selection: Selection, only_preview: bool) -> Result<Forgotten, OpError> {
    let work = move |it: &mut crate::memory::Workspace| {
        if only_preview { it.preview(&selection) } else { it.forget(&selection) }
    };
    Ok(place.memory.run(place.workspace, work).await?)
}

/// Removes the bytes of what was forgotten from the files of this device; `false` if there are none.
///
/// # Errors
/// The disk.
pub async fn vacuum(place: &Place) -> Result<bool, OpError> {
    let work = |it: &mut crate::memory::Workspace| {
        let is_due = it.is_vacuum_due();
        if is_due { it.vacuum().map(|()| true) } else { Ok(false) }
    };
    Ok(place.memory.run(place.workspace, work).await?)
}

/// How the vectors of the workspace are coming along; `None` in an agent that has no way to a model.
///
/// # Errors
/// It cannot be opened.
pub async fn embedding(place: &Place) -> Result<Option<Embedding>, OpError> {
    let progress = place.memory.run(place.workspace, |it| Ok(it.vectors().progress())).await?;
    Ok(place.memory.meaning().map(|meaning| meaning.embedding(progress)))
}

/// How a model's words are coming along; `None` in an agent that has no way to a model.
#[must_use]
pub fn writing(place: &Place) -> Option<Writing> {
    place.memory.writing().map(WritingWatch::writing)
}

/// Numbers of the workspace.
///
/// # Errors
/// It cannot be opened.
pub async fn stats(place: &Place) -> Result<Stats, OpError> {
    Ok(place.memory.run(place.workspace, |it| Ok(it.reader().stats())).await?)
}
