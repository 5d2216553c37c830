//! Texts as the ids that a model reads.

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{Tokenizer, TruncationParams};

/// Largest file that is read, bytes. That of the first model has 466 KB.
const FILE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The tokenizer of a model. Names of special tokens in a text are words like others: nobody writes the end of a text into a
/// text.
#[derive(Debug)]
pub struct Tokens(Tokenizer);

/// Failure of a tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is none.
    #[error("the file is no tokenizer: {0}")]
    Unreadable(String),
    /// It does not take a text.
    #[error("the tokenizer does not take a text: {0}")]
    Text(String),
}

impl Tokens {
    /// Reads a `tokenizer.json`; a text has at most `tokens_max` ids, with those of its start and end.
    ///
    /// # Errors
    /// [`TokenizerError::Unreadable`].
    pub fn read(json: &[u8], tokens_max: usize) -> Result<Self, TokenizerError> {
        let unreadable = |error: &dyn std::fmt::Display| TokenizerError::Unreadable(error.to_string());
        if json.len() > FILE_BYTES_MAX {
            return Err(unreadable(&format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| unreadable(&error))?;
        // The file asks that every text be filled up to 128, and cut there.
        tokenizer.with_padding(None);
        let cut = TruncationParams { max_length: tokens_max, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(|error| unreadable(&error))?;
        tokenizer.set_encode_special_tokens(true);
        Ok(Self(tokenizer))
    }

    /// A tokenizer of pairs of bytes as files of weights bring it along: the pieces by id, and which two become one. `pre`
    /// names how a text is cut before; one whose cuts were never compared with another implementation's is refused.
    ///
    /// # Errors
    /// [`TokenizerError::Unreadable`].
    pub fn of_pairs(pre: &str, pieces: Vec<String>, merges: Vec<(String, String)>) -> Result<Self, TokenizerError> {
        let unreadable = |error: &dyn std::fmt::Display| TokenizerError::Unreadable(error.to_string());
        if pre != "smollm" {
            return Err(unreadable(&format!("its kind `{pre}` is not known here")));
        }
        let vocabulary: Vocab = pieces.into_iter().zip(0..).collect();
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(|error| unreadable(&error))?;
        let mut tokenizer = Tokenizer::new(model);
        // No space in front: with one the model answers as if it had been told something else.
        let cuts: Vec<PreTokenizerWrapper> = vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
        tokenizer.with_pre_tokenizer(Some(Sequence::new(cuts)));
        tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
        Ok(Self(tokenizer))
    }

    /// The text of ids.
    ///
    /// # Errors
    /// [`TokenizerError::Text`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.0.decode(ids, false).map_err(|error| TokenizerError::Text(error.to_string()))
    }

    /// The id of a piece, among them special ones.
    #[must_use]
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.0.token_to_id(piece)
    }

    /// Number of ids: all are below it.
    #[must_use]
    pub fn ids(&self) -> usize {
        self.0.get_vocab(true).values().max().map_or(0, |largest| *largest as usize + 1)
    }

    /// The ids of a text; what does not fit is left out.
    ///
    /// # Errors
    /// [`TokenizerError::Text`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoded = self.0.encode_fast(text, true).map_err(|error| TokenizerError::Text(error.to_string()))?;
        Ok(encoded.get_ids().to_vec())
    }
}
