//! The directory in which a program leaves files as further parts of its result: `$SIGIL_OUT`.
//!
//! A program may be hostile: what it leaves is opened without following links, and only regular files count.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt as _;

use super::spool::{Kind, PARTS_MAX, Spool, SpoolError};

/// The variable that tells a program where it is.
pub(super) const VARIABLE: &str = sigil_shim::wire::OUT_VARIABLE;
/// Its name in the private directory of a run.
const NAME: &str = ".sigil-out";
/// Names that are looked at; a program may leave a million files.
const NAMES_MAX: usize = 1_000;
/// Bytes read at once.
const CHUNK: usize = 32 * 1024;

/// Makes it in the private directory of a run.
pub(super) fn make(run_dir: &Path) -> io::Result<PathBuf> {
    let dir = run_dir.join(NAME);
    crate::platform::create_private_dir(&dir)?;
    Ok(dir)
}

/// Gives each file in it as a part, by name.
///
/// # Errors
/// There are more than fit, or the spool takes no more.
pub(super) async fn take(run_dir: &Path, spool: &mut Spool<'_>) -> Result<(), SpoolError> {
    let dir = run_dir.join(NAME);
    give(tokio::task::spawn_blocking(move || open_all(&dir)).await.unwrap_or_default(), spool).await
}

/// Gives files as parts.
///
/// # Errors
/// There are more than fit, or the spool takes no more.
pub(super) async fn give(files: Vec<(String, std::fs::File)>, spool: &mut Spool<'_>) -> Result<(), SpoolError> {
    let too_many = files.len() >= PARTS_MAX;
    for (name, file) in files.into_iter().take(PARTS_MAX - 1) {
        spool.begin(Kind { media_type: media_type(&name).to_owned(), name }).await?;
        let mut file = tokio::fs::File::from_std(file);
        let mut chunk = vec![0; CHUNK];
        // A file that cannot be read is given as far as it can.
        while let Ok(len @ 1..) = file.read(&mut chunk).await {
            spool.push(chunk.get(..len).unwrap_or_default()).await?;
        }
    }
    if too_many { Err(SpoolError::TooMany) } else { Ok(()) }
}

/// The regular files of a directory, by name: one more than fit at most, so that whoever leaves too many is told.
fn open_all(dir: &Path) -> Vec<(String, std::fs::File)> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let Ok(mut dir) = Dir::open(dir, flags, Mode::empty()) else { return Vec::new() };
    let names = dir.iter().take(NAMES_MAX).flatten().map(|entry| entry.file_name().to_owned());
    let mut names: Vec<_> = names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect();
    names.sort();
    let open = |name: std::ffi::CString| {
        // Neither a link nor a pipe without a writer holds us up.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = std::fs::File::from(openat(&dir, name.as_c_str(), flags, Mode::empty()).ok()?);
        file.metadata().ok()?.is_file().then(|| (OsString::from_vec(name.into_bytes()), file))
    };
    names
        .into_iter()
        .filter_map(open)
        .map(|(name, file)| (name.to_string_lossy().into_owned(), file))
        .take(PARTS_MAX)
        .collect()
}

/// The type of a file, by the ending of its name.
fn media_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    match ending.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "txt" | "log" | "md" => "text/plain",
        "csv" => "text/csv",
        "html" | "htm" => "text/html",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::outcome::Output;
    use crate::runtime::spool::OutputLimits;
    use crate::runtime::spool::testing::MemorySinks;

    const LIMITS: OutputLimits = OutputLimits { inline: 1024, total: 1 << 20 };

    #[tokio::test]
    async fn regular_files_follow_by_name_and_nothing_else_does() {
        let run = tempfile::tempdir().unwrap();
        let out = make(run.path()).unwrap();
        let secret = run.path().join("secret");
        std::fs::write(&secret, "key").unwrap();
        std::fs::write(out.join("b.png"), [0x89, 0x50]).unwrap();
        std::fs::write(out.join("a.TXT"), "a").unwrap();
        std::fs::create_dir(out.join("c")).unwrap();
        std::os::unix::fs::symlink(&secret, out.join("d")).unwrap();
        nix::unistd::mkfifo(&out.join("e"), Mode::from_bits_truncate(0o600)).unwrap();
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, LIMITS);
        spool.push(b"out").await.unwrap();
        take(run.path(), &mut spool).await.unwrap();
        let given = spool.finish().await.unwrap();
        assert_eq!(given.output, Output::Inline("out".into()));
        let kind = |media_type: &str, name: &str| Kind { media_type: media_type.to_owned(), name: name.to_owned() };
        let more = [
            (kind("text/plain", "a.TXT"), Output::Inline("a".into())),
            (kind("image/png", "b.png"), Output::Inline([0x89, 0x50].as_slice().to_vec().into())),
        ];
        assert_eq!(given.more, more);
    }

    #[tokio::test]
    async fn too_many_are_an_error_and_the_first_are_kept() {
        let run = tempfile::tempdir().unwrap();
        let out = make(run.path()).unwrap();
        for n in 0..PARTS_MAX {
            std::fs::write(out.join(format!("{n:02}")), "x").unwrap();
        }
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, LIMITS);
        assert!(matches!(take(run.path(), &mut spool).await, Err(SpoolError::TooMany)));
        assert_eq!(spool.finish().await.unwrap().more.len(), PARTS_MAX - 1);
    }

    #[tokio::test]
    async fn a_directory_that_became_a_link_gives_nothing() {
        let run = tempfile::tempdir().unwrap();
        let out = make(run.path()).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("key"), "x").unwrap();
        std::fs::remove_dir(&out).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &out).unwrap();
        let sinks = MemorySinks::default();
        let mut spool = Spool::new(&sinks, LIMITS);
        take(run.path(), &mut spool).await.unwrap();
        assert_eq!(spool.finish().await.unwrap().more, []);
    }
}
