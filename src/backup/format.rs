//! The file of a backup: a magic, a number, parts, and the SHA-256 of all of it.
//!
//! Each part is a tag of one byte, the length of the rest in four (big endian), and that rest. In this order: one
//! manifest, files, rows, rows of memory, blobs (each a start and its bytes), and one end that counts them. A writer that cannot go on
//! says so in a last part. The sum says that a file is whole; it is no signature, since the key lies beside it.

use std::io::{self, Read, Write};

use mesh_core::ids::Hash;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::error::BackupError;

/// Its second half is what transfers as text, or over seven bits, change.
const MAGIC: [u8; 16] = *b"sigil backup\r\n\x1a\xff";
/// The present format. Version 1 had no memory, and is read.
pub(super) const VERSION: u32 = 2;
const OLDEST: u32 = 1;

const MANIFEST: u8 = 1;
const FILE: u8 = 2;
const ROW: u8 = 3;
const BLOB: u8 = 4;
const BLOB_BYTES: u8 = 5;
const END: u8 = 6;
const GIVEN_UP: u8 = 7;
const MEMORY: u8 = 8;

/// Largest manifest, end, or reason for giving up.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
/// Largest file of a home that is taken as it is.
pub(super) const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Largest row: a call with its history and its output is far smaller.
pub(super) const ROW_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of a blob in one part.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
/// Bytes of one file name.
const NAME_BYTES_MAX: usize = 64;
const SUM_BYTES: usize = 32;

/// All that a backup says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Wall time at which it was taken, milliseconds since 1970.
    pub taken_ms: u64,
    /// Version of the program that took it.
    pub version: String,
    /// Format of its rows.
    pub store_format: u32,
    /// The device.
    pub peer_id: String,
    /// The home, as its path was.
    pub home: String,
}

/// All that was left out of a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Large payloads that no open call needs: results of calls that have ended.
    pub results: u64,
    /// Their bytes.
    pub result_bytes: u64,
    /// Payloads that an open call needs, and that this device does not have.
    pub absent: u64,
}

/// All that is in a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Files.
    pub files: u64,
    /// Rows of the store.
    pub rows: u64,
    /// Rows of the memory of workspaces.
    #[serde(default)]
    pub memory: u64,
    /// Large payloads.
    pub blobs: u64,
    /// All that is not in it.
    pub left: Left,
}

/// One part of a backup.
#[derive(Debug)]
pub(super) enum Part {
    File { name: String, bytes: Vec<u8> },
    Row { key: Vec<u8>, value: Vec<u8> },
    Memory { workspace: [u8; 16], key: Vec<u8>, value: Vec<u8> },
    Blob(Hash),
    BlobBytes(Vec<u8>),
    End(Contents),
}

/// Writes parts.
pub(super) struct Writer<W> {
    out: W,
    sum: Context,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, manifest: &Manifest) -> io::Result<Self> {
        let mut writer = Self { out, sum: Context::new(&SHA256) };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_be_bytes())?;
        writer.part(MANIFEST, &[&json(manifest)?])?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }

    fn part(&mut self, tag: u8, pieces: &[&[u8]]) -> io::Result<()> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let len = u32::try_from(len).map_err(io::Error::other)?;
        self.put(&[tag])?;
        self.put(&len.to_be_bytes())?;
        pieces.iter().try_for_each(|piece| self.put(piece))
    }

    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let len = u8::try_from(name.len()).map_err(io::Error::other)?;
        self.part(FILE, &[&[len], name.as_bytes(), bytes])
    }

    pub(super) fn row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let len = u16::try_from(key.len()).map_err(io::Error::other)?;
        self.part(ROW, &[&len.to_be_bytes(), key, value])
    }

    pub(super) fn memory(&mut self, workspace: &[u8; 16], key: &[u8], value: &[u8]) -> io::Result<()> {
        let len = u16::try_from(key.len()).map_err(io::Error::other)?;
        self.part(MEMORY, &[workspace, &len.to_be_bytes(), key, value])
    }

    pub(super) fn blob(&mut self, hash: &Hash) -> io::Result<()> {
        self.part(BLOB, &[&hash.0])
    }

    pub(super) fn blob_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.part(BLOB_BYTES, &[bytes])
    }

    pub(super) fn end(mut self, contents: &Contents) -> io::Result<()> {
        self.part(END, &[&json(contents)?])?;
        let sum = self.sum.finish();
        self.out.write_all(sum.as_ref())?;
        self.out.flush()
    }

    pub(super) fn give_up(mut self, why: &str) -> io::Result<()> {
        let why = why.as_bytes();
        let most = usize::try_from(TEXT_BYTES_MAX).unwrap_or(usize::MAX);
        self.part(GIVEN_UP, &[why.get(..most).unwrap_or(why)])?;
        self.out.flush()
    }
}

/// Place of a kind of part in a file.
fn order(tag: u8) -> u8 {
    match tag {
        MANIFEST => 0,
        FILE => 1,
        ROW => 2,
        MEMORY => 3,
        BLOB | BLOB_BYTES => 4,
        _ => 5,
    }
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

/// Reads parts, in their order and within their limits.
pub(super) struct Reader<R> {
    from: R,
    sum: Context,
    at: u64,
    manifest: Manifest,
    /// Bytes that came so far.
    seen: Contents,
    last: u8,
}

impl<R: Read> Reader<R> {
    /// Reads up to the manifest.
    pub(super) fn open(from: R) -> Result<Self, BackupError> {
        let mut reader = Self {
            from,
            sum: Context::new(&SHA256),
            at: 0,
            manifest: Manifest::default(),
            seen: Contents::default(),
            last: MANIFEST,
        };
        let mut magic = [0; 16];
        match reader.get(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Ok(()) | Err(BackupError::CutOff(_)) => return Err(BackupError::NotABackup),
            Err(error) => return Err(error),
        }
        let version = u32::from_be_bytes(reader.array()?);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(BackupError::Version { found: version, readable: VERSION });
        }
        match reader.part()? {
            (MANIFEST, bytes) => reader.manifest = parse(&bytes, "its manifest does not decode")?,
            _ => return Err(BackupError::Damaged("it does not begin with a manifest")),
        }
        Ok(reader)
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn get(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.fill(bytes)?;
        self.sum.update(bytes);
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        let at = self.at;
        self.from.read_exact(bytes).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                return BackupError::CutOff(at);
            }
            BackupError::File { doing: "reading", path: "the backup".into(), source }
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut array = [0; N];
        self.get(&mut array)?;
        Ok(array)
    }

    fn part(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let [tag] = self.array()?;
        let len = u32::from_be_bytes(self.array()?);
        let max = match tag {
            MANIFEST | END | GIVEN_UP => TEXT_BYTES_MAX,
            FILE => FILE_BYTES_MAX + NAME_BYTES_MAX as u64 + 1,
            ROW | MEMORY => ROW_BYTES_MAX,
            BLOB => 32,
            BLOB_BYTES => PIECE_BYTES as u64,
            _ => return Err(BackupError::Damaged("it has a part of no known kind")),
        };
        let len = usize::try_from(len).ok().filter(|len| *len as u64 <= max);
        let len = len.ok_or(BackupError::Damaged("one of its parts is too long"))?;
        let mut bytes = vec![0; len];
        self.get(&mut bytes)?;
        Ok((tag, bytes))
    }

    /// The next part; after [`Part::End`], which says that the file is whole, there is none.
    pub(super) fn next(&mut self) -> Result<Part, BackupError> {
        let (tag, bytes) = self.part()?;
        // Pieces of a blob follow its start.
        let in_order = match tag {
            BLOB_BYTES => matches!(self.last, BLOB | BLOB_BYTES),
            _ => order(self.last) <= order(tag),
        };
        if !in_order || tag == MANIFEST {
            return Err(BackupError::Damaged("its parts are out of order"));
        }
        self.last = tag;
        let odd = || BackupError::Damaged("one of its parts does not decode");
        Ok(match tag {
            FILE => {
                let (len, rest) = bytes.split_first().ok_or_else(odd)?;
                let (name, content) = rest.split_at_checked(usize::from(*len)).ok_or_else(odd)?;
                let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= NAME_BYTES_MAX);
                self.seen.files += 1;
                Part::File { name: name.ok_or_else(odd)?.to_owned(), bytes: content.to_vec() }
            }
            ROW => {
                let (len, rest) = bytes.split_first_chunk().ok_or_else(odd)?;
                let (key, value) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or_else(odd)?;
                self.seen.rows += 1;
                Part::Row { key: key.to_vec(), value: value.to_vec() }
            }
            MEMORY => {
                let (workspace, rest) = bytes.split_first_chunk().ok_or_else(odd)?;
                let (len, rest) = rest.split_first_chunk().ok_or_else(odd)?;
                let (key, value) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or_else(odd)?;
                self.seen.memory += 1;
                Part::Memory { workspace: *workspace, key: key.to_vec(), value: value.to_vec() }
            }
            BLOB => {
                self.seen.blobs += 1;
                Part::Blob(Hash::from_slice(&bytes).ok_or_else(odd)?)
            }
            BLOB_BYTES => Part::BlobBytes(bytes),
            END => Part::End(self.end(&bytes)?),
            _ => {
                let why: String = String::from_utf8_lossy(&bytes).chars().take(1000).collect();
                return Err(BackupError::GivenUp(why));
            }
        })
    }

    fn end(&mut self, bytes: &[u8]) -> Result<Contents, BackupError> {
        let contents: Contents = parse(bytes, "its end does not decode")?;
        let sum = std::mem::replace(&mut self.sum, Context::new(&SHA256)).finish();
        let mut said = [0; SUM_BYTES];
        self.fill(&mut said)?;
        if sum.as_ref() != said {
            return Err(BackupError::Damaged("its bytes do not have the sum that was written"));
        }
        if (Contents { left: contents.left, ..self.seen }) != contents {
            return Err(BackupError::Damaged("it has other parts than its end counts"));
        }
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(contents),
            Ok(_) => Err(BackupError::Damaged("something follows its end")),
            Err(error) => Err(BackupError::File { doing: "reading", path: "the backup".into(), source: error }),
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], why: &'static str) -> Result<T, BackupError> {
    serde_json::from_slice(bytes).map_err(|_| BackupError::Damaged(why))
}

/// Reads a whole backup and says what is in it. Blocks. `progress` is told the bytes read so far, now and then.
///
/// # Errors
/// It is no backup, is not whole, or cannot be read.
pub fn inspect(from: impl Read, mut progress: impl FnMut(u64)) -> Result<(Manifest, Contents), BackupError> {
    let mut reader = Reader::open(from)?;
    loop {
        if let Part::End(contents) = reader.next()? {
            return Ok((reader.manifest, contents));
        }
        progress(reader.at());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> Manifest {
        Manifest { taken_ms: 1, version: "0".into(), store_format: 3, peer_id: "p".into(), home: "/home".into() }
    }

    fn example() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &manifest()).unwrap();
        writer.file("name", b"attic\n").unwrap();
        writer.row(b"\x01key", b"value").unwrap();
        writer.memory(&[9; 16], b"\x12key", b"said").unwrap();
        writer.blob(&Hash([7; 32])).unwrap();
        writer.blob_bytes(b"large").unwrap();
        let contents = Contents { files: 1, rows: 1, memory: 1, blobs: 1, left: Left::default() };
        writer.end(&contents).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let (read, contents) = inspect(&*example(), |_| ()).unwrap();
        assert_eq!(read, manifest());
        assert_eq!((contents.files, contents.rows, contents.memory, contents.blobs), (1, 1, 1, 1));
    }

    #[test]
    fn a_file_without_memory_of_version_1_is_read() {
        let manifest = serde_json::to_vec(&manifest()).unwrap();
        let end = br#"{"files":0,"rows":0,"blobs":0,"left":{"results":0,"result_bytes":0,"absent":0}}"#;
        let mut bytes = [&MAGIC[..], &1_u32.to_be_bytes()].concat();
        for (tag, part) in [(MANIFEST, manifest.as_slice()), (END, &end[..])] {
            bytes.push(tag);
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        let sum = ring::digest::digest(&SHA256, &bytes);
        bytes.extend_from_slice(sum.as_ref());
        assert_eq!(inspect(&*bytes, |_| ()).unwrap().1, Contents::default());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let whole = example();
        for len in 0..whole.len() {
            let error = inspect(&whole[..len], |_| ()).unwrap_err();
            assert!(matches!(error, BackupError::NotABackup | BackupError::CutOff(_)), "{len}: {error:?}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(inspect(&*flipped, |_| ()).is_err(), "{bit}");
        }
        let more = [whole.as_slice(), b"x"].concat();
        assert!(matches!(inspect(&*more, |_| ()), Err(BackupError::Damaged(_))));
    }

    #[test]
    fn one_that_was_given_up_says_why() {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, &manifest()).unwrap().give_up("no disk").unwrap();
        assert!(matches!(inspect(&*bytes, |_| ()), Err(BackupError::GivenUp(why)) if why == "no disk"));
    }

    proptest! {
        #[test]
        fn anything_is_read_without_panic(tail in prop::collection::vec(any::<u8>(), 0..200), at in 0..150_usize) {
            let mut bytes = example();
            bytes.truncate(at);
            bytes.extend(tail);
            prop_assert!(inspect(&*bytes, |_| ()).is_err());
        }
    }
}
