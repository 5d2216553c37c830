//! Frames between the agent and the child that runs a model: a length in four bytes, little-endian, and CBOR.
//!
//! The child is not trusted: a model's file may be anybody's. [`Reply::vectors`] lets through only what [`vectors::check`]
//! accepts, in the number that was asked for. The agent is checked as well, so that a slip of ours is an error and not a child
//! without memory.

use std::io::{self, Read, Write};

use memory_core::index::vectors::{self, DIMENSION_MAX, VectorError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the frames: the child is the same program, but an update may have replaced it.
pub const VERSION: u16 = 2;
/// Largest frame, bytes: [`TEXTS_MAX`] texts of [`TEXT_BYTES_MAX`], or as many vectors of the largest dimension.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Texts of one request.
pub const TEXTS_MAX: usize = 32;
/// Longest text, bytes. What a model reads of a text is far less; see `cut`.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Longest prompt, bytes of both its parts.
pub const PROMPT_BYTES_MAX: usize = 16 * 1024;
/// Most tokens that are written to one prompt.
pub const WRITTEN_TOKENS_MAX: u16 = 512;
/// Longest text that is written to one prompt, bytes: a token has at most some 30.
pub const WRITTEN_BYTES_MAX: usize = 16 * 1024;
/// Longest reason of a failure that is shown, characters.
const REASON_CHARS_MAX: usize = 300;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back with the reply.
    pub id: u64,
    /// Texts whose vectors are wanted.
    pub texts: Vec<String>,
}

/// A request to a model that writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// Comes back with the reply.
    pub id: u64,
    /// What it is told.
    pub prompt: Prompt,
}

/// What a model that writes is told. Names of special tokens in it are words like others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// What it is to do.
    pub system: String,
    /// What with.
    pub user: String,
    /// Most tokens that it writes.
    pub tokens_max: u16,
}

/// Reply of a child, the first of which comes unasked with id 0, when the model is loaded or is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// That of the request.
    pub id: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Outcome of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The model is loaded.
    Ready {
        /// See [`VERSION`].
        version: u16,
        /// Numbers of its vectors; 0 if it writes.
        dimension: usize,
    },
    /// What was written; UTF-8, as long as nobody cut it.
    Words(serde_bytes::ByteBuf),
    /// A vector for each text: 32-bit numbers, little-endian.
    Vectors(Vec<serde_bytes::ByteBuf>),
    /// Reason why there are none.
    Failed(String),
}

/// Why a frame is none, or not the one that was due. Whoever sent it is not asked again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The pipe.
    #[error("the pipe to the model's process broke")]
    Pipe(#[from] io::Error),
    /// A frame over its limit.
    #[error("a frame of {0} bytes is over its limit")]
    TooLarge(usize),
    /// Bytes that are no frame.
    #[error("the frame cannot be read")]
    Garbage,
    /// Too many texts, or too long ones.
    #[error("the request is over its limits")]
    Request,
    /// A reply to something else.
    #[error("the model's process answered {got} where {want} was asked")]
    Foreign {
        /// Its id.
        got: u64,
        /// The id that was due.
        want: u64,
    },
    /// Another number of vectors than of texts.
    #[error("the model gave {got} vectors for {want} texts")]
    Count {
        /// Vectors.
        got: usize,
        /// Texts.
        want: usize,
    },
    /// A vector that is none.
    #[error("the model's output is not a vector")]
    Vector(#[from] VectorError),
    /// What it wrote is too long, or is no text.
    #[error("the model wrote what is no text, or too much of it")]
    Words,
    /// The model's process is of another version of this program.
    #[error("the model's process speaks version {0}: restart the agent")]
    Version(u16),
    /// It says why it cannot.
    #[error("the model's process says: {0}")]
    Failed(String),
}

impl Request {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`WireError::Request`].
    pub fn check(&self) -> Result<(), WireError> {
        let fits = self.texts.len() <= TEXTS_MAX && self.texts.iter().all(|text| text.len() <= TEXT_BYTES_MAX);
        if fits { Ok(()) } else { Err(WireError::Request) }
    }
}

impl WriteRequest {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`WireError::Request`].
    pub fn check(&self) -> Result<(), WireError> {
        let Prompt { system, user, tokens_max } = &self.prompt;
        let fits = system.len().saturating_add(user.len()) <= PROMPT_BYTES_MAX && *tokens_max <= WRITTEN_TOKENS_MAX;
        if fits { Ok(()) } else { Err(WireError::Request) }
    }
}

impl Reply {
    /// The dimension that the first frame of a child tells.
    ///
    /// # Errors
    /// It is no such frame; the model could not be loaded.
    pub fn ready(self) -> Result<usize, WireError> {
        match self.outcome {
            Outcome::Ready { version, .. } if version != VERSION => Err(WireError::Version(version)),
            Outcome::Ready { dimension, .. } if self.id == 0 && dimension <= DIMENSION_MAX => Ok(dimension),
            Outcome::Failed(why) => Err(WireError::Failed(shown(&why))),
            Outcome::Ready { .. } | Outcome::Vectors(_) | Outcome::Words(_) => Err(WireError::Garbage),
        }
    }

    /// The vectors that answer a request, each of which is one.
    ///
    /// # Errors
    /// Anything else.
    pub fn vectors(self, request: &Request, dimension: usize) -> Result<Vec<Vec<f32>>, WireError> {
        if self.id != request.id {
            return Err(WireError::Foreign { got: self.id, want: request.id });
        }
        let raw = match self.outcome {
            Outcome::Vectors(raw) => raw,
            Outcome::Failed(why) => return Err(WireError::Failed(shown(&why))),
            Outcome::Ready { .. } | Outcome::Words(_) => return Err(WireError::Garbage),
        };
        if raw.len() != request.texts.len() {
            return Err(WireError::Count { got: raw.len(), want: request.texts.len() });
        }
        let mut read = Vec::with_capacity(raw.len());
        for bytes in &raw {
            let (numbers, rest) = bytes.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(WireError::Garbage);
            }
            let vector: Vec<f32> = numbers.iter().map(|four| f32::from_le_bytes(*four)).collect();
            vectors::check(&vector, dimension)?;
            read.push(vector);
        }
        Ok(read)
    }

    /// The text that answers a request to write. What it says is anything: whoever keeps it checks it.
    ///
    /// # Errors
    /// Anything else.
    pub fn words(self, request: &WriteRequest) -> Result<String, WireError> {
        if self.id != request.id {
            return Err(WireError::Foreign { got: self.id, want: request.id });
        }
        match self.outcome {
            Outcome::Words(bytes) if bytes.len() <= WRITTEN_BYTES_MAX => {
                String::from_utf8(bytes.into_vec()).map_err(|_| WireError::Words)
            }
            Outcome::Words(_) => Err(WireError::Words),
            Outcome::Failed(why) => Err(WireError::Failed(shown(&why))),
            Outcome::Ready { .. } | Outcome::Vectors(_) => Err(WireError::Garbage),
        }
    }

    /// A reply with a text, cut to what a reply may have.
    #[must_use]
    pub fn text(id: u64, text: &str) -> Self {
        let text = text.get(..text.floor_char_boundary(WRITTEN_BYTES_MAX)).unwrap_or_default();
        Self { id, outcome: Outcome::Words(serde_bytes::ByteBuf::from(text.as_bytes())) }
    }

    /// A reply with vectors.
    #[must_use]
    pub fn of(id: u64, vectors: &[Vec<f32>]) -> Self {
        let bytes = |vector: &Vec<f32>| {
            serde_bytes::ByteBuf::from(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        };
        Self { id, outcome: Outcome::Vectors(vectors.iter().map(bytes).collect()) }
    }
}

/// A text, cut to what a request takes: a model reads the beginning only.
#[must_use]
pub fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

/// A frame of a value, with its length in front.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn frame<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = cbor4ii::serde::to_vec(vec![0; 4], value).map_err(|_| WireError::Garbage)?;
    let body = bytes.len() - 4;
    let length = u32::try_from(body).ok().filter(|_| body <= FRAME_BYTES_MAX).ok_or(WireError::TooLarge(body))?;
    bytes.splice(..4, length.to_le_bytes());
    Ok(bytes)
}

/// The length of a frame that is announced.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn length(four: [u8; 4]) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(four) as usize;
    if length <= FRAME_BYTES_MAX { Ok(length) } else { Err(WireError::TooLarge(length)) }
}

/// Reads the body of a frame.
///
/// # Errors
/// [`WireError::Garbage`].
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    cbor4ii::serde::from_slice(body).map_err(|_| WireError::Garbage)
}

/// Reads one frame; `None` at the end of the pipe. Blocks.
///
/// # Errors
/// The pipe; what is no frame.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<T>, WireError> {
    let mut four = [0; 4];
    match from.read_exact(&mut four) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut body = vec![0; length(four)?];
    from.read_exact(&mut body)?;
    read(&body).map(Some)
}

/// Writes one frame. Blocks.
///
/// # Errors
/// The pipe; [`WireError::TooLarge`].
pub fn send<T: Serialize>(to: &mut impl Write, value: &T) -> Result<(), WireError> {
    to.write_all(&frame(value)?)?;
    Ok(to.flush()?)
}

/// Words of a child, so that they can be shown: one line, no control characters, not too long.
fn shown(why: &str) -> String {
    why.chars().filter(|letter| !letter.is_control()).take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(dimension: usize) -> Vec<f32> {
        let mut vector = vec![0.0; dimension];
        vector[0] = 1.0;
        vector
    }

    fn asked(texts: usize) -> Request {
        Request { id: 7, texts: vec!["x".to_owned(); texts] }
    }

    #[test]
    fn what_is_sent_is_received() {
        let mut pipe = Vec::new();
        let (request, reply) = (asked(2), Reply::of(7, &[unit(3), unit(3)]));
        send(&mut pipe, &request).unwrap();
        send(&mut pipe, &reply).unwrap();
        let mut from = pipe.as_slice();
        assert_eq!(receive::<Request>(&mut from).unwrap(), Some(request.clone()));
        let got = receive::<Reply>(&mut from).unwrap().unwrap();
        assert_eq!(got.vectors(&request, 3).unwrap(), [unit(3), unit(3)]);
        assert!(receive::<Request>(&mut from).unwrap().is_none());
    }

    #[test]
    fn nothing_that_is_no_vector_gets_through() {
        let nan = vec![f32::NAN, 0.0, 0.0];
        let long = unit(4);
        let short = vec![0.1, 0.0, 0.0];
        for bad in [nan, long, short, vec![], vec![f32::INFINITY, 0.0, 0.0]] {
            let reply = Reply::of(7, &[unit(3), bad]);
            assert!(matches!(reply.vectors(&asked(2), 3), Err(WireError::Vector(_))));
        }
        let count = Reply::of(7, &[unit(3)]).vectors(&asked(2), 3);
        assert!(matches!(count, Err(WireError::Count { got: 1, want: 2 })));
        let foreign = Reply::of(8, &[unit(3)]).vectors(&asked(1), 3);
        assert!(matches!(foreign, Err(WireError::Foreign { got: 8, want: 7 })));
        let half = Outcome::Vectors(vec![serde_bytes::ByteBuf::from(vec![0; 11])]);
        assert!(matches!(Reply { id: 7, outcome: half }.vectors(&asked(1), 3), Err(WireError::Garbage)));
        let ready = Outcome::Ready { version: VERSION, dimension: 3 };
        assert!(matches!(Reply { id: 7, outcome: ready }.vectors(&asked(1), 3), Err(WireError::Garbage)));
    }

    #[test]
    fn what_was_written_is_text_of_a_limited_length_or_nothing() {
        let request = WriteRequest {
            id: 7,
            prompt: Prompt { system: "be brief".to_owned(), user: "x".to_owned(), tokens_max: 5 },
        };
        request.check().unwrap();
        let said = |id, bytes: &[u8]| Reply { id, outcome: Outcome::Words(serde_bytes::ByteBuf::from(bytes)) };
        assert_eq!(said(7, "hä".as_bytes()).words(&request).unwrap(), "hä");
        assert_eq!(said(7, b"").words(&request).unwrap(), "");
        assert!(matches!(said(7, b"cut \xc3").words(&request), Err(WireError::Words)));
        assert!(matches!(said(7, &vec![b'x'; WRITTEN_BYTES_MAX + 1]).words(&request), Err(WireError::Words)));
        assert!(matches!(said(6, b"x").words(&request), Err(WireError::Foreign { got: 6, want: 7 })));
        let vectors = Reply::of(7, &[unit(3)]);
        assert!(matches!(vectors.words(&request), Err(WireError::Garbage)));
        assert!(matches!(said(7, b"x").vectors(&asked(1), 3), Err(WireError::Garbage)));
        let failed = Reply { id: 7, outcome: Outcome::Failed("no".to_owned()) };
        assert!(matches!(failed.words(&request), Err(WireError::Failed(why)) if why == "no"));
        let long = Prompt { user: "x".repeat(PROMPT_BYTES_MAX), ..request.prompt.clone() };
        assert!(WriteRequest { id: 1, prompt: long }.check().is_err());
        let much = Prompt { tokens_max: WRITTEN_TOKENS_MAX + 1, ..request.prompt };
        assert!(WriteRequest { id: 1, prompt: much }.check().is_err());
    }

    #[test]
    fn a_first_frame_of_another_version_or_size_is_refused() {
        let ready = |version, dimension| Reply { id: 0, outcome: Outcome::Ready { version, dimension } };
        assert_eq!(ready(VERSION, 384).ready().unwrap(), 384);
        assert!(matches!(ready(VERSION + 1, 384).ready(), Err(WireError::Version(_))));
        assert_eq!(ready(VERSION, 0).ready().unwrap(), 0, "one that writes");
        assert!(matches!(ready(VERSION, DIMENSION_MAX + 1).ready(), Err(WireError::Garbage)));
        let failed = Reply { id: 0, outcome: Outcome::Failed("no\u{1b}[31m model\n".to_owned()) };
        assert!(matches!(failed.ready(), Err(WireError::Failed(why)) if why == "no[31m model"));
    }

    #[test]
    fn garbage_and_length_are_refused_before_anything_is_allocated() {
        let mut huge: &[u8] = &[0xff, 0xff, 0xff, 0xff, 1];
        assert!(matches!(receive::<Reply>(&mut huge), Err(WireError::TooLarge(_))));
        let mut garbage: &[u8] = &[3, 0, 0, 0, 0xff, 0xff, 0xff];
        assert!(matches!(receive::<Reply>(&mut garbage), Err(WireError::Garbage)));
        let mut short: &[u8] = &[9, 0, 0, 0, 1];
        assert!(matches!(receive::<Reply>(&mut short), Err(WireError::Pipe(_))));
        let many = Request { id: 1, texts: vec![String::new(); TEXTS_MAX + 1] };
        assert!(matches!(many.check(), Err(WireError::Request)));
        let long = Request { id: 1, texts: vec!["x".repeat(TEXT_BYTES_MAX + 1)] };
        assert!(matches!(long.check(), Err(WireError::Request)));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = "ä".repeat(TEXT_BYTES_MAX);
        let cut = cut(&text);
        assert!(cut.len() <= TEXT_BYTES_MAX && cut.len() > TEXT_BYTES_MAX - 2);
        let whole = Request { id: 1, texts: vec![cut.to_owned(); TEXTS_MAX] };
        whole.check().unwrap();
        assert!(frame(&whole).is_ok());
        assert!(frame(&Reply::of(1, &vec![vec![0.5; DIMENSION_MAX]; TEXTS_MAX])).is_ok());
    }

    /// Frames of a child that was changed here and there: what gets through is what may.
    #[test]
    fn no_frame_that_is_bent_gets_through_as_something_else() {
        let good = frame(&Reply::of(7, &[unit(3), unit(3)])).unwrap();
        let mut state = 1_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        for _ in 0..20_000 {
            let mut bent = good.clone();
            for _ in 0..=draw(3) {
                let at = draw(bent.len());
                match draw(3) {
                    0 => bent[at] = u8::try_from(draw(256)).unwrap(),
                    1 => bent.truncate(at.max(1)),
                    _ => bent.insert(at, u8::try_from(draw(256)).unwrap()),
                }
            }
            let Ok(Some(reply)) = receive::<Reply>(&mut bent.as_slice()) else { continue };
            if let Ok(vectors) = reply.clone().vectors(&asked(2), 3) {
                assert_eq!(vectors.len(), 2);
                assert!(vectors.iter().all(|vector| vectors::check(vector, 3).is_ok()));
            }
            let _ = reply.ready();
        }
    }
}
