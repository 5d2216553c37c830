//! A file of a model, from a URL or from this disk to its place: taken up where it broke off, and used only when its hash is
//! the one that was asked for. Nothing is fetched here without somebody's yes to licence and size: whoever calls this has it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Uri};
use memory_models::catalogue::{Entry, File as OfModel};
use memory_models::weights::{FileError, Sha, hash_of, hex};
use tokio::time::timeout;

use crate::http_client::HttpClient;
use crate::memory::ModelFiles;
use crate::platform;

/// Longest silence of a server.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Times that a server may send us elsewhere.
const REDIRECTS_MAX: usize = 5;
/// Room that is left on the disk beside the file.
const ROOM_LEFT: u64 = 64 * 1024 * 1024;
const CHUNK: usize = 256 * 1024;

/// Why a file is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It is no URL of a file.
    #[error("`{0}` is no address of a file")]
    Address(String),
    /// Its server cannot be reached.
    #[error("{url}: {why}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        why: String,
    },
    /// Its server answers something else.
    #[error("{url} answered {status}")]
    Refused {
        /// Its address.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// It sends us to where anybody could change what we get.
    #[error("{url} sends us to {to}, which is not encrypted")]
    Unencrypted {
        /// Its address.
        url: String,
        /// Where it sends us.
        to: String,
    },
    /// It sends us from place to place.
    #[error("{0} is the last of too many places that we were sent to")]
    Redirects(String),
    /// What has come is kept.
    #[error("{url} broke off: {why}")]
    BrokenOff {
        /// Its address.
        url: String,
        /// Why.
        why: String,
    },
    /// It is another file.
    #[error("{from} is larger than the file that was asked for ({bytes} bytes)")]
    TooLarge {
        /// Where it came from.
        from: String,
        /// Size of the file that was asked for.
        bytes: u64,
    },
    /// It is another file.
    #[error("{from} has the hash {got}, and {want} was expected")]
    Hash {
        /// Where it came from.
        from: String,
        /// Its hash.
        got: String,
        /// That of the file that was asked for.
        want: String,
    },
    /// The disk has no room for it.
    #[error("the disk has {free} MiB free, and {needed} MiB are needed at {}", .dir.display())]
    Room {
        /// MiB that are free.
        free: u64,
        /// MiB that are needed.
        needed: u64,
        /// Where.
        dir: PathBuf,
    },
    /// The disk.
    #[error("writing {}: {source}", .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file that is to be taken.
    #[error("reading {}: {source}", .path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What has come cannot be read again.
    #[error(transparent)]
    Unread(#[from] FileError),
    /// The catalogue.
    #[error("a hash of the catalogue cannot be read")]
    Catalogue,
}

impl FetchError {
    /// What can be done about it; `None` where nobody knows.
    #[must_use]
    pub fn next(&self) -> Option<&'static str> {
        Some(match self {
            Self::Address(_) => {
                "write it as https://HOST/PATH, or http:// on a network of yours: the hash is checked either way"
            }
            Self::Unreachable { .. } => {
                "see that this device is online; or get the file elsewhere and `sigil model add FILE`"
            }
            Self::Refused { .. } => {
                "see that the address is right; or get the file elsewhere and `sigil model add FILE`"
            }
            Self::Unencrypted { .. } | Self::Redirects(_) => "get the file elsewhere and `sigil model add FILE`",
            Self::BrokenOff { .. } => "run this again: it goes on where it broke off",
            Self::TooLarge { .. } => "nothing of it is kept; try another source",
            Self::Hash { .. } => "nothing of it is kept: it is another file, or was changed on its way",
            Self::Room { .. } => "free some space on that disk, then run this again",
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "the disk is full: free some space, then run this again; it goes on where it broke off"
            }
            Self::Write { .. } | Self::Read { .. } | Self::Unread(_) | Self::Catalogue => return None,
        })
    }

    /// True if whoever asked named a source that is none.
    #[must_use]
    pub fn is_of_the_asker(&self) -> bool {
        matches!(self, Self::Address(_) | Self::Read { .. })
    }
}

/// A file that is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// Its place.
    path: PathBuf,
    /// Where it is while it comes.
    part: PathBuf,
    bytes: u64,
    sha: Sha,
}

/// Gets what is lacking of a model, from where its files are had or from a URL to which their names are added. `progress` is told
/// which file comes and how much of it is there.
///
/// # Errors
/// The first file that cannot be had. What has come of it stays, unless it is another file.
///
/// # Cancel safety
/// When dropped, what has come stays, and the next time goes on from there.
pub async fn pull(
    files: &ModelFiles,
    entry: &Entry,
    from: Option<&str>,
    mut progress: impl FnMut(&OfModel, u64),
) -> Result<(), FetchError> {
    for file in entry.files() {
        let wanted = Wanted::of(files, entry, &file)?;
        if wanted.is_here() {
            progress(&file, file.bytes);
            continue;
        }
        let url =
            from.map_or_else(|| file.url.to_owned(), |base| format!("{}/{}", base.trim_end_matches('/'), file.name));
        wanted.fetch(&url, |bytes| progress(&file, bytes)).await?;
    }
    Ok(())
}

impl Wanted {
    /// A file of a model at its place on this disk.
    ///
    /// # Errors
    /// [`FetchError::Catalogue`].
    pub fn of(files: &ModelFiles, entry: &Entry, file: &OfModel) -> Result<Self, FetchError> {
        let sha = file.sha().ok_or(FetchError::Catalogue)?;
        let (path, part) = (files.path(entry, file), files.part_path(entry, file));
        Ok(Self { path, part, bytes: file.bytes, sha })
    }

    /// True if the very file is at its place. Reads all of it.
    fn is_here(&self) -> bool {
        hash_of(&self.path).is_ok_and(|sha| sha == self.sha)
    }

    /// Gets it from a URL; what has come of it before is kept. `progress` is told of all bytes that are there.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, url: &str, mut progress: impl FnMut(u64)) -> Result<(), FetchError> {
        let mut file = self.open_part()?;
        let mut have = file.metadata().map_err(|error| self.unwritten(error))?.len();
        if have > self.bytes {
            have = 0;
        }
        progress(have);
        if have < self.bytes {
            self.check_room(have)?;
            let response = get(url, have).await?;
            let from = match response.status() {
                StatusCode::PARTIAL_CONTENT if starts_at(&response) == Some(have) => have,
                // A server that cannot take up sends all of it.
                StatusCode::OK => 0,
                status => return Err(refused(url, status)),
            };
            // What is written goes to the end.
            if file.metadata().map_or(true, |meta| meta.len() != from) {
                file.set_len(from).map_err(|error| self.unwritten(error))?;
            }
            let mut body = response.into_body();
            have = from;
            loop {
                let frame =
                    timeout(SILENCE_MAX, body.frame()).await.map_err(|_| broken_off(url, "it was silent for 30 s"))?;
                let Some(frame) = frame else { break };
                let frame = frame.map_err(|error| broken_off(url, &error.to_string()))?;
                let Ok(piece) = frame.into_data() else { continue };
                have += piece.len() as u64;
                if have > self.bytes {
                    return Err(self.too_large(url));
                }
                file.write_all(&piece).map_err(|error| self.unwritten(error))?;
                progress(have);
            }
            if have < self.bytes {
                return Err(broken_off(url, "the connection ended early"));
            }
        }
        self.settle(&file, url)
    }

    /// Takes it from a file on this disk.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn copy(&self, from: &Path, mut progress: impl FnMut(u64)) -> Result<(), FetchError> {
        let unread = |error: io::Error| FetchError::Read { path: from.to_owned(), source: error };
        let mut source = File::open(from).map_err(unread)?;
        let mut file = self.open_part()?;
        file.set_len(0).map_err(|error| self.unwritten(error))?;
        self.check_room(0)?;
        let (mut chunk, mut have) = (vec![0; CHUNK], 0);
        loop {
            let read = source.read(&mut chunk).map_err(unread)?;
            let Some(piece) = chunk.get(..read).filter(|piece| !piece.is_empty()) else { break };
            have += piece.len() as u64;
            if have > self.bytes {
                return Err(self.too_large(&from.display().to_string()));
            }
            file.write_all(piece).map_err(|error| self.unwritten(error))?;
            progress(have);
        }
        self.settle(&file, &from.display().to_string())
    }

    /// Gives a file that has come whole its name, if it is the one that was asked for.
    fn settle(&self, file: &File, from: &str) -> Result<(), FetchError> {
        file.sync_all().map_err(|error| self.unwritten(error))?;
        let got = hash_of(&self.part)?;
        if got != self.sha {
            let _ = fs::remove_file(&self.part);
            return Err(FetchError::Hash { from: from.to_owned(), got: hex(&got), want: hex(&self.sha) });
        }
        fs::rename(&self.part, &self.path).map_err(|error| self.unwritten(error))?;
        self.path.parent().map_or(Ok(()), platform::sync_dir).map_err(|error| self.unwritten(error))
    }

    fn open_part(&self) -> Result<File, FetchError> {
        if let Some(dir) = self.part.parent() {
            platform::create_private_dir(dir).map_err(|error| self.unwritten(error))?;
        }
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true).open(&self.part).map_err(|error| self.unwritten(error))
    }

    fn check_room(&self, have: u64) -> Result<(), FetchError> {
        let Some(dir) = self.part.parent() else { return Ok(()) };
        let Ok((free, _)) = platform::disk_space(dir) else { return Ok(()) };
        let needed = self.bytes.saturating_sub(have).saturating_add(ROOM_LEFT);
        if free >= needed {
            return Ok(());
        }
        Err(FetchError::Room { free: free >> 20, needed: needed.div_ceil(1 << 20), dir: dir.to_owned() })
    }

    /// What is larger is another file: nothing of it is kept.
    fn too_large(&self, from: &str) -> FetchError {
        let _ = fs::remove_file(&self.part);
        FetchError::TooLarge { from: from.to_owned(), bytes: self.bytes }
    }

    fn unwritten(&self, error: io::Error) -> FetchError {
        FetchError::Write { path: self.part.clone(), source: error }
    }
}

fn broken_off(url: &str, why: &str) -> FetchError {
    FetchError::BrokenOff { url: url.to_owned(), why: why.to_owned() }
}

fn refused(url: &str, status: StatusCode) -> FetchError {
    FetchError::Refused { url: url.to_owned(), status }
}

/// The first byte of a part, as its answer says.
fn starts_at(response: &Response<Incoming>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Asks for a file from a byte on, wherever its server sends us.
async fn get(url: &str, from: u64) -> Result<Response<Incoming>, FetchError> {
    let (mut url, client) = (url.to_owned(), HttpClient::new());
    for _ in 0..REDIRECTS_MAX {
        let (uri, is_safe) = read_url(&url)?;
        let response = timeout(SILENCE_MAX, ask(&client, &url, &uri, from)).await;
        let response = response.map_err(|_| unreachable(&url, "it cannot be reached: it was silent for 30 s"))??;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        let location = response.headers().get("location").and_then(|to| to.to_str().ok());
        let to = location.ok_or_else(|| refused(&url, response.status()))?;
        let next = if to.starts_with('/') {
            format!("{}://{}{to}", uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |it| it.as_str()))
        } else {
            to.to_owned()
        };
        if is_safe && !next.starts_with("https://") {
            return Err(FetchError::Unencrypted { url, to: next });
        }
        url = next;
    }
    Err(FetchError::Redirects(url))
}

/// Reads a URL; true if it is encrypted.
fn read_url(url: &str) -> Result<(Uri, bool), FetchError> {
    let usage = || FetchError::Address(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| usage())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok((uri, true)),
        (Some("http"), Some(_)) => Ok((uri, false)),
        _ => Err(usage()),
    }
}

fn unreachable(url: &str, why: &str) -> FetchError {
    FetchError::Unreachable { url: url.to_owned(), why: why.to_owned() }
}

async fn ask(client: &HttpClient, url: &str, uri: &Uri, from: u64) -> Result<Response<Incoming>, FetchError> {
    // What is compressed on its way could not be taken up.
    let request = Request::get(uri.clone()).header("accept-encoding", "identity");
    let request = if from > 0 { request.header("range", format!("bytes={from}-")) } else { request };
    let request = request.body(Full::new(Bytes::new())).map_err(|error| unreachable(url, &error.to_string()))?;
    client.send(request).await.map_err(|error| unreachable(url, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TaskGroup;
    use std::sync::{Arc, Mutex};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A server of one file, which ends the first answer after so many bytes; what it was asked.
    async fn server(body: &'static [u8], cut: Option<usize>, knows_ranges: bool) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        TaskGroup::default().spawn(async move {
            let mut cut = cut;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
                let range = head
                    .lines()
                    .find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-').map(str::to_owned));
                noted.lock().unwrap().push(range.clone().unwrap_or_default());
                let from: usize = range.filter(|_| knows_ranges).map_or(0, |from| from.parse().unwrap());
                let status = if from > 0 {
                    format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{}", body.len() - 1, body.len())
                } else {
                    "200 OK".to_owned()
                };
                let rest = &body[from..];
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.write_all(&rest[..cut.take().unwrap_or(rest.len())]).await.unwrap();
            }
        });
        (url, asked)
    }

    fn wanted(dir: &Path, body: &[u8]) -> Wanted {
        let sha = memory_models::weights::sha_of(body);
        Wanted { path: dir.join("m/file"), part: dir.join("m/file.part"), bytes: body.len() as u64, sha }
    }

    const BODY: &[u8] = b"0123456789 these are the weights of a very small model";

    #[tokio::test]
    async fn a_file_that_broke_off_is_taken_up() {
        for knows_ranges in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (url, asked) = server(BODY, Some(20), knows_ranges).await;
            let wanted = wanted(dir.path(), BODY);
            let failure = wanted.fetch(&url, |_| ()).await.unwrap_err();
            assert!(failure.next().unwrap().contains("goes on where it broke off"));
            assert_eq!(fs::read(&wanted.part).unwrap(), &BODY[..20]);
            assert!(!wanted.path.exists());
            let mut seen = Vec::new();
            wanted.fetch(&url, |bytes| seen.push(bytes)).await.unwrap();
            assert_eq!((seen.first(), seen.last()), (Some(&20), Some(&(BODY.len() as u64))));
            assert_eq!(fs::read(&wanted.path).unwrap(), BODY);
            assert!(!wanted.part.exists());
            assert_eq!(*asked.lock().unwrap(), ["", "20"]);
        }
    }

    #[tokio::test]
    async fn another_file_is_refused_and_nothing_of_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = BODY.to_vec();
        other[0] = b'x';
        let (url, _) = server(BODY, None, true).await;
        let wanted_other = wanted(dir.path(), &other);
        let failure = wanted_other.fetch(&url, |_| ()).await.unwrap_err();
        assert!(failure.to_string().contains("was expected"), "{failure}");
        assert!(!wanted_other.path.exists() && !wanted_other.part.exists());
        // One that is larger than it should be is not read to its end.
        let short = wanted(dir.path(), &BODY[..10]);
        assert!(short.fetch(&url, |_| ()).await.unwrap_err().to_string().contains("is larger"));
        assert!(!short.path.exists() && !short.part.exists());
        let file = dir.path().join("local");
        fs::write(&file, BODY).unwrap();
        assert!(wanted_other.copy(&file, |_| ()).is_err() && !wanted_other.path.exists());
        assert!(short.copy(&file, |_| ()).unwrap_err().to_string().contains("is larger") && !short.part.exists());
        let right = wanted(dir.path(), BODY);
        right.copy(&file, |_| ()).unwrap();
        assert_eq!(fs::read(&right.path).unwrap(), BODY);
    }

    #[tokio::test]
    async fn where_there_is_no_room_nothing_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let huge = Wanted { bytes: u64::MAX / 2, ..wanted(dir.path(), BODY) };
        let (url, asked) = server(BODY, None, true).await;
        assert!(huge.fetch(&url, |_| ()).await.unwrap_err().to_string().contains("MiB free"));
        assert!(asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_disk_that_fills_while_it_comes_is_told_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = wanted(dir.path(), BODY);
        fs::create_dir(dir.path().join("m")).unwrap();
        // A device that is always full stands for the disk.
        std::os::unix::fs::symlink("/dev/full", &wanted.part).unwrap();
        let (url, _) = server(BODY, None, true).await;
        let failure = wanted.fetch(&url, |_| ()).await.unwrap_err();
        assert!(failure.next().is_some_and(|hint| hint.contains("disk is full")), "{failure:?}");
        assert!(!wanted.path.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_told_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = wanted(dir.path(), BODY);
        for url in ["ftp://h/x", "h/x", "file:///etc/passwd"] {
            assert!(wanted.fetch(url, |_| ()).await.unwrap_err().is_of_the_asker(), "{url}");
        }
        let gone = wanted.fetch("http://127.0.0.1:1/x", |_| ()).await.unwrap_err();
        assert!(gone.next().unwrap().contains("sigil model add"));
    }
}
