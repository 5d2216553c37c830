//! Plugins on this device's disk: taken in from a folder, allowed, changed, removed.
//!
//! `<home>/plugins/NAME/` holds a folder for each version, called by its hash, and `record.json`, which names the one that counts
//! and what its owner allows it. A version is written whole before the record names it, so that none is ever half of another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use mesh_core::ids::Hash;
use nix::fcntl::OFlag;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::mesh::clock;
use crate::platform;
use crate::plugin::{self, Consent, FILE_NAME, MANIFEST_BYTES_MAX, ManifestError, Plugin, PluginName, Read, Runs};

/// Files and folders of a plugin.
const FILES_MAX: usize = 1_000;
/// Bytes of all its files.
const BYTES_MAX: u64 = 64 << 20;
/// Nesting of its folders.
const DEPTH_MAX: usize = 16;
/// Plugins of a device.
const PLUGINS_MAX: usize = 256;
/// Characters of the name of a version's folder.
const FOLDER_CHARS: usize = 16;
/// Mode of what a plugin may read and run of its own, as whoever its process runs as; the folder around it is the agent's alone.
const READABLE: u32 = 0o755;
/// Name of the record.
const RECORD: &str = "record.json";
/// Name of the file of what was seen of its tools, if it is an MCP server: it goes when the plugin does.
pub(super) const PINS: &str = "pins.json";
/// Name of the file that says which image it was allowed.
const IMAGE: &str = "image";

/// The plugins of a home. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Plugins {
    dir: PathBuf,
}

/// A plugin that is installed.
#[derive(Debug, Clone, PartialEq)]
pub struct Installed {
    /// Its name.
    pub name: PluginName,
    /// The folder of its files.
    pub folder: PathBuf,
    /// Hash of its files, as they are now.
    pub hash: String,
    /// Wall time at which it was installed.
    pub installed_ms: u64,
    /// Wall time of its owner's last word on what it may do.
    pub allowed_ms: u64,
    /// What it is, or why that cannot be said.
    pub manifest: Result<Read, String>,
    /// What its owner has still to allow; empty: it may run.
    pub lacking: BTreeSet<Consent>,
    /// True if its files are not those that were installed.
    pub changed: bool,
}

/// A folder that may be installed.
#[derive(Debug, Clone)]
pub struct Looked {
    /// Its manifest.
    pub read: Read,
    /// Hash of its files.
    pub hash: String,
    /// Number of them.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    entries: Vec<Entry>,
}

/// A reason for which a plugin cannot be taken in, or worked on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// Its manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// No manifest.
    #[error("{} has no {FILE_NAME}", .0.display())]
    NoManifest(PathBuf),
    /// Something in it.
    #[error("{path} {why}", path = path.display())]
    Entry {
        /// The path in it.
        path: PathBuf,
        /// The cause.
        why: &'static str,
    },
    /// More than a plugin may hold.
    #[error("it holds more than {FILES_MAX} files, 64 MiB or {DEPTH_MAX} folders in each other")]
    TooLarge,
    /// More than a device may have.
    #[error("this device has {PLUGINS_MAX} plugins already: `sigil plugin remove NAME` takes one away")]
    TooMany,
    /// Nothing of this name.
    #[error("no plugin `{0}` is installed")]
    Unknown(PluginName),
    /// The file system.
    #[error("{doing} {path}: {source}", path = path.display())]
    Disk {
        /// The operation that failed.
        doing: &'static str,
        /// Its object.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The mark by which changed plugins are told without reading them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp(Option<Hash>);

#[derive(Debug, Clone)]
struct Entry {
    path: PathBuf,
    is_dir: bool,
    runs: bool,
    bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Hash of the files that were installed.
    hash: String,
    installed_ms: u64,
    /// Hash that the owner's word is about.
    #[serde(default)]
    allowed_hash: String,
    /// `process`, `host-network`.
    #[serde(default)]
    allowed: BTreeSet<String>,
    /// Wall time of the last such word.
    #[serde(default)]
    allowed_ms: u64,
    /// Where the paths that it asks for led when that was allowed.
    #[serde(default)]
    paths: BTreeMap<PathBuf, PathBuf>,
}

fn disk<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PluginError + 'a {
    move |source| PluginError::Disk { doing, path: path.to_owned(), source }
}

/// Looks at a folder as if it were to be installed.
///
/// # Errors
/// It cannot be.
pub fn look(dir: &Path) -> Result<Looked, PluginError> {
    let path = dir.join(FILE_NAME);
    let text = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(PluginError::NoManifest(dir.to_owned())),
        Err(error) => return Err(disk("looking at", &path)(error)),
        Ok(found) if found.len() > MANIFEST_BYTES_MAX as u64 => {
            return Err(ManifestError::TooLarge(usize::try_from(found.len()).unwrap_or(usize::MAX)).into());
        }
        Ok(found) if !found.is_file() => {
            return Err(PluginError::Entry { path: FILE_NAME.into(), why: "is not a file" });
        }
        // It may have become another since.
        Ok(_) => {
            let file = fs::File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path);
            let mut text = Vec::new();
            let most = MANIFEST_BYTES_MAX as u64 + 1;
            file.and_then(|file| file.take(most).read_to_end(&mut text)).map_err(disk("reading", &path))?;
            text
        }
    };
    let text = String::from_utf8(text)
        .map_err(|_| PluginError::Entry { path: FILE_NAME.into(), why: "is not text in UTF-8" })?;
    let read = plugin::read(&text)?;
    let entries = entries(dir)?;
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    let files = entries.iter().filter(|entry| !entry.is_dir).count();
    Ok(Looked { read, hash: hash_of(dir, &entries)?, files, bytes, entries })
}

/// All that is in a folder, in order.
fn entries(dir: &Path) -> Result<Vec<Entry>, PluginError> {
    let mut found = Vec::new();
    let mut todo = vec![(PathBuf::new(), 0)];
    let mut bytes = 0_u64;
    while let Some((at, depth)) = todo.pop() {
        let path = dir.join(&at);
        for entry in fs::read_dir(&path).map_err(disk("listing", &path))? {
            let entry = entry.map_err(disk("listing", &path))?;
            let (path, full) = (at.join(entry.file_name()), entry.path());
            // Of a link this tells the link.
            let kind = fs::symlink_metadata(&full).map_err(disk("looking at", &full))?;
            if path.to_str().is_none() {
                return Err(PluginError::Entry { path, why: "has a name that is not text in UTF-8" });
            }
            if kind.is_symlink() {
                return Err(PluginError::Entry { path, why: "is a symbolic link: copy what it leads to" });
            }
            if !kind.is_dir() && !kind.is_file() {
                return Err(PluginError::Entry { path, why: "is neither a file nor a folder" });
            }
            let size = if kind.is_file() { kind.size() } else { 0 };
            bytes = bytes.saturating_add(size);
            if kind.is_dir() {
                todo.push((path.clone(), depth + 1));
            }
            found.push(Entry { path, is_dir: kind.is_dir(), runs: kind.mode() & 0o111 != 0, bytes: size });
            if found.len() > FILES_MAX || bytes > BYTES_MAX || depth > DEPTH_MAX {
                return Err(PluginError::TooLarge);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Hash of all files: their paths, whether they may be executed, and what is in them.
fn hash_of(dir: &Path, entries: &[Entry]) -> Result<String, PluginError> {
    let mut context = Context::new(&SHA256);
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        let path = dir.join(&entry.path);
        let name = entry.path.as_os_str().as_encoded_bytes();
        let mut content = Context::new(&SHA256);
        copy_into(&path, entry.bytes, |piece| {
            content.update(piece);
            Ok(())
        })?;
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name);
        context.update(&[u8::from(entry.runs)]);
        context.update(content.finish().as_ref());
    }
    Ok(HEXLOWER.encode(context.finish().as_ref()))
}

/// Reads a file of so many bytes in pieces.
fn copy_into(path: &Path, bytes: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), PluginError> {
    let file = fs::File::open(path).map_err(disk("opening", path))?;
    let (mut file, mut chunk) = (file.take(bytes + 1), vec![0; 64 << 10]);
    let mut read = 0;
    loop {
        let len = file.read(&mut chunk).map_err(disk("reading", path))?;
        if len == 0 {
            break;
        }
        read += len as u64;
        take(chunk.get(..len).unwrap_or_default()).map_err(disk("copying", path))?;
    }
    if read == bytes {
        return Ok(());
    }
    Err(PluginError::Entry { path: path.to_owned(), why: "changed while it was read: try again" })
}

/// Paths that a plugin asks for.
fn paths_of(plugin: &Plugin) -> impl Iterator<Item = &PathBuf> {
    plugin.program().into_iter().flat_map(|program| program.read.iter().chain(&program.write))
}

/// Where these lead now.
fn leads(plugin: &Plugin) -> Result<BTreeMap<PathBuf, PathBuf>, PluginError> {
    let lead = |path: &PathBuf| match fs::canonicalize(path) {
        Ok(real) => Ok((path.clone(), real)),
        Err(source) => Err(PluginError::Disk {
            doing: "looking for what it asks for, before it can be allowed:",
            path: path.clone(),
            source,
        }),
    };
    paths_of(plugin).map(lead).collect()
}

impl Plugins {
    /// Those of a home.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        Self { dir: home.join("plugins") }
    }

    /// Takes a folder in, in place of a plugin of its name, with what its owner allows it at once. What an earlier version was
    /// allowed counts for that alone.
    ///
    /// # Errors
    /// The folder cannot be a plugin, or the disk: then everything is as it was.
    pub fn install(&self, from: &Path, allowed: &BTreeSet<Consent>) -> Result<Installed, PluginError> {
        let Looked { read, hash, entries, .. } = look(from)?;
        let manifest = read.plugin;
        let name = manifest.name.clone();
        let new_paths = allowed.contains(&Consent::HostData).then(|| leads(&manifest)).transpose()?;
        let home = self.dir.join(name.as_str());
        if !home.exists() && self.names()?.len() >= PLUGINS_MAX {
            return Err(PluginError::TooMany);
        }
        platform::create_private_dir(&home).map_err(disk("making", &home))?;
        let old = self.record(&name).ok();
        let part = tempfile::Builder::new()
            .prefix(".new-")
            .permissions(fs::Permissions::from_mode(READABLE))
            .tempdir_in(&home)
            .map_err(disk("making", &home))?;
        for entry in &entries {
            copy(from, part.path(), entry)?;
        }
        // What was copied is what was looked at, whoever changed it meanwhile.
        let copied = self::entries(part.path()).and_then(|entries| hash_of(part.path(), &entries))?;
        if copied != hash {
            return Err(PluginError::Entry { path: from.to_owned(), why: "changed while it was copied: try again" });
        }
        let folder = home.join(folder_of(&hash));
        // What runs of the same version keeps its files; they are put right only where somebody has changed them.
        let is_there = self::entries(&folder).and_then(|entries| hash_of(&folder, &entries)).is_ok_and(|is| is == hash);
        if !is_there {
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(disk("removing", &folder))?;
            }
            let part = part.keep();
            fs::rename(&part, &folder).map_err(disk("moving into place", &folder))?;
        }
        let kept = old.filter(|old| old.allowed_hash == hash);
        // The same files without a word more: what was allowed is what it was.
        let is_word = kept.is_none() || !allowed.is_empty();
        let (kept, old_paths) = kept.map(|old| (old.allowed, old.paths)).unwrap_or_default();
        let allowed = allowed.iter().map(ToString::to_string).chain(kept).collect();
        let paths = new_paths.unwrap_or(old_paths);
        let installed_ms = clock::now().wall_ms;
        let record =
            Record { hash: hash.clone(), installed_ms, allowed_hash: hash, allowed, allowed_ms: installed_ms, paths };
        self.write(&name, &record)?;
        if is_word {
            self.forget_image(&name)?;
        }
        self.find(&name)
    }

    /// All that are installed, by name.
    ///
    /// # Errors
    /// The disk. What is wrong with one of them is said of it.
    pub fn list(&self) -> Result<Vec<Installed>, PluginError> {
        let found = |name: PluginName| match self.find(&name) {
            Ok(installed) => Some(installed),
            // It was removed meanwhile.
            Err(PluginError::Unknown(_)) => None,
            Err(error) => Some(Installed {
                folder: self.dir.join(name.as_str()),
                name,
                hash: String::new(),
                installed_ms: 0,
                allowed_ms: 0,
                manifest: Err(error.to_string()),
                lacking: BTreeSet::new(),
                changed: false,
            }),
        };
        Ok(self.names()?.into_iter().filter_map(found).collect())
    }

    /// One.
    ///
    /// # Errors
    /// There is none, or the disk.
    pub fn find(&self, name: &PluginName) -> Result<Installed, PluginError> {
        let record = self.record(name)?;
        let folder = self.dir.join(name.as_str()).join(folder_of(&record.hash));
        let (hash, manifest) = match look(&folder) {
            Ok(Looked { read, hash, .. }) if read.plugin.name == *name => (hash, Ok(read)),
            Ok(Looked { read, hash, .. }) => {
                (hash, Err(format!("its {FILE_NAME} says that it is {}", read.plugin.name)))
            }
            Err(error) => (String::new(), Err(error.to_string())),
        };
        let asked = manifest.as_ref().map(|read| read.plugin.consents()).unwrap_or_default();
        // A word about paths of which is not known where they led is none.
        let asks = |plugin: &Plugin| paths_of(plugin).all(|path| record.paths.contains_key(path));
        let knows_paths = manifest.as_ref().is_ok_and(|read| asks(&read.plugin));
        let given = |consent: &Consent| {
            record.allowed_hash == hash
                && record.allowed.contains(&consent.to_string())
                && (*consent != Consent::HostData || knows_paths)
        };
        let manifest = manifest.map(|mut read| {
            let asks = !read.plugin.consents().is_empty();
            if let Runs::Process(program, _) | Runs::Container(program, _) = &mut read.plugin.execution.runs {
                program.allowed.clone_from(&record.paths);
            }
            if let Runs::Container(_, container) = &mut read.plugin.execution.runs {
                container.pin = asks.then(|| self.dir.join(name.as_str()).join(IMAGE));
            }
            read
        });
        let lacking = asked.into_iter().filter(|consent| !given(consent)).collect();
        let changed = hash != record.hash && record.allowed_hash != hash;
        Ok(Installed {
            name: name.clone(),
            folder,
            hash,
            installed_ms: record.installed_ms,
            allowed_ms: record.allowed_ms,
            manifest,
            lacking,
            changed,
        })
    }

    /// Allows a plugin what it asks for, as its files are now; it has to be all of it.
    ///
    /// # Errors
    /// There is none, its manifest cannot be used, or the disk.
    pub fn allow(&self, name: &PluginName, allowed: &BTreeSet<Consent>) -> Result<Installed, PluginError> {
        let found = self.find(name)?;
        if found.hash.is_empty() {
            return Err(PluginError::Entry { path: found.folder, why: "is no plugin that can be read" });
        }
        let mut record = self.record(name)?;
        if record.allowed_hash != found.hash {
            record.allowed.clear();
        }
        if let (Ok(read), true) = (&found.manifest, allowed.contains(&Consent::HostData)) {
            record.paths = leads(&read.plugin)?;
        }
        record.allowed_hash = found.hash;
        record.allowed.extend(allowed.iter().map(ToString::to_string));
        record.allowed_ms = clock::now().wall_ms;
        self.write(name, &record)?;
        self.forget_image(name)?;
        self.find(name)
    }

    /// Removes a plugin with all its versions.
    ///
    /// # Errors
    /// There is none, or the disk.
    pub fn remove(&self, name: &PluginName) -> Result<(), PluginError> {
        let home = self.dir.join(name.as_str());
        let record = home.join(RECORD);
        match fs::remove_file(&record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(PluginError::Unknown(name.clone())),
            removed => removed.map_err(disk("removing", &record))?,
        }
        fs::remove_dir_all(&home).map_err(disk("removing", &home))
    }

    /// Removes versions that no record names. To be called while nothing runs in them.
    pub fn tidy(&self) {
        for name in self.names().unwrap_or_default() {
            let Ok(record) = self.record(&name) else { continue };
            let kept = folder_of(&record.hash);
            for entry in fs::read_dir(self.dir.join(name.as_str())).into_iter().flatten().flatten() {
                let file = entry.file_name();
                if file != RECORD && file != PINS && file != IMAGE && file.to_str() != Some(kept) {
                    // What cannot be removed does not disturb.
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    }

    /// The mark of all that is installed, and of its files: another one whenever something of it has changed.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let mut text = String::new();
        let mut note = |path: &Path| {
            use std::fmt::Write as _;
            if let Ok(found) = fs::symlink_metadata(path) {
                let times = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
                let _ = writeln!(text, "{} {} {} {times:?}", path.display(), found.ino(), found.len());
            }
        };
        for name in self.names().unwrap_or_default() {
            note(&self.dir.join(name.as_str()).join(RECORD));
            let Ok(record) = self.record(&name) else { continue };
            let folder = self.dir.join(name.as_str()).join(folder_of(&record.hash));
            note(&folder);
            for entry in entries(&folder).unwrap_or_default() {
                note(&folder.join(entry.path));
            }
        }
        Stamp((!text.is_empty()).then(|| Hash::of(text.as_bytes())))
    }

    fn names(&self) -> Result<Vec<PluginName>, PluginError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(disk("listing", &self.dir))?,
        };
        let name = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<PluginName>().ok();
        let mut names: Vec<PluginName> = entries.flatten().filter_map(name).collect();
        names.retain(|name| self.dir.join(name.as_str()).join(RECORD).is_file());
        names.sort();
        Ok(names)
    }

    fn record(&self, name: &PluginName) -> Result<Record, PluginError> {
        let path = self.dir.join(name.as_str()).join(RECORD);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(PluginError::Unknown(name.clone())),
            text => text.map_err(disk("reading", &path))?,
        };
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| disk("reading", &path)(io::Error::other(error)))?;
        if record.hash.len() == 64 && record.hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(record);
        }
        Err(disk("reading", &path)(io::Error::other("its hash is none")))
    }

    /// Whichever image is here now is what a word of the owner is about.
    fn forget_image(&self, name: &PluginName) -> Result<(), PluginError> {
        let path = self.dir.join(name.as_str()).join(IMAGE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk("removing", &path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&self, name: &PluginName, record: &Record) -> Result<(), PluginError> {
        let path = self.dir.join(name.as_str()).join(RECORD);
        let wrong = |source| disk("writing", &path)(source);
        platform::replace_file(&path, &serde_json::to_vec_pretty(record).unwrap_or_default()).map_err(wrong)
    }
}

impl Installed {
    /// The plugin, if it may run.
    #[must_use]
    pub fn allowed(&self) -> Option<&Plugin> {
        self.manifest.as_ref().ok().filter(|_| self.lacking.is_empty() && !self.changed).map(|read| &read.plugin)
    }

    /// The flags of `sigil plugin allow` that it lacks, each after a space.
    #[must_use]
    pub fn flags(&self) -> String {
        self.lacking.iter().map(|consent| format!(" --{consent}")).collect::<Vec<_>>().concat()
    }

    /// The words of `--allow` that it lacks.
    #[must_use]
    pub fn lacks(&self) -> String {
        self.lacking.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Name of the folder of a version.
fn folder_of(hash: &str) -> &str {
    hash.get(..FOLDER_CHARS).unwrap_or(hash)
}

fn copy(from: &Path, to: &Path, entry: &Entry) -> Result<(), PluginError> {
    let (source, target) = (from.join(&entry.path), to.join(&entry.path));
    // Folders come before what is in them: paths are in order.
    if entry.is_dir {
        let made =
            fs::create_dir(&target).and_then(|()| fs::set_permissions(&target, fs::Permissions::from_mode(READABLE)));
        return made.map_err(disk("making", &target));
    }
    let mut file = fs::File::create_new(&target).map_err(disk("making", &target))?;
    copy_into(&source, entry.bytes, |piece| file.write_all(piece))?;
    let mode = if entry.runs { READABLE } else { 0o644 };
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(disk("closing", &target))?;
    file.sync_all().map_err(disk("writing", &target))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        plugins: Plugins,
    }

    const MANIFEST: &str = "name: lamp\nexecution: { tier: process, command: [./bin/lamp] }\ntools: [{ name: on }]\n";

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("from/bin")).unwrap();
            let bench = Self { plugins: Plugins::of(&dir.path().join("home")), dir };
            bench.put("plugin.yaml", MANIFEST);
            bench.put("bin/lamp", "#!/bin/sh\necho on\n");
            fs::set_permissions(bench.from().join("bin/lamp"), fs::Permissions::from_mode(0o755)).unwrap();
            bench
        }

        fn from(&self) -> PathBuf {
            self.dir.path().join("from")
        }

        fn put(&self, path: &str, text: &str) {
            fs::write(self.from().join(path), text).unwrap();
        }
    }

    fn process() -> BTreeSet<Consent> {
        BTreeSet::from([Consent::Process])
    }

    #[test]
    fn what_is_installed_is_a_copy_that_its_owner_has_to_allow() {
        let bench = Bench::new();
        let (plugins, name) = (&bench.plugins, "lamp".parse().unwrap());
        assert_eq!(plugins.list().unwrap(), []);
        let first = plugins.install(&bench.from(), &BTreeSet::new()).unwrap();
        assert!(first.allowed().is_none() && first.lacks() == "process" && !first.changed);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        // The user that it runs as may read it; nobody else gets to where it is.
        assert_eq!(mode(first.folder.join("bin/lamp")), 0o755);
        assert_eq!((mode(first.folder.join("plugin.yaml")), mode(first.folder.clone())), (0o644, 0o755));
        assert_eq!(mode(first.folder.parent().unwrap().to_owned()), 0o700);
        let before = plugins.stamp();
        assert!(plugins.allow(&name, &process()).unwrap().allowed().is_some());
        assert_ne!(plugins.stamp(), before);
        // The same again keeps it and its files, of which one may run; anything else lies beside, and is to be allowed anew.
        let inode = || fs::metadata(first.folder.join("bin/lamp")).unwrap().ino();
        let had = inode();
        assert!(plugins.install(&bench.from(), &BTreeSet::new()).unwrap().allowed().is_some());
        assert_eq!(inode(), had);
        fs::write(first.folder.join("bin/lamp"), "changed").unwrap();
        assert!(plugins.install(&bench.from(), &BTreeSet::new()).unwrap().allowed().is_some());
        assert_ne!(inode(), had);
        bench.put("bin/lamp", "#!/bin/sh\necho two\n");
        let second = plugins.install(&bench.from(), &BTreeSet::new()).unwrap();
        assert!(second.allowed().is_none() && second.folder != first.folder && first.folder.is_dir());
        plugins.tidy();
        assert!(second.folder.is_dir() && !first.folder.exists());
        assert!(plugins.install(&bench.from(), &process()).unwrap().allowed().is_some());
        plugins.remove(&name).unwrap();
        assert!(matches!(plugins.find(&name), Err(PluginError::Unknown(_))) && plugins.list().unwrap().is_empty());
        assert!(matches!(plugins.remove(&name), Err(PluginError::Unknown(_))));
    }

    #[test]
    fn what_is_changed_in_place_may_not_run_until_that_is_allowed() {
        let bench = Bench::new();
        let (plugins, name) = (&bench.plugins, "lamp".parse().unwrap());
        let lamp = plugins.install(&bench.from(), &process()).unwrap();
        let before = plugins.stamp();
        fs::write(lamp.folder.join("bin/lamp"), "#!/bin/sh\necho evil\n").unwrap();
        assert_ne!(plugins.stamp(), before);
        let changed = plugins.find(&name).unwrap();
        assert!(changed.changed && changed.allowed().is_none() && changed.lacks() == "process");
        assert!(plugins.allow(&name, &process()).unwrap().allowed().is_some());
        fs::write(lamp.folder.join("plugin.yaml"), MANIFEST.replace("process", "pod")).unwrap();
        let broken = plugins.find(&name).unwrap();
        assert!(broken.allowed().is_none() && broken.manifest.unwrap_err().contains("plugin.yaml:2:20"));
        assert!(plugins.allow(&name, &process()).is_err());
        // One whose record is damaged is listed too, and keeps no other from being.
        fs::write(lamp.folder.parent().unwrap().join(RECORD), "{").unwrap();
        assert!(plugins.list().unwrap()[0].manifest.as_ref().is_err_and(|why| why.contains("record.json")));
    }

    #[test]
    fn what_is_no_plugin_is_refused_and_changes_nothing() {
        let bench = Bench::new();
        let plugins = &bench.plugins;
        std::os::unix::fs::symlink("/etc/passwd", bench.from().join("link")).unwrap();
        let refused = |part: &str| {
            let error = plugins.install(&bench.from(), &process()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(plugins.list().unwrap(), []);
        };
        refused("symbolic link");
        fs::remove_file(bench.from().join("link")).unwrap();
        bench.put("plugin.yaml", "name: [");
        refused("plugin.yaml:");
        fs::remove_file(bench.from().join("plugin.yaml")).unwrap();
        refused("has no plugin.yaml");
        bench.put("plugin.yaml", MANIFEST);
        for n in 0..FILES_MAX {
            bench.put(&format!("f{n}"), "");
        }
        refused("more than 1000 files");
    }
}
