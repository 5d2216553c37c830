//! Check of fjall's write-ahead logs (its "journals", `*.jnl`) before fjall opens them. fjall trims one at the first
//! entry that it cannot read, silently and with every later batch (its issue 311), refuses to open on a checksum error
//! even in a tail that nobody was promised, and trusts lengths it reads. Here damage is found first, kept aside, cut
//! and reported.
//!
//! Format (fjall 3.1, `journal/entry.rs`; little endian; compression is off in our build):
//! start = 1, items u32, sequence number u64 · item = 2, kind u8, compression u8, key space u64, key length u16, value
//! length u32, stored length u32, key, value · clear = 4, key space u64 · end = 3, xxh3 of all items u64, `FJL\x03`.
//! A log is created as 64 MiB of zeroes and filled from the front. The checksum leaves out the sequence number, which
//! says which write to a key is the newest; so that it rises from batch to batch is checked here too.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::error::StoreError;
use super::report::Repair;

const TRAILER: [u8; 4] = *b"FJL\x03";

/// More than this after the last good batch is no unfinished batch: the writer's groups are not that long.
const UNFINISHED_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// fjall's sequence numbers rise by one or a little more: each batch, and each change of its tables, takes one.
const SEQNO_GAP_MAX: u64 = 1 << 32;

/// Checks every write-ahead log of the database in `db`, and cuts the first damaged one at its last good batch. What is
/// cut, and logs after it (they would be applied over a gap), are first copied or moved to `aside`.
pub(super) fn check(db: &Path, aside: impl Fn() -> Result<PathBuf, StoreError>) -> Result<Vec<Repair>, StoreError> {
    let mut repaired = Vec::new();
    let logs = list(db)?;
    let mut seqnos = Seqnos::default();
    for (index, path) in logs.iter().enumerate() {
        let scan = scan(path, &mut seqnos).map_err(StoreError::file("reading the write-ahead log", path))?;
        let later = logs.get(index + 1..).unwrap_or_default();
        let (why, promised) = match scan.ending {
            Ending::Clean => continue,
            // Only the newest log may have an unfinished tail: the others were synced when they were sealed.
            Ending::Unfinished => ("the last batch was not written to its end", !later.is_empty()),
            Ending::Damaged(why) => (why, true),
        };
        let mut kept_at = None;
        if promised {
            let aside = aside()?;
            let copy = aside.join(path.file_name().unwrap_or_default());
            fs::copy(path, &copy).map_err(StoreError::file("copying the damaged write-ahead log to", &copy))?;
            for path in later {
                let target = aside.join(path.file_name().unwrap_or_default());
                fs::rename(path, &target)
                    .map_err(StoreError::file("moving a write-ahead log after the damage to", &target))?;
            }
            kept_at = Some(copy);
        }
        cut(path, scan.good_end).map_err(StoreError::file("cutting the damaged write-ahead log", path))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        repaired.push(Repair { file, why, cut_at: scan.good_end, promised, kept_at });
        break;
    }
    Ok(repaired)
}

/// Write-ahead logs, oldest first.
fn list(db: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = || StoreError::file("listing the store", db);
    let mut logs = Vec::new();
    for entry in fs::read_dir(db).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let id = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse::<u64>().ok());
        if let Some(id) = id.filter(|_| path.extension() == Some(OsStr::new("jnl"))) {
            logs.push((id, path));
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// Ends of the good batches of a log.
#[cfg(test)]
pub(super) fn batch_ends(path: &Path) -> Vec<u64> {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut reader = Reader { inner: BufReader::new(file), left: len };
    std::iter::from_fn(|| reader.batch().unwrap().is_ok().then(|| len - reader.left)).collect()
}

fn cut(path: &Path, at: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(at)?;
    file.sync_all()
}

const DISORDER: &str = "the numbers of the batches do not rise";

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// After the last batch there is nothing, or zeroes.
    Clean,
    /// After the last good batch there is the beginning of another, then nothing, or zeroes.
    Unfinished,
    Damaged(&'static str),
}

#[derive(Debug)]
struct Scan {
    good_end: u64,
    ending: Ending,
}

/// Sequence number and place of the two newest batches.
#[derive(Debug, Default)]
struct Seqnos {
    newest: Option<u64>,
    before: Option<u64>,
}

impl Seqnos {
    /// Takes `next` as the newest number; if it may not follow, says which of the two is wrong.
    fn follow(&mut self, next: u64) -> Result<(), Wrong> {
        match self.newest {
            Some(newest) if next <= newest && self.before.is_some_and(|before| next > before) => Err(Wrong::Previous),
            Some(newest) if next <= newest || next - newest > SEQNO_GAP_MAX => Err(Wrong::This),
            _ => {
                self.before = self.newest.replace(next);
                Ok(())
            }
        }
    }
}

enum Wrong {
    This,
    Previous,
}

fn scan(path: &Path, seqnos: &mut Seqnos) -> io::Result<Scan> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut reader = Reader { inner: BufReader::with_capacity(64 * 1024, file), left: len };
    let (mut good_end, mut end_before) = (0, 0);
    let ending = loop {
        match reader.batch()? {
            Ok(seqno) => match seqnos.follow(seqno) {
                Ok(()) => (end_before, good_end) = (good_end, len - reader.left),
                Err(Wrong::This) => break Ending::Damaged(DISORDER),
                Err(Wrong::Previous) => {
                    good_end = end_before;
                    break Ending::Damaged(DISORDER);
                }
            },
            Err(Stop::AtZeroes { in_batch }) => {
                break match (reader.rest_is_zero()?, in_batch) {
                    (true, false) => Ending::Clean,
                    (true, true) => Ending::Unfinished,
                    (false, _) => Ending::Damaged("a part of it is zeroes"),
                };
            }
            Err(Stop::AtEnd { in_batch: false }) => break Ending::Clean,
            Err(Stop::AtEnd { in_batch: true }) => break Ending::Unfinished,
            Err(Stop::Damaged(why)) => break Ending::Damaged(why),
        }
    };
    Ok(Scan { good_end, ending })
}

/// Reason for which a batch could not be read.
enum Stop {
    AtEnd { in_batch: bool },
    AtZeroes { in_batch: bool },
    Damaged(&'static str),
}

struct Reader {
    inner: BufReader<File>,
    /// Bytes up to the end of the file.
    left: u64,
}

impl Reader {
    /// Reads one batch; its sequence number when its rows are good.
    fn batch(&mut self) -> io::Result<Result<u64, Stop>> {
        let Some([tag]) = self.array::<1>()? else { return Ok(Err(Stop::AtEnd { in_batch: false })) };
        match tag {
            1 => {}
            0 => return Ok(Err(Stop::AtZeroes { in_batch: false })),
            _ => return Ok(Err(Stop::Damaged("there are bytes between batches that are none"))),
        }
        let in_batch = true;
        let Some(head) = self.array::<12>()? else { return Ok(Err(Stop::AtEnd { in_batch })) };
        let items = u32_at(&head, 0);
        let seqno = u64_at(&head, 4);
        let mut sum = Xxh3::new();
        let mut bytes = Vec::new();
        for _ in 0..items {
            let Some(tag) = self.array::<1>()? else { return Ok(Err(Stop::AtEnd { in_batch })) };
            sum.update(&tag);
            match tag {
                [2] => {
                    let Some(head) = self.array::<20>()? else { return Ok(Err(Stop::AtEnd { in_batch })) };
                    sum.update(&head);
                    let (kind, compression) = (head[0], head[1]);
                    if !matches!(kind, 0..=2) || compression != 0 {
                        return Ok(Err(Stop::Damaged("a row is of no known kind")));
                    }
                    let body = u64::from(u16_at(&head, 10)) + u64::from(u32_at(&head, 16));
                    if body > self.left {
                        return Ok(Err(if self.left > UNFINISHED_BYTES_MAX {
                            Stop::Damaged("a row reaches beyond the end")
                        } else {
                            Stop::AtEnd { in_batch }
                        }));
                    }
                    bytes.resize(usize::try_from(body).unwrap_or(usize::MAX), 0);
                    if !self.fill(&mut bytes)? {
                        return Ok(Err(Stop::AtEnd { in_batch }));
                    }
                    sum.update(&bytes);
                }
                [4] => {
                    let Some(space) = self.array::<8>()? else { return Ok(Err(Stop::AtEnd { in_batch })) };
                    sum.update(&space);
                }
                [0] => return Ok(Err(Stop::AtZeroes { in_batch })),
                _ => return Ok(Err(Stop::Damaged("a batch holds something that is no row"))),
            }
        }
        let Some([tag]) = self.array::<1>()? else { return Ok(Err(Stop::AtEnd { in_batch })) };
        match tag {
            3 => {}
            0 => return Ok(Err(Stop::AtZeroes { in_batch })),
            _ => return Ok(Err(Stop::Damaged("a batch does not end where it should"))),
        }
        let Some(end) = self.array::<12>()? else { return Ok(Err(Stop::AtEnd { in_batch })) };
        if end[11] == 0 {
            return Ok(Err(Stop::AtZeroes { in_batch }));
        }
        if end[8..] != TRAILER {
            return Ok(Err(Stop::Damaged("a batch does not end where it should")));
        }
        if u64_at(&end, 0) != sum.digest() {
            return Ok(Err(Stop::Damaged("a batch has a wrong checksum")));
        }
        Ok(Ok(seqno))
    }

    /// The next bytes; none at the end of the file.
    fn array<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        Ok(self.fill(&mut bytes)?.then_some(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        match self.inner.read_exact(bytes) {
            Ok(()) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rest_is_zero(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.inner.fill_buf()?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            let len = bytes.len();
            self.inner.consume(len);
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).unwrap_or_default())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).unwrap_or_default())
}
