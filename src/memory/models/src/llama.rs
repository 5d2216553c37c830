//! A Llama network that writes, from one GGUF file: its weights, its form and its tokenizer are in it.
//!
//! Always the likeliest token is taken: the same prompt gives the same text. What stands in a prompt is text, whatever it looks
//! like; the marks between the parts of a talk are put in by their ids.

#![expect(clippy::cast_precision_loss, reason = "positions and widths are far below 2^24")]

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module as _, Tensor};
use candle_nn::attention::cpu_flash::varlen::flash_attn_varlen_cpu;
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::rope_i;

use crate::catalogue::Speech;
use crate::tokenizer::{TokenizerError, Tokens};
use crate::wire::Prompt;

/// Begins and ends a part of a talk.
const BEGINS: &str = "<|im_start|>";
const ENDS: &str = "<|im_end|>";
/// A model that has said so many tokens twice goes on like that for ever.
const LOOP_TOKENS: usize = 12;
/// Most layers, heads, and numbers of one token: far above any model that fits on a device.
const FORM_MAX: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub struct Llama {
    tokenizer: Tokens,
    begins: u32,
    ends: u32,
    form: Form,
    words: Arc<QTensor>,
    layers: Vec<Layer>,
    norm: Tensor,
    out: QMatMul,
    cos: Tensor,
    sin: Tensor,
}

/// Why a model cannot be loaded, or writes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The file lacks something, or it is of another kind.
    #[error("the file has no usable `{0}`")]
    Lacks(String),
    /// A tensor is of another form.
    #[error("`{name}` is {got:?}, and {want:?} is needed")]
    Shape {
        /// Its name.
        name: String,
        /// Its form.
        got: Vec<usize>,
        /// The form that fits the others.
        want: Vec<usize>,
    },
    /// The prompt has more tokens than are read at once.
    #[error("the prompt has {0} tokens, which is too many")]
    Long(usize),
    /// What it computed is no number.
    #[error("the model computes what is no number")]
    NotFinite,
    /// The computation.
    #[error("the model cannot be computed")]
    Tensor(#[from] candle_core::Error),
}

#[derive(Debug, Clone, Copy)]
struct Form {
    dimension: usize,
    heads: usize,
    /// Heads of keys and values: several of the others share one.
    shared: usize,
    of_head: usize,
    epsilon: f32,
    tokens_max: usize,
}

#[derive(Debug)]
struct Layer {
    norm: Tensor,
    queries: QMatMul,
    keys: QMatMul,
    values: QMatMul,
    out: QMatMul,
    wide_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
}

/// Keys and values of all tokens so far, of one layer.
struct Seen {
    keys: Tensor,
    values: Tensor,
}

impl Llama {
    /// Loads a model from the bytes of its file.
    ///
    /// # Errors
    /// It is none of this kind.
    pub fn load(gguf: &[u8], speech: Speech) -> Result<Self, LlamaError> {
        let mut file = File { content: Content::read(&mut Cursor::new(gguf))?, bytes: gguf };
        if file.text("general.architecture")? != "llama" || file.text("tokenizer.ggml.model")? != "gpt2" {
            return Err(LlamaError::Lacks("general.architecture".to_owned()));
        }
        let number = |key: &str| file.number(key).filter(|it| (1..=FORM_MAX).contains(it));
        let need = |key: &str| number(key).ok_or_else(|| LlamaError::Lacks(key.to_owned()));
        let (dimension, heads) = (need("llama.embedding_length")?, need("llama.attention.head_count")?);
        let (shared, layers) = (need("llama.attention.head_count_kv")?, need("llama.block_count")?);
        let wide = need("llama.feed_forward_length")?;
        let of_head = dimension / heads;
        if of_head * heads != dimension || heads % shared != 0 || of_head % 2 != 0 {
            return Err(LlamaError::Lacks("llama.attention.head_count".to_owned()));
        }
        let epsilon = file.real("llama.attention.layer_norm_rms_epsilon")?;
        let base = file.real("llama.rope.freq_base").unwrap_or(10_000.0);
        let tokens_max = speech.tokens_max.min(need("llama.context_length")?);
        let form = Form { dimension, heads, shared, of_head, epsilon, tokens_max };

        let tokenizer = Tokens::of_pairs(file.text("tokenizer.ggml.pre")?, file.texts("tokenizer.ggml.tokens")?, {
            let merges = file.texts("tokenizer.ggml.merges")?;
            let pair = |merge: &String| merge.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
            merges.iter().map(pair).collect::<Option<_>>().ok_or_else(|| LlamaError::Lacks("merges".to_owned()))?
        })?;
        let mark = |piece: &str| tokenizer.id(piece).ok_or_else(|| LlamaError::Lacks(piece.to_owned()));
        let (begins, ends) = (mark(BEGINS)?, mark(ENDS)?);
        let ids = tokenizer.ids();
        let words = Arc::new(file.tensor("token_embd.weight", &[ids, dimension])?);
        let norm = file.plain("output_norm.weight", dimension)?;
        // Where there is none, words are recognised by the same matrix that reads them.
        let out = if file.has("output.weight") {
            file.matrix("output.weight", &[ids, dimension])?
        } else {
            QMatMul::from_arc(words.clone())?
        };
        let layers =
            (0..layers).map(|number| Layer::load(&mut file, number, form, wide)).collect::<Result<Vec<_>, _>>()?;
        let (cos, sin) = turns(of_head, tokens_max, base)?;
        Ok(Self { tokenizer, begins, ends, form, words, layers, norm, out, cos, sin })
    }

    /// The ids of a text, without marks.
    ///
    /// # Errors
    /// [`LlamaError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, LlamaError> {
        Ok(self.tokenizer.encode(text)?)
    }

    /// What the model writes to a prompt.
    ///
    /// # Errors
    /// The prompt is too long; the computation.
    pub fn write(&self, prompt: &Prompt) -> Result<String, LlamaError> {
        let ids = self.prompt(prompt)?;
        let room = self.form.tokens_max.saturating_sub(ids.len()).min(usize::from(prompt.tokens_max));
        if room == 0 {
            return Err(LlamaError::Long(ids.len()));
        }
        let mut seen = self.seen(ids.len() + room)?;
        let mut next = self.likeliest(&ids, 0, &mut seen)?;
        let (mut written, mut at) = (Vec::new(), ids.len());
        while next != self.ends && written.len() < room && !loops(&written) {
            written.push(next);
            if written.len() == room {
                break;
            }
            next = self.likeliest(&[next], at, &mut seen)?;
            at += 1;
        }
        Ok(self.tokenizer.decode(&written)?)
    }

    fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, LlamaError> {
        let mut ids = Vec::new();
        for (who, text) in [("system", &prompt.system), ("user", &prompt.user)] {
            ids.push(self.begins);
            ids.extend(self.encode(&format!("{who}\n{text}"))?);
            ids.push(self.ends);
            ids.extend(self.encode("\n")?);
        }
        ids.push(self.begins);
        ids.extend(self.encode("assistant\n")?);
        Ok(ids)
    }

    fn seen(&self, tokens: usize) -> Result<Vec<Seen>, LlamaError> {
        let Form { shared, of_head, .. } = self.form;
        let room = || Tensor::zeros((tokens, shared, of_head), candle_core::DType::F32, &Device::Cpu);
        self.layers.iter().map(|_| Ok(Seen { keys: room()?, values: room()? })).collect()
    }

    /// Reads tokens, the first of which is the `at`th, and gives the one that most likely follows.
    fn likeliest(&self, ids: &[u32], at: usize, seen: &mut [Seen]) -> Result<u32, LlamaError> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let tokens = ids.dim(0)?;
        let mut x = self.words.embedding(&ids)?;
        let (cos, sin) = (self.cos.narrow(0, at, tokens)?, self.sin.narrow(0, at, tokens)?);
        for (layer, seen) in self.layers.iter().zip(seen) {
            x = layer.forward(&x, at, (&cos, &sin), seen, self.form)?;
        }
        let last = rms_norm(&x.narrow(0, tokens - 1, 1)?, &self.norm, self.form.epsilon)?;
        let scores = self.out.forward(&last)?.squeeze(0)?.to_vec1::<f32>()?;
        if !scores.iter().all(|score| score.is_finite()) {
            return Err(LlamaError::NotFinite);
        }
        let best = (0..).zip(&scores).max_by(|(_, a), (_, b)| a.total_cmp(b));
        Ok(best.map_or(self.ends, |(id, _)| id))
    }
}

impl Layer {
    fn load(file: &mut File<'_>, number: usize, form: Form, wide: usize) -> Result<Self, LlamaError> {
        let Form { dimension, heads, shared, of_head, .. } = form;
        let name = |part: &str| format!("blk.{number}.{part}.weight");
        Ok(Self {
            norm: file.plain(&name("attn_norm"), dimension)?,
            queries: file.matrix(&name("attn_q"), &[heads * of_head, dimension])?,
            keys: file.matrix(&name("attn_k"), &[shared * of_head, dimension])?,
            values: file.matrix(&name("attn_v"), &[shared * of_head, dimension])?,
            out: file.matrix(&name("attn_output"), &[dimension, heads * of_head])?,
            wide_norm: file.plain(&name("ffn_norm"), dimension)?,
            gate: file.matrix(&name("ffn_gate"), &[wide, dimension])?,
            up: file.matrix(&name("ffn_up"), &[wide, dimension])?,
            down: file.matrix(&name("ffn_down"), &[dimension, wide])?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        at: usize,
        (cos, sin): (&Tensor, &Tensor),
        seen: &mut Seen,
        form: Form,
    ) -> Result<Tensor, LlamaError> {
        let Form { heads, shared, of_head, epsilon, dimension, .. } = form;
        let tokens = x.dim(0)?;
        let normal = rms_norm(x, &self.norm, epsilon)?;
        let turned = |matrix: &QMatMul, heads: usize| -> Result<Tensor, LlamaError> {
            let all = matrix.forward(&normal)?.reshape((1, tokens, heads, of_head))?.transpose(1, 2)?.contiguous()?;
            Ok(rope_i(&all, cos, sin)?.transpose(1, 2)?.squeeze(0)?.contiguous()?)
        };
        let queries = turned(&self.queries, heads)?;
        seen.keys.slice_set(&turned(&self.keys, shared)?, 0, at)?;
        let values = self.values.forward(&normal)?.reshape((tokens, shared, of_head))?.contiguous()?;
        seen.values.slice_set(&values, 0, at)?;
        let all = at + tokens;
        let (keys, values) = (seen.keys.narrow(0, 0, all)?, seen.values.narrow(0, 0, all)?);
        let length = |tokens: usize| Tensor::new(&[u32::try_from(tokens).unwrap_or(u32::MAX)], &Device::Cpu);
        let scale = 1.0 / (f32::from(u16::try_from(of_head).unwrap_or(u16::MAX))).sqrt();
        let looked = flash_attn_varlen_cpu(
            &queries,
            &keys,
            &values,
            None,
            &length(tokens)?,
            &length(all)?,
            tokens,
            all,
            scale,
            true,
            None,
            None,
        )?;
        let x = (x + self.out.forward(&looked.reshape((tokens, dimension))?)?)?;
        let normal = rms_norm(&x, &self.wide_norm, epsilon)?;
        let wide = (silu(&self.gate.forward(&normal)?)? * self.up.forward(&normal)?)?;
        Ok((&x + self.down.forward(&wide)?)?)
    }
}

/// True if the end repeats what was just said.
fn loops(written: &[u32]) -> bool {
    let Some(before) = written.len().checked_sub(2 * LOOP_TOKENS) else { return false };
    let (one, two) = written.get(before..).unwrap_or_default().split_at(LOOP_TOKENS);
    one == two
}

/// Turns of the positions: cosines and sines.
fn turns(of_head: usize, tokens: usize, base: f32) -> Result<(Tensor, Tensor), LlamaError> {
    let half = of_head / 2;
    let speed = |at: usize| base.powf(-2.0 * at as f32 / of_head as f32);
    let angles: Vec<f32> = (0..tokens).flat_map(|token| (0..half).map(move |at| token as f32 * speed(at))).collect();
    let angles = Tensor::from_vec(angles, (tokens, half), &Device::Cpu)?;
    Ok((angles.cos()?, angles.sin()?))
}

/// A file of this kind, with its bytes.
struct File<'a> {
    content: Content,
    bytes: &'a [u8],
}

impl File<'_> {
    fn value(&self, key: &str) -> Result<&Value, LlamaError> {
        let metadata: &HashMap<String, Value> = &self.content.metadata;
        metadata.get(key).ok_or_else(|| LlamaError::Lacks(key.to_owned()))
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.value(key).ok()?.to_u32().ok().and_then(|number| usize::try_from(number).ok())
    }

    fn real(&self, key: &str) -> Result<f32, LlamaError> {
        let real = self.value(key)?.to_f32()?;
        if real.is_finite() && real > 0.0 { Ok(real) } else { Err(LlamaError::Lacks(key.to_owned())) }
    }

    fn text(&self, key: &str) -> Result<&str, LlamaError> {
        Ok(self.value(key)?.to_string()?)
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, LlamaError> {
        let all = self.value(key)?.to_vec()?.iter().map(|text| text.to_string().cloned());
        Ok(all.collect::<Result<_, _>>()?)
    }

    fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn tensor(&mut self, name: &str, want: &[usize]) -> Result<QTensor, LlamaError> {
        let tensor = self.content.tensor(&mut Cursor::new(self.bytes), name, &Device::Cpu)?;
        let got = tensor.shape().dims();
        if got != want {
            return Err(LlamaError::Shape { name: name.to_owned(), got: got.to_vec(), want: want.to_vec() });
        }
        Ok(tensor)
    }

    /// A matrix that is multiplied with. Of some forms of few bits there is no fast product: they get one more bit each.
    fn matrix(&mut self, name: &str, want: &[usize]) -> Result<QMatMul, LlamaError> {
        let tensor = self.tensor(name, want)?;
        let slow = matches!(tensor.dtype(), GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1);
        let tensor = if slow { QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q8_0)? } else { tensor };
        Ok(QMatMul::from_qtensor(tensor)?)
    }

    /// A row of plain numbers.
    fn plain(&mut self, name: &str, want: usize) -> Result<Tensor, LlamaError> {
        Ok(self.tensor(name, &[want])?.dequantize(&Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_round_in_circles_is_ended() {
        let round: Vec<u32> = (0..24).map(|n| n % 4).collect();
        assert!(loops(&round) && !loops(&round[1..]));
        assert!(!loops(&(0..24).collect::<Vec<_>>()) && !loops(&[]));
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        let speech = Speech { tokens_max: 64 };
        for bytes in
            [&b""[..], b"GGUF", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert!(Llama::load(bytes, speech).is_err());
        }
        // Nothing in it.
        let empty = [&b"GGUF\x03\0\0\0"[..], &[0; 16]].concat();
        assert!(matches!(Llama::load(&empty, speech), Err(LlamaError::Lacks(key)) if key == "general.architecture"));
    }
}
