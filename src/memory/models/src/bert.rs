//! BERT as an embedder: the mean over the tokens of a text, of length 1.
//!
//! The texts of a batch are one matrix without padding; attention knows where each begins and ends. Weights are loaded from
//! bytes that were hashed; see [`crate::weights`].

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_nn::attention::cpu_flash::varlen::flash_attn_varlen_cpu;
use candle_nn::ops::layer_norm;

use crate::catalogue::Form;
use crate::gelu::Gelu;
use crate::tokenizer::{TokenizerError, Tokens};

/// Added to a variance, as the models were trained.
const EPSILON: f32 = 1e-12;
/// Tokens that one matrix holds: what a batch needs of memory is bounded by it, whatever its texts are.
const TOKENS_AT_ONCE: usize = 2_048;

/// See the module.
#[derive(Debug)]
pub struct Bert {
    tokenizer: Tokens,
    form: Form,
    words: Tensor,
    /// Positions, with the type of the only text.
    places: Tensor,
    norm: Affine,
    layers: Vec<Layer>,
}

/// Why a model cannot be loaded, or gives no vector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BertError {
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A tensor is missing or of another form.
    #[error("the weights have no `{name}` of the form {want:?}")]
    Weights {
        /// Its name.
        name: String,
        /// Its form.
        want: Vec<usize>,
    },
    /// The tokenizer gives ids for which there are no weights.
    #[error("the tokenizer knows more pieces than the model")]
    Vocabulary,
    /// The computation.
    #[error("the model cannot be computed")]
    Tensor(#[from] candle_core::Error),
}

/// A matrix, transposed, and what is added.
#[derive(Debug)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct Layer {
    /// Queries, keys and values at once.
    asked: Affine,
    out: Affine,
    out_norm: Affine,
    up: Affine,
    down: Affine,
    norm: Affine,
}

impl Bert {
    /// Loads a model from the bytes of its two files.
    ///
    /// # Errors
    /// They are not of this form.
    pub fn load(weights: &[u8], tokenizer: &[u8], form: Form) -> Result<Self, BertError> {
        let tokenizer = Tokens::read(tokenizer, form.tokens_max)?;
        let mut all = Weights(candle_core::safetensors::load_buffer(weights, &Device::Cpu)?);
        let Form { dimension, layers, tokens_max, .. } = form;
        let words = all.take_any("embeddings.word_embeddings.weight")?;
        if words.dims2().ok().is_none_or(|(_, wide)| wide != dimension) {
            return Err(BertError::Weights {
                name: "embeddings.word_embeddings.weight".to_owned(),
                want: vec![dimension],
            });
        }
        if tokenizer.ids() > words.dim(0)? {
            return Err(BertError::Vocabulary);
        }
        let places = all.take_any("embeddings.position_embeddings.weight")?;
        if places.dims2().ok().is_none_or(|(rows, wide)| rows < tokens_max || wide != dimension) {
            let name = "embeddings.position_embeddings.weight".to_owned();
            return Err(BertError::Weights { name, want: vec![tokens_max, dimension] });
        }
        let types = all.take("embeddings.token_type_embeddings.weight", &[2, dimension])?;
        let places = places.narrow(0, 0, tokens_max)?.broadcast_add(&types.narrow(0, 0, 1)?)?;
        let norm = all.norm("embeddings.LayerNorm", dimension)?;
        let layers = (0..layers).map(|number| Layer::load(&mut all, number, dimension)).collect::<Result<_, _>>()?;
        Ok(Self { tokenizer, form, words, places, norm, layers })
    }

    /// Numbers of a vector.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.form.dimension
    }

    /// The vectors of texts, in their order.
    ///
    /// # Errors
    /// The computation.
    pub fn embed(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>, BertError> {
        let encoded: Vec<Vec<u32>> =
            texts.iter().map(|text| self.tokenizer.encode(text.as_ref())).collect::<Result<_, _>>()?;
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|ids| {
                tokens += ids.len();
                tokens <= TOKENS_AT_ONCE
            });
            let count = fits.count().max(1);
            let (now, later) = rest.split_at(count);
            vectors.extend(self.forward(now)?);
            rest = later;
        }
        Ok(vectors)
    }

    fn forward(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, BertError> {
        let cpu = &Device::Cpu;
        let lengths: Vec<u32> = texts.iter().map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX)).collect();
        let ids: Vec<u32> = texts.iter().flatten().copied().collect();
        let at: Vec<u32> = lengths.iter().flat_map(|length| 0..*length).collect();
        let lengths_of = Tensor::new(lengths.as_slice(), cpu)?;
        let longest = texts.iter().map(Vec::len).max().unwrap_or_default();
        let words = self.words.index_select(&Tensor::new(ids.as_slice(), cpu)?, 0)?;
        let places = self.places.index_select(&Tensor::new(at.as_slice(), cpu)?, 0)?;
        let mut x = self.norm.normalize(&(words + places)?)?;
        for layer in &self.layers {
            x = layer.forward(&x, &lengths_of, longest, self.form)?;
        }
        let rows = x.to_vec2::<f32>()?;
        let mut rows = rows.iter();
        let mut vectors = Vec::with_capacity(texts.len());
        for ids in texts {
            let mut sum = vec![0_f32; self.form.dimension];
            for row in rows.by_ref().take(ids.len()) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
            for x in &mut sum {
                *x /= length;
            }
            vectors.push(sum);
        }
        Ok(vectors)
    }
}

impl Layer {
    fn load(all: &mut Weights, number: usize, dimension: usize) -> Result<Self, BertError> {
        let name = |part: &str| format!("encoder.layer.{number}.{part}");
        let wide = 4 * dimension;
        let parts: Vec<Affine> = ["query", "key", "value"]
            .into_iter()
            .map(|part| all.affine(&name(&format!("attention.self.{part}")), dimension, dimension))
            .collect::<Result<_, _>>()?;
        let weights: Vec<&Tensor> = parts.iter().map(|part| &part.weight).collect();
        let biases: Vec<&Tensor> = parts.iter().map(|part| &part.bias).collect();
        Ok(Self {
            asked: Affine { weight: Tensor::cat(&weights, 1)?, bias: Tensor::cat(&biases, 0)? },
            out: all.affine(&name("attention.output.dense"), dimension, dimension)?,
            out_norm: all.norm(&name("attention.output.LayerNorm"), dimension)?,
            up: all.affine(&name("intermediate.dense"), dimension, wide)?,
            down: all.affine(&name("output.dense"), wide, dimension)?,
            norm: all.norm(&name("output.LayerNorm"), dimension)?,
        })
    }

    fn forward(&self, x: &Tensor, lengths: &Tensor, longest: usize, form: Form) -> Result<Tensor, BertError> {
        let Form { dimension, heads, .. } = form;
        let (tokens, of_head) = (x.dim(0)?, dimension / heads);
        let asked = self.asked.apply(x)?;
        let part = |number: usize| asked.narrow(1, number * dimension, dimension)?.reshape((tokens, heads, of_head));
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let scale = 1.0 / (f32::from(u16::try_from(of_head).unwrap_or(u16::MAX))).sqrt();
        let seen = flash_attn_varlen_cpu(
            &queries, &keys, &values, None, lengths, lengths, longest, longest, scale, false, None, None,
        )?;
        let seen = self.out.apply(&seen.reshape((tokens, dimension))?)?;
        let x = self.out_norm.normalize(&(seen + x)?)?;
        let wide = self.up.apply(&x)?.apply_op1_no_bwd(&Gelu)?;
        Ok(self.norm.normalize(&(self.down.apply(&wide)? + &x)?)?)
    }
}

impl Affine {
    fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }

    fn normalize(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, EPSILON)
    }
}

/// Tensors by name.
struct Weights(HashMap<String, Tensor>);

impl Weights {
    fn take_any(&mut self, name: &str) -> Result<Tensor, BertError> {
        self.0.remove(name).ok_or_else(|| BertError::Weights { name: name.to_owned(), want: Vec::new() })
    }

    fn take(&mut self, name: &str, want: &[usize]) -> Result<Tensor, BertError> {
        let tensor = self.take_any(name)?;
        if tensor.dims() == want && tensor.dtype() == candle_core::DType::F32 {
            Ok(tensor)
        } else {
            Err(BertError::Weights { name: name.to_owned(), want: want.to_vec() })
        }
    }

    fn affine(&mut self, name: &str, from: usize, to: usize) -> Result<Affine, BertError> {
        let weight = self.take(&format!("{name}.weight"), &[to, from])?.t()?.contiguous()?;
        Ok(Affine { weight, bias: self.take(&format!("{name}.bias"), &[to])? })
    }

    fn norm(&mut self, name: &str, dimension: usize) -> Result<Affine, BertError> {
        let weight = self.take(&format!("{name}.weight"), &[dimension])?;
        Ok(Affine { weight, bias: self.take(&format!("{name}.bias"), &[dimension])? })
    }
}
