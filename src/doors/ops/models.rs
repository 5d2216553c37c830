//! Models on this device: which are known, what is here of them, whether it is what it should be. None is fetched without a
//! person's yes to its licence and its size.

use std::path::Path;

use memory_models::catalogue::{Entry, MODELS};
use memory_models::weights::FileError;

use super::pulls::{Pull, Pulls};
use crate::memory::{ModelFiles, Presence, models_of};
use crate::status::{ErrorCode, OpError};

/// A model, and what is here of it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The model.
    pub entry: &'static Entry,
    /// As far as names and sizes tell.
    pub presence: Presence,
    /// Memory uses it.
    pub in_use: bool,
    /// It is being fetched, or was not fetched whole.
    pub pull: Option<Pull>,
}

/// A yes to what a model comes with. It says it again, so that nobody says yes to what was not read.
#[derive(Debug, Clone)]
pub struct Yes {
    /// Its licence.
    pub licence: String,
    /// Size of all its files.
    pub bytes: u64,
}

/// All models that are known, the recommended one first.
#[must_use]
pub fn list(home: &Path, pulls: &Pulls) -> Vec<Listed> {
    let files = ModelFiles::new(models_of(home));
    let in_use = [files.in_use(), files.writer()];
    let listed = |entry| Listed {
        entry,
        presence: files.presence(entry),
        in_use: in_use.contains(&Some(entry)),
        pull: pulls.of(entry),
    };
    MODELS.iter().map(listed).collect()
}

/// Begins to fetch what is lacking of a model; how far it has come, the list tells.
///
/// # Errors
/// No such model; the yes is to something else, and then nothing is fetched.
pub fn begin_pull(home: &Path, pulls: &Pulls, name: &str, yes: &Yes) -> Result<Listed, OpError> {
    let entry = named(name)?;
    if yes.licence != entry.licence || yes.bytes != entry.bytes() {
        let shown = format!("{} of {} bytes under {} is what `{name}` is", entry.what, entry.bytes(), entry.licence);
        return Err(OpError::new(ErrorCode::Conflict, format!("nothing was fetched: {shown}"))
            .hint("say yes to that: repeat its licence and its size in bytes, as GET /api/v1/models shows them"));
    }
    if ModelFiles::new(models_of(home)).presence(entry) != Presence::Whole {
        pulls.begin(entry)?;
    }
    list(home, pulls).into_iter().find(|listed| listed.entry == entry).ok_or_else(|| absent(name))
}

/// Reads every file of a model that is here. `Some`: what is wrong with the first that is not what it should be.
///
/// # Errors
/// No such model, or nothing of it is here.
pub async fn verify(home: &Path, name: &str) -> Result<Option<String>, OpError> {
    let (files, entry) = here(home, name)?;
    blocking(move || files.verify(entry)).await.map(|verified| verified.err().map(|error| chain(&error)))
}

/// Removes all that is here of a model, and ends its fetching. A process that has it loaded goes on with it until it is asked next.
///
/// # Errors
/// No such model, or nothing of it is here; the disk.
pub async fn remove(home: &Path, pulls: &Pulls, name: &str) -> Result<(), OpError> {
    pulls.end(named(name)?);
    let (files, entry) = here(home, name)?;
    match blocking(move || files.remove(entry)).await? {
        Ok(true) => Ok(()),
        Ok(false) => Err(absent(name)),
        Err(error) => Err(OpError::new(ErrorCode::Internal, format!("removing `{name}`: {error}"))),
    }
}

fn named(name: &str) -> Result<&'static Entry, OpError> {
    Entry::named(name).ok_or_else(|| {
        OpError::new(ErrorCode::NotFound, format!("no model is called `{name}`"))
            .hint("`sigil model list` and GET /api/v1/models show all that are known")
    })
}

fn here(home: &Path, name: &str) -> Result<(ModelFiles, &'static Entry), OpError> {
    let entry = named(name)?;
    let files = ModelFiles::new(models_of(home));
    if files.presence(entry) == Presence::Absent { Err(absent(name)) } else { Ok((files, entry)) }
}

fn absent(name: &str) -> OpError {
    OpError::new(ErrorCode::NotFound, format!("`{name}` is not on this device"))
        .hint(format!("`sigil model pull {name}` gets it"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OpError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| OpError::new(ErrorCode::Internal, error.to_string()))
}

fn chain(error: &FileError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
