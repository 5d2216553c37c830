//! The key of this device: who it is, for as long as the file lives.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ed25519_dalek::{Verifier as _, VerifyingKey};
use mesh_core::crypto::{Signer, Verifier};
use mesh_core::ids::{PeerId, PublicKey, Signature};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::platform;

/// Name of the key file in the home directory.
pub const FILE: &str = "identity.key";

/// No PKCS#8 document of an Ed25519 key is longer than this; more is some other file.
const FILE_BYTES_MAX: u64 = 512;

/// Place at which the 32 bytes of the seed begin in an Ed25519 PKCS#8 document (RFC 8410, §7; the header has one form only).
const SEED_AT: usize = 16;

/// The reason for which there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file is there and cannot be read.
    #[error("reading the device key `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A new key cannot be written.
    #[error("creating the device key `{path}`")]
    Create {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Others on this machine may read the key.
    #[error(
        "the device key `{path}` is open to other users (mode {mode:o}); close it with `chmod 600 {path}`, and if others may have read it, delete it and join again as a new device"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key. It is never replaced: without it the mesh would see another device.
    #[error(
        "the device key `{path}` is damaged ({why}); restore it from a backup, or move it away and join again as a new device"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The defect.
        why: &'static str,
    },
    /// The system has no randomness.
    #[error("the system gave no random bytes for a new device key")]
    NoRandomness,
}

/// The Ed25519 key of this device. Cheap to clone; never shown.
#[derive(Clone)]
pub struct DeviceKey(Arc<Inner>);

struct Inner {
    signing: ed25519_dalek::SigningKey,
    public: PublicKey,
    seed: [u8; 32],
    pkcs8: Vec<u8>,
}

impl DeviceKey {
    /// Reads the key of this home directory, or makes one where there is none. Directories are created as needed.
    pub fn load_or_create(home: &Path) -> Result<Self, IdentityError> {
        let path = home.join(FILE);
        match Self::load(&path) {
            Err(IdentityError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::NoRandomness)?;
        match write_new(home, &path, pkcs8.as_ref()) {
            Ok(()) => Self::from_pkcs8(&path, pkcs8.as_ref()),
            // Another process was faster: there is one key per home.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(&path),
            Err(source) => Err(IdentityError::Create { path, source }),
        }
    }

    /// Reads the key in this file.
    ///
    /// # Errors
    /// It cannot be read, others may read it, or it is no key.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Read { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(failed)?;
        if let Some(mode) = platform::open_to_others(&metadata) {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(IdentityError::Damaged { path: path.to_owned(), why: "it is too long" });
        }
        Self::from_pkcs8(path, &fs::read(path).map_err(failed)?)
    }

    /// Ring checks that the public key in the document belongs to the seed, so a flipped bit in either is found.
    fn from_pkcs8(path: &Path, pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let damaged = |why| IdentityError::Damaged { path: path.to_owned(), why };
        let pair =
            Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| damaged("it is not an Ed25519 key with its public half"))?;
        let public =
            PublicKey::from_slice(pair.public_key().as_ref()).ok_or_else(|| damaged("its public half is too short"))?;
        let seed = pkcs8.get(SEED_AT..SEED_AT + 32).and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        let seed = seed
            .filter(|seed| Ed25519KeyPair::from_seed_and_public_key(seed, &public.0).is_ok())
            .ok_or_else(|| damaged("its form is unusual"))?;
        let signing = ed25519_dalek::SigningKey::from_bytes(&seed);
        Ok(Self(Arc::new(Inner { signing, public, seed, pkcs8: pkcs8.to_vec() })))
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.public
    }

    /// The identity of this peer.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.public.peer_id()
    }

    /// The secret itself, for libraries that want it raw.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.0.seed
    }

    /// The secret with its public half as a PKCS#8 document (DER), for libraries that make certificates.
    #[must_use]
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.0.pkcs8
    }

    /// A secret of its own for the purpose `label`, the same after every start (HMAC-SHA-256 of the label).
    #[must_use]
    pub fn derive(&self, label: &str) -> [u8; 32] {
        hmac_sha256(&self.0.seed, label.as_bytes())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({:?}, secret redacted)", self.peer_id())
    }
}

impl Signer for DeviceKey {
    fn public_key(&self) -> PublicKey {
        self.0.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(ed25519_dalek::Signer::sign(&self.0.signing, message).to_bytes())
    }
}

/// Checks Ed25519 signatures. With `ed25519-dalek`, which is here through libp2p anyway: two thirds of ring's time.
/// Keys of small order, under which one signature fits many messages, are refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ed25519Verifier;

impl Verifier for Ed25519Verifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        unpacked(key).is_some_and(|key| is_good(&key, message, signature))
    }
}

/// The point that a key stands for.
fn unpacked(key: &PublicKey) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(&key.0).ok().filter(|key| !key.is_weak())
}

fn is_good(key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
    key.verify(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
}

/// Signatures that a [`KnownVerifier`] remembers are twice this at most: 256 KiB.
const KNOWN_MAX: usize = 4096;
/// Unpacked keys that it remembers: more than a mesh has members. Unpacking is a sixth of a check.
const KEYS_MAX: usize = 512;

/// Checks Ed25519 signatures, and remembers the good ones: a claim comes with every beacon, and a call's header and
/// outcome by two ways each. Remembering costs a hundredth of checking. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KnownVerifier(Arc<Mutex<Known>>);

/// When `new` is full it takes the place of `old`: what is asked for again and again stays.
#[derive(Debug, Default)]
struct Known {
    new: HashSet<[u8; SHA256_OUTPUT_LEN]>,
    old: HashSet<[u8; SHA256_OUTPUT_LEN]>,
    keys: HashMap<PublicKey, VerifyingKey>,
}

impl Known {
    fn note(&mut self, print: [u8; SHA256_OUTPUT_LEN]) {
        if self.new.len() >= KNOWN_MAX {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(print);
    }

    fn has(&mut self, print: [u8; SHA256_OUTPUT_LEN]) -> bool {
        if self.new.contains(&print) {
            return true;
        }
        let known = self.old.contains(&print);
        if known {
            self.note(print);
        }
        known
    }

    fn key(&mut self, key: &PublicKey) -> Option<VerifyingKey> {
        if let Some(known) = self.keys.get(key) {
            return Some(*known);
        }
        let unpacked = unpacked(key)?;
        if self.keys.len() >= KEYS_MAX {
            self.keys.clear();
        }
        self.keys.insert(*key, unpacked);
        Some(unpacked)
    }
}

impl Verifier for KnownVerifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        // Key and signature have fixed lengths, so no two questions read alike.
        let mut print = ring::digest::Context::new(&SHA256);
        print.update(&key.0);
        print.update(&signature.0);
        print.update(message);
        let print: [u8; SHA256_OUTPUT_LEN] = print.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known().has(print) {
            return true;
        }
        let Some(key) = known().key(key) else { return false };
        // Not under the lock: checking takes long.
        let good = is_good(&key, message, signature);
        if good {
            known().note(print);
        }
        good
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// Writes the file whole or not at all, for its owner only.
fn write_new(home: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    platform::create_private_dir(home)?;
    let mut file = tempfile::Builder::new().prefix(".identity-").tempfile_in(home)?; // mode 0600
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    platform::sync_dir(home)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn home() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_key_lives_on_in_its_file() {
        let home = home();
        let deep = home.path().join("a/b");
        let first = DeviceKey::load_or_create(&deep).unwrap();
        let second = DeviceKey::load_or_create(&deep).unwrap();
        assert_eq!(first.seed(), second.seed());
        assert_eq!(first.derive("a"), second.derive("a"));
        assert_ne!(first.derive("a"), first.derive("b"));
        assert_eq!(fs::metadata(deep.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1, "no temporary file stays");
        assert_ne!(first.peer_id(), DeviceKey::load_or_create(self::home().path()).unwrap().peer_id());
    }

    #[test]
    fn signatures_are_checked_and_tied_to_key_and_message() {
        let (a, b) = (home(), home());
        let (a, b) = (DeviceKey::load_or_create(a.path()).unwrap(), DeviceKey::load_or_create(b.path()).unwrap());
        let signature = a.sign(b"hello");
        assert!(Ed25519Verifier.verify(&a.public_key(), b"hello", &signature));
        assert!(!Ed25519Verifier.verify(&a.public_key(), b"hallo", &signature));
        assert!(!Ed25519Verifier.verify(&b.public_key(), b"hello", &signature));
        assert!(!Ed25519Verifier.verify(&PublicKey([0xff; 32]), b"hello", &signature));
    }

    #[test]
    fn a_damaged_key_is_explained_and_never_replaced() {
        let home = home();
        let path = home.path().join(FILE);
        drop(DeviceKey::load_or_create(home.path()).unwrap());
        let good = fs::read(&path).unwrap();
        let mut cases = vec![Vec::new(), good[..40].to_vec(), vec![0; good.len()], vec![7; 4096]];
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            cases.push(bad);
        }
        for bad in cases {
            fs::write(&path, &bad).unwrap();
            let error = DeviceKey::load_or_create(home.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bad, "left as it was");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let home = home();
        let path = home.path().join(FILE);
        drop(DeviceKey::load_or_create(home.path()).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = DeviceKey::load_or_create(home.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Exposed { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let home = home();
        let key = DeviceKey::load_or_create(home.path()).unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains("redacted") && shown.len() < 60, "{shown}");
    }

    #[test]
    fn only_what_was_good_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_create(dir.path()).unwrap();
        let verifier = KnownVerifier::default();
        let signature = key.sign(b"hello");
        for _ in 0..2 {
            assert!(verifier.verify(&key.public_key(), b"hello", &signature));
            assert!(!verifier.verify(&key.public_key(), b"hallo", &signature));
            assert!(!verifier.verify(&PublicKey([0xff; 32]), b"hello", &signature));
        }
        assert_eq!(verifier.0.lock().unwrap().new.len(), 1);
    }

    #[test]
    fn what_is_asked_for_again_stays_and_the_rest_goes() {
        let mut known = Known::default();
        let print = |n: usize| {
            let mut print = [0; 32];
            print[..8].copy_from_slice(&n.to_be_bytes());
            print
        };
        known.note(print(0));
        for n in 1..4 * KNOWN_MAX {
            known.note(print(n));
            assert!(known.has(print(0)));
            assert!(known.new.len() <= KNOWN_MAX && known.old.len() <= KNOWN_MAX);
        }
        assert!(!known.has(print(1)));
    }
}
