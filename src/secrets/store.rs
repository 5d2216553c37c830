//! Secrets on disk: `<home>/secrets/NAME`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;
use tokio::time::timeout;

use crate::platform;
use crate::plugin::{SecretName, Value};
use crate::tasks::Strays;

use super::redact::Redactor;

/// Largest secret: a key with its chain of certificates fits.
pub const SECRET_BYTES_MAX: usize = 64 << 10;

/// Reads at once: a disk that is dead keeps so many threads, and nothing else.
const AT_WORK_MAX: usize = 8;
/// Longest wait for a disk.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The secrets of a home. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Secrets {
    dir: PathBuf,
    threads: Strays,
}

/// A secret in the list: never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: SecretName,
    /// When it was set.
    pub set: SystemTime,
}

/// Values as a process gets them.
#[derive(Clone, Default)]
pub struct Resolved {
    /// By their names.
    pub values: BTreeMap<String, String>,
    /// Takes the secret ones out of what the process says.
    pub redactor: Redactor,
}

/// A reason for which a secret cannot be kept or read. Never with a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// None of this name.
    #[error("this device has no secret `{name}`: `sigil secret set {name} --from-file FILE` gives it one", name = .0.as_str())]
    Unknown(SecretName),
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Too much in it.
    #[error("it is over the limit of 64 KiB")]
    TooLarge,
    /// Not text.
    #[error("it is not text: a variable or header can hold no other")]
    NotText,
    /// Others may read it.
    #[error("the secret `{name}` is open to other users: `chmod 600 {path}` closes it", name = .0.as_str(), path = .1.display())]
    Open(SecretName, PathBuf),
    /// Its disk does not answer.
    #[error("the disk that has it does not answer")]
    Stuck,
    /// A variable of the agent that is not set.
    #[error("the variable {0} is not set where the agent was started")]
    NoVariable(String),
    /// A file.
    #[error("reading {path}: {source}", path = path.display())]
    File {
        /// It.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl Secrets {
    /// Those of a home.
    #[must_use]
    pub fn of(home: &Path) -> Self {
        Self { dir: home.join("secrets"), threads: Strays::new("secrets", AT_WORK_MAX) }
    }

    /// Keeps a secret, in place of one that has its name. A line end at its end is left out, as editors and `echo` add one.
    ///
    /// # Errors
    /// Empty, too large, no text; the disk.
    pub fn set(&self, name: &SecretName, value: &[u8]) -> Result<(), SecretError> {
        if value.len() > SECRET_BYTES_MAX {
            return Err(SecretError::TooLarge);
        }
        let value = text_of(value)?;
        let path = self.path(name);
        let wrong = |source| SecretError::File { path: path.clone(), source };
        self.make_dir().map_err(wrong)?;
        platform::replace_file(&path, value.as_bytes()).map_err(wrong)
    }

    /// Names and times of all of them.
    ///
    /// # Errors
    /// The disk. No directory is no secrets.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            listed.push(Listed { name, set: entry.metadata()?.modified()? });
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Removes one; false if there is none.
    ///
    /// # Errors
    /// The disk.
    pub fn remove(&self, name: &SecretName) -> io::Result<bool> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    /// The value of one.
    ///
    /// # Errors
    /// There is none, others may read it, or the disk.
    pub fn read(&self, name: &SecretName) -> Result<String, SecretError> {
        let path = self.path(name);
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SecretError::Unknown(name.clone())),
            Err(source) => return Err(SecretError::File { path, source }),
            Ok(found) => found,
        };
        if !found.is_file() || platform::open_to_others(&found).is_some() {
            return Err(SecretError::Open(name.clone(), path));
        }
        read_text(&path)
    }

    /// Values as a process is to get them, if no disk is asked for that: `None` where one has to be.
    #[must_use]
    pub fn at_hand(&self, values: &BTreeMap<String, Value>) -> Option<Result<Resolved, SecretError>> {
        let on_disk = |value: &Value| match value {
            Value::Secret(_) | Value::File(_) => true,
            Value::Text(_) | Value::Env(_) => false,
        };
        (!values.values().any(on_disk)).then(|| self.resolve(values))
    }

    /// Values as a process is to get them: read now, on a thread that may hang.
    ///
    /// # Errors
    /// The first that cannot be had, or that a disk has not told within 10 s.
    pub async fn fetch(&self, values: &BTreeMap<String, Value>) -> Result<Resolved, SecretError> {
        if let Some(resolved) = self.at_hand(values) {
            return resolved;
        }
        let (secrets, values) = (self.clone(), values.clone());
        let read = self.threads.run(move || secrets.resolve(&values));
        match timeout(READ_WITHIN, read).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(_)) | Err(_) => Err(SecretError::Stuck),
        }
    }

    fn resolve(&self, values: &BTreeMap<String, Value>) -> Result<Resolved, SecretError> {
        let mut resolved = Resolved::default();
        for (key, value) in values {
            let text = match value {
                Value::Text(text) => text.clone(),
                Value::Secret(name) => {
                    let value = self.read(name)?;
                    resolved.redactor.add(name.as_str(), &value);
                    value
                }
                Value::Env(variable) => {
                    let value = std::env::var(variable).map_err(|_| SecretError::NoVariable(variable.clone()))?;
                    resolved.redactor.add(variable, &value);
                    value
                }
                Value::File(path) => {
                    let value = read_text(path)?;
                    resolved.redactor.add(key, &value);
                    value
                }
            };
            resolved.values.insert(key.clone(), text);
        }
        Ok(resolved)
    }

    fn path(&self, name: &SecretName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    fn make_dir(&self) -> io::Result<()> {
        platform::create_private_dir(&self.dir)?;
        platform::claim_private_dir(&self.dir)
    }
}

/// Reads a file, which may be anything: a pipe without a writer is not waited for, and what has no end is not read to it.
fn read_text(path: &Path) -> Result<String, SecretError> {
    let wrong = |source| SecretError::File { path: path.to_owned(), source };
    let file = fs::File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(wrong)?;
    if !file.metadata().map_err(wrong)?.is_file() {
        return Err(wrong(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")));
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLarge);
    }
    text_of(&bytes).map(ToOwned::to_owned)
}

fn text_of(bytes: &[u8]) -> Result<&str, SecretError> {
    let text = std::str::from_utf8(bytes).map_err(|_| SecretError::NotText)?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    match text {
        "" => Err(SecretError::Empty),
        text if text.contains('\0') => Err(SecretError::NotText),
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    #[test]
    fn a_secret_is_kept_for_its_user_alone_and_told_by_name() {
        let home = tempfile::tempdir().unwrap();
        let secrets = Secrets::of(home.path());
        assert!(secrets.list().unwrap().is_empty());
        assert!(secrets.read(&name("key")).unwrap_err().to_string().contains("sigil secret set key"));
        secrets.set(&name("key"), b"hunter2-hunter2\r\n").unwrap();
        secrets.set(&name("pem"), b"a\nb\n").unwrap();
        assert_eq!(secrets.read(&name("key")).unwrap(), "hunter2-hunter2");
        assert_eq!(secrets.read(&name("pem")).unwrap(), "a\nb");
        let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("secrets"), mode("secrets/key")), (0o700, 0o600));
        let listed: Vec<_> = secrets.list().unwrap().into_iter().map(|listed| listed.name.to_string()).collect();
        assert_eq!(listed, ["key", "pem"]);
        for bad in [&b""[..], b"\n", b"a\0b", b"\xff", &vec![b'x'; SECRET_BYTES_MAX + 1]] {
            assert!(secrets.set(&name("key"), bad).is_err());
        }
        fs::set_permissions(home.path().join("secrets/key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secrets.read(&name("key")).unwrap_err().to_string().contains("chmod 600"));
        assert!(secrets.remove(&name("key")).unwrap() && !secrets.remove(&name("key")).unwrap());
    }

    #[test]
    fn values_are_read_when_they_are_resolved_and_secret_ones_are_known_again() {
        let home = tempfile::tempdir().unwrap();
        let secrets = Secrets::of(home.path());
        let file = home.path().join("cert");
        let values = BTreeMap::from([
            ("A".to_owned(), Value::Text("plain text".to_owned())),
            ("B".to_owned(), Value::Secret(name("key"))),
            ("C".to_owned(), Value::File(file.clone())),
        ]);
        assert!(matches!(secrets.resolve(&values), Err(SecretError::Unknown(_))));
        secrets.set(&name("key"), b"hunter2-hunter2").unwrap();
        assert!(matches!(secrets.resolve(&values), Err(SecretError::File { .. })));
        fs::write(&file, "a certificate\n").unwrap();
        let resolved = secrets.resolve(&values).unwrap();
        assert_eq!((&*resolved.values["B"], &*resolved.values["C"]), ("hunter2-hunter2", "a certificate"));
        let said = resolved.redactor.redacted("plain text, hunter2-hunter2, a certificate");
        assert_eq!(said, "plain text, [secret key], [secret C]");
        let unset = BTreeMap::from([("D".to_owned(), Value::Env("SIGIL_NO_SUCH_VARIABLE".to_owned()))]);
        assert!(matches!(secrets.resolve(&unset), Err(SecretError::NoVariable(_))));
    }
}
