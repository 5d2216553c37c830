//! Vectors: 8 bits a number where they are kept, one bit a number where they are searched.
//!
//! Their scale differs between models, so nothing here knows a cosine that means "similar".

use serde::{Deserialize, Serialize};

use crate::ids::ModelId;

/// Longest vector.
pub const DIMENSION_MAX: usize = 4_096;

/// A vector of length 1 in 8 bits a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vec8 {
    scale: f32,
    #[serde(with = "serde_bytes")]
    rows: Vec<u8>,
}

/// Why a model's output is no vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    /// Another number of numbers than its model has.
    #[error("a vector has {got} numbers where its model has {want}")]
    Dimension {
        /// All that came.
        got: usize,
        /// State of the model.
        want: usize,
    },
    /// Not finite, or not of length 1 within a hundredth.
    #[error("a vector is not finite or not of length 1")]
    Length,
    /// Of another model than the index holds.
    #[error("a vector is of another model than those of the index")]
    Model,
}

/// Checks a model's output: its dimension, that it is finite, and that its length is 1 ± 0.01.
///
/// # Errors
/// The first that does not hold.
pub fn check(vector: &[f32], dimension: usize) -> Result<(), VectorError> {
    if vector.len() != dimension || dimension > DIMENSION_MAX {
        return Err(VectorError::Dimension { got: vector.len(), want: dimension.min(DIMENSION_MAX) });
    }
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length.is_finite() && (length - 1.0).abs() <= 0.01 { Ok(()) } else { Err(VectorError::Length) }
}

impl Vec8 {
    /// Quantises a vector that [`check`] accepts.
    #[must_use]
    pub fn of(vector: &[f32]) -> Self {
        let largest = vector.iter().fold(0_f32, |most, x| most.max(x.abs())).max(f32::MIN_POSITIVE);
        let scale = largest / 127.0;
        Self { scale, rows: vector.iter().map(|x| ((x / scale).round() as i8).cast_unsigned()).collect() }
    }

    /// Number of numbers.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.rows.len()
    }

    /// Dot product with an exact vector: the cosine, as both have length 1.
    #[must_use]
    pub fn dot(&self, exact: &[f32]) -> f32 {
        let sum: f32 = self.rows.iter().zip(exact).map(|(a, b)| f32::from(a.cast_signed()) * b).sum();
        sum * self.scale
    }

    /// The signs of its numbers, eight a byte.
    fn signs(&self) -> impl Iterator<Item = u8> {
        self.rows
            .chunks(8)
            .map(|eight| eight.iter().enumerate().fold(0, |byte, (n, x)| byte | (u8::from(x.cast_signed() >= 0) << n)))
    }
}

/// The signs of all vectors of one model, by ordinal.
#[derive(Debug, Clone)]
pub(crate) struct Signs {
    pub(crate) model: ModelId,
    pub(crate) dimension: usize,
    bytes: Vec<u8>,
    held: Vec<bool>,
}

impl Signs {
    pub(crate) fn new(model: ModelId, dimension: usize) -> Self {
        Self { model, dimension, bytes: Vec::new(), held: Vec::new() }
    }

    fn width(&self) -> usize {
        self.dimension.div_ceil(8)
    }

    pub(crate) fn put(&mut self, ordinal: u32, vector: &Vec8) {
        let (at, width) = (ordinal as usize, self.width());
        if self.held.len() <= at {
            self.held.resize(at + 1, false);
            self.bytes.resize((at + 1) * width, 0);
        }
        if let Some(held) = self.held.get_mut(at) {
            *held = true;
        }
        for (to, sign) in self.bytes.iter_mut().skip(at * width).zip(vector.signs()) {
            *to = sign;
        }
    }

    /// Takes a vector out: its bits as well.
    pub(crate) fn remove(&mut self, ordinal: u32) {
        let (at, width) = (ordinal as usize, self.width());
        if let Some(held) = self.held.get_mut(at) {
            *held = false;
            self.bytes.iter_mut().skip(at * width).take(width).for_each(|byte| *byte = 0);
        }
    }

    pub(crate) fn has(&self, ordinal: u32) -> bool {
        self.held.get(ordinal as usize).copied().unwrap_or(false)
    }

    fn row(&self, ordinal: u32) -> Option<&[u8]> {
        let at = ordinal as usize * self.width();
        self.bytes.get(at..at + self.width()).filter(|_| self.has(ordinal))
    }

    /// Cosine of the signs of two vectors; 0 where one is lacking.
    pub(crate) fn between(&self, a: u32, b: u32) -> f64 {
        let (Some(a), Some(b)) = (self.row(a), self.row(b)) else { return 0.0 };
        let differ: u32 = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
        1.0 - 2.0 * f64::from(differ) / self.dimension as f64
    }

    /// Cosine of an exact vector with the signs of each of the ordinals below `count`; `None` where none is held.
    pub(crate) fn scan(&self, exact: &[f32], count: usize) -> Vec<Option<f64>> {
        // What each byte of signs adds, for each of its 256 values.
        let tables: Vec<[f32; 256]> = exact
            .chunks(8)
            .map(|eight| {
                let mut table = [0_f32; 256];
                for (bits, sum) in table.iter_mut().enumerate() {
                    *sum = eight.iter().enumerate().map(|(n, x)| if bits >> n & 1 == 1 { *x } else { -x }).sum();
                }
                table
            })
            .collect();
        let length = (self.dimension as f64).sqrt();
        (0..count as u32)
            .map(|ordinal| {
                let row = self.row(ordinal)?;
                let sum: f32 = row
                    .iter()
                    .zip(&tables)
                    .map(|(byte, table)| table.get(usize::from(*byte)).copied().unwrap_or_default())
                    .sum();
                Some(f64::from(sum) / length)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unit(raw: &[f32]) -> Vec<f32> {
        let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        raw.iter().map(|x| x / length).collect()
    }

    proptest! {
        #[test]
        fn eight_bits_keep_the_cosine(a in proptest::collection::vec(0.01f32..1.0, 40), b in proptest::collection::vec(-1.0f32..1.0, 40)) {
            let (a, b) = (unit(&a), unit(&b));
            let exact: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
            prop_assert!((Vec8::of(&a).dot(&b) - exact).abs() < 0.02);
        }

        #[test]
        fn a_scan_is_the_sum_over_signs(a in proptest::collection::vec(-1.0f32..1.0, 21), b in proptest::collection::vec(-1.0f32..1.0, 21)) {
            let mut signs = Signs::new(ModelId([0; 16]), 21);
            signs.put(3, &Vec8::of(&a));
            let a8 = Vec8::of(&a);
            let expected: f32 = a8.rows.iter().zip(&b).map(|(s, x)| if s.cast_signed() >= 0 { *x } else { -x }).sum();
            let got = signs.scan(&b, 5);
            prop_assert!((got[3].unwrap() - f64::from(expected) / 21f64.sqrt()).abs() < 1e-5);
            prop_assert_eq!(&got[..3], &[None, None, None]);
            prop_assert!((signs.between(3, 3) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn any_output_of_a_model_is_checked(v in proptest::collection::vec(any::<f32>(), 0..20)) {
            let _ = check(&v, 8);
        }
    }

    #[test]
    fn what_is_no_vector_is_refused() {
        assert_eq!(check(&[1.0, 0.0], 3), Err(VectorError::Dimension { got: 2, want: 3 }));
        assert_eq!(check(&[f32::NAN, 0.0], 2), Err(VectorError::Length));
        assert_eq!(check(&[f32::INFINITY, 0.0], 2), Err(VectorError::Length));
        assert_eq!(check(&[0.5, 0.0], 2), Err(VectorError::Length));
        assert_eq!(check(&[1.0, 0.0], 2), Ok(()));
    }
}
