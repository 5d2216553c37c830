//! Models on this device's disk: a directory for each, below that of all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use memory_models::BUILT_IN;
use memory_models::catalogue::{Entry, File, MODELS};
use memory_models::weights::{self, FileError};

/// Left behind by [`ModelFiles::offer`].
const OFFERED: &str = "offered";

/// Directory of all models in a home.
#[must_use]
pub fn dir_of(home: &Path) -> PathBuf {
    home.join("models")
}

/// State of a model on this disk, as far as names and sizes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// All its files are there, each of its size.
    Whole,
    /// Some are; or what has come of them so far.
    Partial {
        /// Bytes that are there.
        bytes: u64,
    },
    /// Nothing of it is there.
    Absent,
}

/// Models of one home. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    dir: PathBuf,
}

impl ModelFiles {
    /// Those below a directory, which need not be there.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Directory of a model.
    #[must_use]
    pub fn dir(&self, entry: &Entry) -> PathBuf {
        self.dir.join(entry.name)
    }

    /// Place of a file.
    #[must_use]
    pub fn path(&self, entry: &Entry, file: &File) -> PathBuf {
        self.dir(entry).join(file.name)
    }

    /// Place of a file that has not come whole.
    #[must_use]
    pub fn part_path(&self, entry: &Entry, file: &File) -> PathBuf {
        self.dir(entry).join(format!("{}.part", file.name))
    }

    /// What is there of a model. Whether it is what it should be, [`ModelFiles::verify`] tells, and whoever loads it.
    #[must_use]
    pub fn presence(&self, entry: &Entry) -> Presence {
        let size = |path: PathBuf| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
        let whole = entry.files().iter().all(|file| size(self.path(entry, file)) == Some(file.bytes));
        if whole {
            return Presence::Whole;
        }
        let of = |file: &File| size(self.path(entry, file)).or_else(|| size(self.part_path(entry, file))).unwrap_or(0);
        match entry.files().iter().map(of).sum() {
            0 => Presence::Absent,
            bytes => Presence::Partial { bytes },
        }
    }

    /// The model by which memory is searched: the first of the catalogue that gives vectors and is whole.
    #[must_use]
    pub fn in_use(&self) -> Option<&'static Entry> {
        MODELS.iter().find(|entry| !entry.writes() && self.presence(entry) == Presence::Whole)
    }

    /// The model that writes for memory: the first of the catalogue that does and is whole.
    #[must_use]
    pub fn writer(&self) -> Option<&'static Entry> {
        MODELS.iter().find(|entry| entry.writes() && self.presence(entry) == Presence::Whole)
    }

    /// The model that is worth a word to whoever starts an agent: the recommended one, once for each home, while there is
    /// none.
    #[must_use]
    pub fn offer(&self) -> Option<&'static Entry> {
        let entry = MODELS.first().filter(|_| BUILT_IN && self.in_use().is_none())?;
        crate::platform::create_private_dir(&self.dir).ok()?;
        fs::File::create_new(self.dir.join(OFFERED)).ok().map(|_| entry)
    }

    /// Reads every file of a model and compares its hash. Blocks.
    ///
    /// # Errors
    /// The first that is not what it should be.
    pub fn verify(&self, entry: &Entry) -> Result<(), FileError> {
        for file in entry.files() {
            let path = self.path(entry, &file);
            let got = weights::hash_of(&path)?;
            if file.sha() != Some(got) {
                let (got, want) = (weights::hex(&got), file.sha256.to_owned());
                return Err(FileError::Hash { path: path.display().to_string(), got, want });
            }
        }
        Ok(())
    }

    /// Removes all that is there of a model; `false` if nothing is. A process that has it loaded goes on with it until it ends.
    ///
    /// # Errors
    /// The disk.
    pub fn remove(&self, entry: &Entry) -> io::Result<bool> {
        match fs::remove_dir_all(self.dir(entry)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_counts_when_all_its_files_are_whole() {
        let home = tempfile::tempdir().unwrap();
        let (files, entry) = (ModelFiles::new(dir_of(home.path())), &MODELS[0]);
        assert_eq!((files.presence(entry), files.in_use()), (Presence::Absent, None));
        fs::create_dir_all(files.dir(entry)).unwrap();
        fs::write(files.part_path(entry, &entry.weights), b"abc").unwrap();
        assert_eq!(files.presence(entry), Presence::Partial { bytes: 3 });
        for file in entry.files() {
            fs::File::create(files.path(entry, &file)).unwrap().set_len(file.bytes).unwrap();
        }
        assert_eq!((files.presence(entry), files.in_use()), (Presence::Whole, Some(entry)));
        assert_eq!(files.offer(), None, "there is one");
        // Its size is right, and it is something else.
        assert!(matches!(files.verify(entry), Err(FileError::Hash { .. })));
        assert!(files.remove(entry).unwrap() && !files.remove(entry).unwrap());
        assert_eq!(files.presence(entry), Presence::Absent);
        assert_eq!(files.offer(), Some(entry).filter(|_| BUILT_IN));
        assert_eq!(files.offer(), None, "once");
    }
}
