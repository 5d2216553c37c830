//! Changes of valid bytes and numbers, drawn from a seed: what a hostile peer, a bad disk or a newer version may send.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Rounds of changes to one piece of bytes, at most.
const ROUNDS_MAX: usize = 4;
/// Largest piece of bytes that a change makes; what is over a limit is longer than this nowhere else than in tests of
/// that limit.
const BYTES_MAX: usize = 300 * 1024;

/// Numbers at the edges of their types, and beside them.
const EXTREMES: [u64; 14] = [
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// Beginnings of CBOR and protobuf values that promise more than follows.
const PROMISES: [&[u8]; 8] = [
    &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x5b, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff],
    &[0x7a, 0x7f, 0xff, 0xff, 0xff],
    &[0x9f],
    &[0xbf],
    &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x07],
    &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
];

/// A source of changes. The same seed makes the same changes.
#[derive(Debug, Clone)]
pub struct Mutation(ChaCha8Rng);

impl Mutation {
    /// The changes of this seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.0.next_u64() % bound as u64) as usize }
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A number: one at an edge, one near `like`, or any.
    pub fn number(&mut self, like: u64) -> u64 {
        match self.below(4) {
            0 => *self.pick(&EXTREMES),
            1 => like.wrapping_add(*self.pick(&EXTREMES)),
            2 => like.wrapping_sub(1 + self.below(3) as u64),
            _ => self.0.next_u64() >> self.below(64),
        }
    }

    /// Changes `bytes` in one to four places; now and then by a piece of another one of `pool`.
    pub fn bytes(&mut self, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
        for _ in 0..=self.below(ROUNDS_MAX) {
            self.change(bytes, pool);
            bytes.truncate(BYTES_MAX);
        }
    }

    fn change(&mut self, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        match self.below(12) {
            0 | 1 => {
                let bit = 1_u8 << self.below(8);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
            }
            2 => {
                let value = self.below(256) as u8;
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = value);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..(at + 1 + self.below(16)).min(bytes.len()).max(at))),
            5 => {
                let value = self.below(256) as u8;
                let more = vec![value; 1 + self.below(16)];
                drop(bytes.splice(at..at, more));
            }
            6 => {
                let piece = self.piece(bytes);
                drop(bytes.splice(at..at, piece));
            }
            7 if !pool.is_empty() => {
                let other = self.pick(pool).clone();
                let piece = self.piece(&other);
                let until = (at + self.below(piece.len() + 1)).min(bytes.len());
                drop(bytes.splice(at..until, piece));
            }
            8 => {
                let number = self.number(0).to_be_bytes();
                let width = *self.pick(&[1, 2, 4, 8]);
                let wide = number.into_iter().skip(8 - width);
                bytes.iter_mut().skip(at).zip(wide).for_each(|(byte, value)| *byte = value);
            }
            9 => {
                let promise = *self.pick(&PROMISES);
                let until = (at + self.below(promise.len() + 1)).min(bytes.len());
                drop(bytes.splice(at..until, promise.iter().copied()));
            }
            10 => {
                // Lists in lists, maps in maps, or messages in messages.
                let nests: [&[u8]; 4] = [&[0x81], &[0xa1, 0x61, 0x61], &[0xd8, 0x18], &[0x0a, 0x7f]];
                let nests = *self.pick(&nests);
                let deep = *self.pick(&[3, 40, 300, 20_000]);
                drop(bytes.splice(at..at, nests.iter().copied().cycle().take(deep * nests.len())));
            }
            _ => {
                let other = self.below(bytes.len() + 1);
                if at < bytes.len() && other < bytes.len() {
                    bytes.swap(at, other);
                }
            }
        }
    }

    /// A piece of some bytes, of at most 4 KiB.
    fn piece(&mut self, of: &[u8]) -> Vec<u8> {
        let from = self.below(of.len() + 1);
        of.iter().skip(from).take(1 + self.below(4_096)).copied().collect()
    }
}

/// Cases of all parts together, unless `SIGIL_FUZZ_CASES` says otherwise.
const CASES: u64 = 40_000;

/// Says how to run a case again when it panics.
struct Replay<'a>(&'a str, u64);

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(part, case) = self;
            eprintln!("this case alone: SIGIL_FUZZ_REPLAY={part}:{case}");
        }
    }
}

/// Runs the cases of one part: first those that are `kept`, since they failed once, then `share` thousandths of
/// `SIGIL_FUZZ_CASES` (40,000), drawn from `SIGIL_FUZZ_SEED` (0). Of one that panics it is said how it is run again.
pub fn fuzz(part: &str, share: u64, kept: &[u64], mut run: impl FnMut(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut run = |case| {
        let replay = Replay(part, case);
        run(case);
        drop(replay);
    };
    if let Ok(replay) = std::env::var("SIGIL_FUZZ_REPLAY") {
        let case = replay.strip_prefix(part).and_then(|rest| rest.strip_prefix(':'));
        return case.and_then(|case| case.parse().ok()).into_iter().for_each(run);
    }
    kept.iter().copied().for_each(&mut run);
    let first = number("SIGIL_FUZZ_SEED").unwrap_or(0) << 32;
    let cases = number("SIGIL_FUZZ_CASES").unwrap_or(CASES) * share / 1_000;
    (first..first + cases).for_each(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_changes_again_and_another_does_not() {
        let pool = [b"splice me".to_vec()];
        let changed = |seed| {
            let mut mutation = Mutation::new(seed);
            let mut bytes = vec![7; 64];
            (0..50).for_each(|_| mutation.bytes(&mut bytes, &pool));
            bytes
        };
        assert_eq!(changed(1), changed(1));
        assert_ne!(changed(1), changed(2));
    }
}
