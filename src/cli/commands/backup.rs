//! `sigil backup` and `sigil restore`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::time::Instant;

use crate::backup::{self, BackupError, Device, Manifest, Restored, Source};
use crate::cli::args::RestoreArgs;
use crate::cli::client::Client;
use crate::cli::commands::console::confirm;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, span, text};
use crate::memory::MemoryError;
use crate::mesh::clock;
use crate::store::StoreError;
use crate::{ownership, platform};

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const TAKEN: &str = "sigil.backup/1";
const PUT_BACK: &str = "sigil.restore/1";

/// Shows how far something is, now and then.
struct Progress {
    ui: Ui,
    what: &'static str,
    shown: Option<Instant>,
}

impl Progress {
    fn new(ui: Ui, what: &'static str) -> Self {
        Self { ui, what, shown: None }
    }

    fn at(&mut self, bytes: u64) {
        if self.shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_EVERY) {
            self.shown = Some(Instant::now());
            self.ui.progress(&format!("{} {}", self.what, size(bytes)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.ui.progress("");
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=999_999 => format!("{} kB", bytes.div_ceil(1000)),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

/// `sigil backup FILE`: from the agent, or from the home if none runs. The file has its name once it was read back.
pub(super) async fn backup(client: &Client, file: &Path, force: bool, ui: Ui) -> Result<Exit, Failure> {
    umask(Mode::from_bits_truncate(0o077));
    let exists = || {
        Failure::new(Exit::Conflict, format!("{} is there already", file.display()))
            .hint("name another file, or pass --force to replace it")
    };
    if !force && file.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: &std::io::Error| unwritten(file, error);
    let mut part = NamedTempFile::new_in(dir).map_err(|error| failed(&error))?;
    let running = match client.connect().await {
        Ok(_) => true,
        Err(failure) if failure.exit == Exit::NoAgent => false,
        Err(failure) => return Err(failure),
    };
    if running {
        let mut progress = Progress::new(ui, "backing up…");
        let mut bytes = 0;
        let out = part.as_file_mut();
        client
            .download("/api/v1/backup", |piece| {
                bytes += piece.len() as u64;
                progress.at(bytes);
                out.write_all(piece).map_err(|error| unwritten(file, &error))
            })
            .await?;
    } else {
        ownership::check(client.home()).map_err(|why| Failure::new(Exit::Denied, why.to_string()).hint(why.fix()))?;
        let source = Source::of_stopped(client.home()).map_err(|error| failure(&error, file))?;
        source.write(BufWriter::new(part.as_file_mut())).map_err(|error| failure(&error, file))?;
    }
    part.as_file().sync_all().and_then(|()| part.as_file_mut().rewind()).map_err(|error| failed(&error))?;
    let mut progress = Progress::new(ui, "reading it back…");
    let read = backup::inspect(BufReader::new(part.as_file_mut()), |bytes| progress.at(bytes));
    let (manifest, contents) = read.map_err(|error| failure(&error, file))?;
    drop(progress);
    let bytes = part.as_file().metadata().map_err(|error| failed(&error))?.len();
    let kept = if force { part.persist(file) } else { part.persist_noclobber(file) };
    kept.map_err(|error| {
        if error.error.kind() == std::io::ErrorKind::AlreadyExists { exists() } else { failed(&error.error) }
    })?;
    platform::sync_dir(dir).map_err(|error| failed(&error))?;
    if ui.json {
        ui.document(TAKEN, json!({ "file": file, "bytes": bytes, "peer_id": manifest.peer_id, "contents": contents }));
        return Ok(Exit::Ok);
    }
    ui.print(&format!("Backed up to {}: {}, {} rows.", file.display(), size(bytes), contents.rows));
    let left = contents.left;
    if left.results > 0 {
        ui.say(&format!(
            "Not in it: large results of calls that have ended, {} of them with {}; `sigil result ID -o FILE` keeps one.",
            left.results,
            size(left.result_bytes)
        ));
    }
    if left.absent > 0 {
        ui.say(&format!(
            "Not in it: large payloads of open calls that are not on this device yet, {} of them.",
            left.absent
        ));
    }
    ui.say("The file holds the key of this device, unencrypted: who has it can be this device.");
    Ok(Exit::Ok)
}

/// `sigil restore FILE`, into an empty home.
pub(super) async fn restore(client: &Client, args: &RestoreArgs, ui: Ui) -> Result<Exit, Failure> {
    umask(Mode::from_bits_truncate(0o077));
    let (file, home) = (&args.file, client.home());
    ownership::check(home).map_err(|why| Failure::new(Exit::Denied, why.to_string()).hint(why.fix()))?;
    let shown = |error: BackupError| failure(&error, file);
    if !backup::is_empty(home).map_err(shown)? {
        return Err(shown(BackupError::NotEmpty(home.to_owned())));
    }
    let mut open = open(file)?;
    let manifest = backup::peek(BufReader::new(&mut open)).map_err(shown)?;
    open.rewind().map_err(|error| unread(file, &error))?;
    let device = match (args.identity_gone, args.as_new_device) {
        (true, _) => Device::Same,
        (_, true) => Device::New,
        (false, false) => ask(&manifest, ui)?,
    };
    if device == Device::Same {
        refuse_beside_original(&manifest, home).await?;
    }
    let mut progress = Progress::new(ui, "restoring…");
    // It waits for disks, which a thread of the runtime may not.
    let into = home.to_owned();
    let work = move || backup::restore(BufReader::new(open), &into, device, |bytes| progress.at(bytes));
    let restored = match tokio::task::spawn_blocking(work).await {
        Ok(restored) => restored.map_err(shown)?,
        Err(error) => return Err(Failure::new(Exit::Failed, format!("restoring broke down: {error}"))),
    };
    show(&restored, home, ui);
    Ok(Exit::Ok)
}

/// Opens a backup that nobody else can change: what is in it runs as this user from then on.
fn open(path: &Path) -> Result<File, Failure> {
    let file = File::open(path).map_err(|error| unread(path, &error))?;
    let found = file.metadata().map_err(|error| unread(path, &error))?;
    let us = nix::unistd::geteuid().as_raw();
    if !found.is_file() {
        return Err(Failure::new(Exit::Usage, format!("{} is no file", path.display()))
            .hint("name the file that `sigil backup` wrote"));
    }
    if (found.uid() != us && found.uid() != 0) || found.mode() & 0o022 != 0 {
        return Err(Failure::new(
            Exit::Denied,
            format!(
                "others can change {}: it belongs to {} and has mode {:o}",
                path.display(),
                ownership::user(found.uid()),
                found.mode() & 0o7777
            ),
        )
        .hint("restore a copy of your own with mode 600, if you know where it comes from: its settings name programs that the agent runs"));
    }
    Ok(file)
}

/// The device that the restored home is to be, from whoever sits at the terminal.
fn ask(manifest: &Manifest, ui: Ui) -> Result<Device, Failure> {
    let age = clock::now().wall_ms.saturating_sub(manifest.taken_ms) / 1000;
    ui.say(&format!(
        "A backup of device {}, taken {} ago of {}.\nIt holds the key of that device. Two homes with one key disturb each other, and the mesh would halt both.",
        clean(&crate::cli::output::short(&manifest.peer_id)),
        span(age),
        clean(&manifest.home)
    ));
    match confirm(ui, "Is its old home gone for good, and this key in use nowhere else?") {
        Some(true) => Ok(Device::Same),
        Some(false) => Err(Failure::new(Exit::Denied, "nothing was restored")
            .hint("`--as-new-device` takes the settings alone: the device gets a key of its own, and joins the mesh anew")),
        None => Err(Failure::new(Exit::Usage, "nobody said which device the restored home is to be")
            .hint("`--identity-gone` goes on as the device of the backup, only where its old home is gone for good; `--as-new-device` takes the settings alone")),
    }
}

/// Refuses to make a second home of a device whose agent runs on this machine.
async fn refuse_beside_original(manifest: &Manifest, home: &Path) -> Result<(), Failure> {
    let original = Path::new(&manifest.home);
    if !original.is_absolute() || original == home {
        return Ok(());
    }
    let status = Client::new(original).get("/api/v1/status").await;
    if status.is_ok_and(|status| text(&status, "peer_id") == manifest.peer_id) {
        let shown = clean(&manifest.home);
        return Err(Failure::new(
            Exit::Conflict,
            format!("the device of this backup is not gone: its agent runs on {shown}, and two homes with one device key would disturb each other"),
        )
        .hint(format!(
            "to move it here, stop that one for good with `sigil --home {shown} down`; `--as-new-device` makes this a device of its own"
        )));
    }
    Ok(())
}

fn show(restored: &Restored, home: &Path, ui: Ui) {
    let Restored { manifest, contents, view } = restored;
    let settings = home.join("sigil.toml");
    if ui.json {
        let device = view.as_ref().map(|view| {
            json!({ "peer_id": view.me.to_string(), "node_id": view.node_id.as_str(), "mesh_name": view.mesh_name, "nodes": view.nodes.len() })
        });
        ui.document(
            PUT_BACK,
            json!({ "home": home, "taken_ms": manifest.taken_ms, "contents": contents, "device": device }),
        );
        return;
    }
    match view {
        Some(view) => ui.print(&format!(
            "Restored into {}: {} of {}, with {} devices.",
            home.display(),
            view.node_id,
            clean(&view.mesh_name),
            view.nodes.len()
        )),
        None => ui.print(&format!("Restored the settings into {}: a new device, of no mesh yet.", home.display())),
    }
    if settings.exists() {
        ui.say(&format!("{} names the programs that run here: look at it, then `sigil up`.", settings.display()));
    } else {
        ui.say("`sigil up` starts it.");
    }
    if view.is_some() {
        ui.say("What happened since the backup comes from the other devices once they are met: calls that this device may have run are not run again, codes it had handed out are void. What it alone knew is lost: whom it has forgotten since, look at with `sigil nodes`; tokens that it has revoked since count again: `sigil token --list` shows all.");
    }
}

fn unwritten(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("writing {}: {error}", file.display())).hint(room(error))
}

fn unread(file: &Path, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
    Failure::new(exit, format!("reading {}: {error}", file.display())).hint("name the file that `sigil backup` wrote")
}

fn room(error: &std::io::Error) -> &'static str {
    if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        "make room there, or name a place on another disk; nothing was left behind"
    } else {
        "name a place that can be written; nothing was left behind"
    }
}

/// A failure for people, with the next step.
fn failure(error: &BackupError, file: &Path) -> Failure {
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    let mut full = None;
    while let Some(cause) = source {
        detail = format!("{detail}: {cause}");
        full = full.or_else(|| cause.downcast_ref::<std::io::Error>());
        source = cause.source();
    }
    let file = file.display();
    let (exit, hint) = match error {
        BackupError::File { source, .. } => (Exit::Failed, room(source).to_owned()),
        BackupError::NoHome(_) => (Exit::NotFound, "pass --home DIR with the home of a device".to_owned()),
        BackupError::TooLarge { .. } => (Exit::Failed, "this is not what sigil writes there".to_owned()),
        BackupError::NotABackup => (Exit::Failed, format!("look what {file} is; `sigil backup` writes one")),
        BackupError::Version { .. } | BackupError::StoreFormat { .. } => {
            (Exit::Failed, "restore it with the version of sigil that took it".to_owned())
        }
        BackupError::CutOff(_) | BackupError::Damaged(_) | BackupError::GivenUp(_) => {
            (Exit::Failed, "nothing was restored; take another copy of it, or an older backup".to_owned())
        }
        BackupError::Identity(_) | BackupError::Mesh(_) => {
            (Exit::Failed, "take another backup; `--as-new-device` takes its settings alone".to_owned())
        }
        BackupError::Store(StoreError::Locked { .. })
        | BackupError::Memory(MemoryError::Store(StoreError::Locked { .. })) => {
            (Exit::Conflict, "wait until that agent answers, or stop it".to_owned())
        }
        BackupError::Memory(MemoryError::Damaged(_)) => {
            (Exit::Failed, "take another copy of it, or an older backup".to_owned())
        }
        BackupError::Store(_) | BackupError::Memory(_) => {
            (Exit::Failed, full.map_or("`sigil doctor` looks for the cause", room).to_owned())
        }
        BackupError::NotEmpty(_) => {
            (Exit::Conflict, "pass --home with another directory, or move away what is there".to_owned())
        }
    };
    Failure::new(exit, detail).hint(hint)
}
