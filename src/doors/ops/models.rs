//! Models on this device: which are known, what is here of them, whether it is what it should be. None is fetched here: that
//! needs a person's yes to licence and size, and is done by `sigil model pull`.

use std::path::Path;

use memory_models::catalogue::{Entry, MODELS};
use memory_models::weights::FileError;

use crate::memory::{ModelFiles, Presence, models_of};
use crate::status::{ErrorCode, OpError};

/// A model, and what is here of it.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// The model.
    pub entry: &'static Entry,
    /// As far as names and sizes tell.
    pub presence: Presence,
    /// Memory uses it.
    pub in_use: bool,
}

/// All models that are known, the recommended one first.
#[must_use]
pub fn list(home: &Path) -> Vec<Listed> {
    let files = ModelFiles::new(models_of(home));
    let in_use = [files.in_use(), files.writer()];
    let listed = |entry| Listed { entry, presence: files.presence(entry), in_use: in_use.contains(&Some(entry)) };
    MODELS.iter().map(listed).collect()
}

/// Reads every file of a model that is here. `Some`: what is wrong with the first that is not what it should be.
///
/// # Errors
/// No such model, or nothing of it is here.
pub async fn verify(home: &Path, name: &str) -> Result<Option<String>, OpError> {
    let (files, entry) = here(home, name)?;
    blocking(move || files.verify(entry)).await.map(|verified| verified.err().map(|error| chain(&error)))
}

/// Removes all that is here of a model. A process that has it loaded goes on with it until it is asked next.
///
/// # Errors
/// No such model, or nothing of it is here; the disk.
pub async fn remove(home: &Path, name: &str) -> Result<(), OpError> {
    let (files, entry) = here(home, name)?;
    match blocking(move || files.remove(entry)).await? {
        Ok(true) => Ok(()),
        Ok(false) => Err(absent(name)),
        Err(error) => Err(OpError::new(ErrorCode::Internal, format!("removing `{name}`: {error}"))),
    }
}

fn here(home: &Path, name: &str) -> Result<(ModelFiles, &'static Entry), OpError> {
    let entry = Entry::named(name).ok_or_else(|| {
        OpError::new(ErrorCode::NotFound, format!("no model is called `{name}`"))
            .hint("`sigil model list` and GET /api/v1/models show all that are known")
    })?;
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
