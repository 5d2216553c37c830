//! Models for memory: which there are, what they need, and the child process that runs them.
//!
//! A model never runs in the agent: unloading it gives the memory back, a deadline is a kill, and an abort takes nothing with
//! it. The child ([`host::serve`]) speaks over its pipes in frames that both sides limit and check ([`wire`]). Weights are
//! read, hashed and loaded from memory ([`weights`]); nothing is mapped, and nothing is loaded whose hash is not the one that
//! was asked for.
//!
//! All that computes is behind the feature `candle`. Without it [`BUILT_IN`] is false, and the host says so.

#[cfg(feature = "candle")]
mod bert;
pub mod catalogue;
#[cfg(feature = "candle")]
mod gelu;
pub mod host;
#[cfg(feature = "candle")]
mod llama;
#[cfg(feature = "scripted")]
pub mod scripted;
#[cfg(feature = "candle")]
mod tokenizer;
pub mod weights;
pub mod wire;

#[cfg(feature = "candle")]
pub use bert::{Bert, BertError};
#[cfg(feature = "candle")]
pub use llama::{Llama, LlamaError};
#[cfg(feature = "candle")]
pub use tokenizer::{TokenizerError, Tokens};

/// True if this build can run models.
pub const BUILT_IN: bool = cfg!(feature = "candle");

/// True if it is worth starting the child: it can run models, or those of tests.
pub const CAN_RUN: bool = cfg!(any(feature = "candle", feature = "scripted"));
