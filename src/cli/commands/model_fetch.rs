//! A file of a model, from a URL or from this disk to its place: taken up where it broke off, and used only when its hash is
//! the one that was asked for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Uri};
use memory_models::weights::{Sha, hash_of, hex};
use tokio::time::timeout;

use crate::cli::exit::{Exit, Failure};
use crate::http_client::HttpClient;
use crate::platform;

/// Longest silence of a server.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Times that a server may send us elsewhere.
const REDIRECTS_MAX: usize = 5;
/// Room that is left on the disk beside the file.
const ROOM_LEFT: u64 = 64 * 1024 * 1024;
const CHUNK: usize = 256 * 1024;

/// A file that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Its place.
    pub(super) path: PathBuf,
    /// Where it is while it comes.
    pub(super) part: PathBuf,
    pub(super) bytes: u64,
    pub(super) sha: Sha,
}

impl Wanted {
    /// Gets it from a URL; what has come of it before is kept. `progress` is told of all bytes that are there.
    pub(super) async fn fetch(&self, url: &str, mut progress: impl FnMut(u64)) -> Result<(), Failure> {
        let mut file = self.open_part()?;
        let mut have = file.metadata().map_err(|error| self.unwritten(&error))?.len();
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
                file.set_len(from).map_err(|error| self.unwritten(&error))?;
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
                file.write_all(&piece).map_err(|error| self.unwritten(&error))?;
                progress(have);
            }
            if have < self.bytes {
                return Err(broken_off(url, "the connection ended early"));
            }
        }
        self.settle(&file, url)
    }

    /// Takes it from a file on this disk.
    pub(super) fn copy(&self, from: &Path, mut progress: impl FnMut(u64)) -> Result<(), Failure> {
        let unread = |error: io::Error| Failure::new(Exit::Usage, format!("reading {}: {error}", from.display()));
        let mut source = File::open(from).map_err(unread)?;
        let mut file = self.open_part()?;
        file.set_len(0).map_err(|error| self.unwritten(&error))?;
        self.check_room(0)?;
        let (mut chunk, mut have) = (vec![0; CHUNK], 0);
        loop {
            let read = source.read(&mut chunk).map_err(unread)?;
            let Some(piece) = chunk.get(..read).filter(|piece| !piece.is_empty()) else { break };
            have += piece.len() as u64;
            if have > self.bytes {
                return Err(self.too_large(&from.display().to_string()));
            }
            file.write_all(piece).map_err(|error| self.unwritten(&error))?;
            progress(have);
        }
        self.settle(&file, &from.display().to_string())
    }

    /// Gives a file that has come whole its name, if it is the one that was asked for.
    fn settle(&self, file: &File, from: &str) -> Result<(), Failure> {
        file.sync_all().map_err(|error| self.unwritten(&error))?;
        let got = hash_of(&self.part).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        if got != self.sha {
            let _ = fs::remove_file(&self.part);
            let detail = format!("{from} has the hash {}, and {} was expected", hex(&got), hex(&self.sha));
            return Err(Failure::new(Exit::Failed, detail)
                .hint("nothing of it is kept: it is another file, or was changed on its way"));
        }
        fs::rename(&self.part, &self.path).map_err(|error| self.unwritten(&error))?;
        self.path.parent().map_or(Ok(()), platform::sync_dir).map_err(|error| self.unwritten(&error))
    }

    fn open_part(&self) -> Result<File, Failure> {
        if let Some(dir) = self.part.parent() {
            platform::create_private_dir(dir).map_err(|error| self.unwritten(&error))?;
        }
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true).open(&self.part).map_err(|error| self.unwritten(&error))
    }

    fn check_room(&self, have: u64) -> Result<(), Failure> {
        let Some(dir) = self.part.parent() else { return Ok(()) };
        let Ok((free, _)) = platform::disk_space(dir) else { return Ok(()) };
        let needed = self.bytes.saturating_sub(have).saturating_add(ROOM_LEFT);
        if free >= needed {
            return Ok(());
        }
        let detail = format!(
            "the disk has {} MiB free, and {} MiB are needed at {}",
            free >> 20,
            needed.div_ceil(1 << 20),
            dir.display()
        );
        Err(Failure::new(Exit::Failed, detail).hint("free some space on that disk, then run this again"))
    }

    /// What is larger is another file: nothing of it is kept.
    fn too_large(&self, from: &str) -> Failure {
        let _ = fs::remove_file(&self.part);
        let detail = format!("{from} is larger than the file that was asked for ({} bytes)", self.bytes);
        Failure::new(Exit::Failed, detail).hint("nothing of it is kept; try another source")
    }

    fn unwritten(&self, error: &io::Error) -> Failure {
        let failure = Failure::new(Exit::Failed, format!("writing {}: {error}", self.part.display()));
        if error.kind() == io::ErrorKind::StorageFull {
            failure.hint("the disk is full: free some space, then run this again; it goes on where it broke off")
        } else {
            failure
        }
    }
}

fn broken_off(url: &str, why: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{url} broke off: {why}")).hint("run this again: it goes on where it broke off")
}

fn refused(url: &str, status: StatusCode) -> Failure {
    Failure::new(Exit::Failed, format!("{url} answered {status}"))
        .hint("see that the address is right; or get the file elsewhere and `sigil model add FILE`")
}

/// The first byte of a part, as its answer says.
fn starts_at(response: &Response<Incoming>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// Asks for a file from a byte on, wherever its server sends us.
async fn get(url: &str, from: u64) -> Result<Response<Incoming>, Failure> {
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
            return Err(Failure::new(Exit::Failed, format!("{url} sends us to {next}, which is not encrypted"))
                .hint("get the file elsewhere and `sigil model add FILE`"));
        }
        url = next;
    }
    Err(Failure::new(Exit::Failed, format!("{url} is the {REDIRECTS_MAX}th place that we were sent to"))
        .hint("get the file elsewhere and `sigil model add FILE`"))
}

/// Reads a URL; true if it is encrypted.
fn read_url(url: &str) -> Result<(Uri, bool), Failure> {
    let usage = || {
        Failure::new(Exit::Usage, format!("`{url}` is no address of a file"))
            .hint("write it as https://HOST/PATH, or http:// on a network of yours: the hash is checked either way")
    };
    let uri: Uri = url.parse().map_err(|_| usage())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok((uri, true)),
        (Some("http"), Some(_)) => Ok((uri, false)),
        _ => Err(usage()),
    }
}

fn unreachable(url: &str, why: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{url}: {why}"))
        .hint("see that this device is online; or get the file elsewhere and `sigil model add FILE`")
}

async fn ask(client: &HttpClient, url: &str, uri: &Uri, from: u64) -> Result<Response<Incoming>, Failure> {
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
            assert!(failure.hint.unwrap().contains("goes on where it broke off"));
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
        assert!(failure.detail.contains("was expected"), "{}", failure.detail);
        assert!(!wanted_other.path.exists() && !wanted_other.part.exists());
        // One that is larger than it should be is not read to its end.
        let short = wanted(dir.path(), &BODY[..10]);
        assert!(short.fetch(&url, |_| ()).await.unwrap_err().detail.contains("is larger"));
        assert!(!short.path.exists() && !short.part.exists());
        let file = dir.path().join("local");
        fs::write(&file, BODY).unwrap();
        assert!(wanted_other.copy(&file, |_| ()).is_err() && !wanted_other.path.exists());
        assert!(short.copy(&file, |_| ()).unwrap_err().detail.contains("is larger") && !short.part.exists());
        let right = wanted(dir.path(), BODY);
        right.copy(&file, |_| ()).unwrap();
        assert_eq!(fs::read(&right.path).unwrap(), BODY);
    }

    #[tokio::test]
    async fn where_there_is_no_room_nothing_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let huge = Wanted { bytes: u64::MAX / 2, ..wanted(dir.path(), BODY) };
        let (url, asked) = server(BODY, None, true).await;
        assert!(huge.fetch(&url, |_| ()).await.unwrap_err().detail.contains("MiB free"));
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
        assert!(failure.hint.as_deref().is_some_and(|hint| hint.contains("disk is full")), "{failure:?}");
        assert!(!wanted.path.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_told_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = wanted(dir.path(), BODY);
        for url in ["ftp://h/x", "h/x", "file:///etc/passwd"] {
            assert_eq!(wanted.fetch(url, |_| ()).await.unwrap_err().exit, Exit::Usage, "{url}");
        }
        let gone = wanted.fetch("http://127.0.0.1:1/x", |_| ()).await.unwrap_err();
        assert!(gone.hint.unwrap().contains("sigil model add"));
    }
}
