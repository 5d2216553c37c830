//! Format number of a store: how its owner lays out keys and values. It lies in a file beside the database, so that a
//! store of another format is refused before anything of it is opened.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::error::StoreError;
use crate::platform;

/// Stores without a number were written before there were numbers.
const UNNUMBERED: u32 = 1;

/// The format that an owner reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Its number, from 2: a store without a number counts as 1.
    pub number: u32,
    /// Advice for a store of another format. Follows a semicolon.
    pub remedy: &'static str,
}

impl Format {
    /// Refuses the store in `dir` if it has another format. Changes nothing on disk.
    pub(super) fn check(self, dir: &Path) -> Result<(), StoreError> {
        // In this order: whoever makes a database has written the number before.
        let database = dir.join("db");
        let exists = database.try_exists().map_err(StoreError::file("looking for", &database))?;
        let found = match (read(dir)?, exists) {
            (Some(Ok(number)), _) => number,
            (None, true) => UNNUMBERED,
            // The machine may have stopped while a new store was being made.
            (Some(Err(_)) | None, false) => return Ok(()),
            (Some(Err(error)), true) => return Err(StoreError::file("reading", dir.join("format"))(error)),
        };
        if found == self.number {
            return Ok(());
        }
        Err(StoreError::Format { dir: dir.to_owned(), found, readable: self.number, remedy: self.remedy })
    }

    /// Notes the format of a store that has no database yet, durably. One that has was checked.
    pub(super) fn write_if_new(self, dir: &Path) -> Result<(), StoreError> {
        let database = dir.join("db");
        if database.try_exists().map_err(StoreError::file("looking for", &database))? {
            return Ok(());
        }
        let path = dir.join("format");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{}", self.number).and_then(|()| file.sync_all()));
        let synced = written.and_then(|()| platform::sync_dir(dir));
        synced.map_err(StoreError::file("writing", path))
    }
}

/// The number in the store's file, if there is one; the inner error says that it is none.
fn read(dir: &Path) -> Result<Option<io::Result<u32>>, StoreError> {
    let path = dir.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Err(error))),
        Err(error) => Err(StoreError::file("reading", path)(error)),
    }
}
