//! Weights of the signals. Set by hand; a table learned elsewhere would have the same form.

/// Weight of each signal. See `signals.rs` for what they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Words of the piece itself.
    pub own: f64,
    /// Words of the piece and its neighbours.
    pub window: f64,
    /// Words up to three pieces away.
    pub wide: f64,
    /// Meaning of the piece itself.
    pub vector: f64,
    /// Meaning of the piece and its neighbours.
    pub vector_window: f64,
    /// The better neighbour, words and meaning.
    pub neighbour: f64,
    /// The best of its sitting.
    pub sitting: f64,
    /// Share of the question's words that stand in the piece or beside it.
    pub coverage: f64,
    /// Words of the piece before, if that asks: this one answers.
    pub answers: f64,
    /// Its time fits the date that the question names.
    pub date: f64,
    /// It says when, and the question asks when.
    pub when: f64,
    /// Said by the only speaker whom the question names.
    pub who: f64,
    /// It asks itself.
    pub asks: f64,
}

/// With vectors.
pub const HAND: Weights = Weights {
    own: 0.4,
    window: 0.4,
    wide: 0.2,
    vector: 0.4,
    vector_window: 0.4,
    neighbour: 0.1,
    sitting: 0.1,
    coverage: 2.0,
    answers: 0.4,
    date: 1.5,
    when: 0.5,
    who: 0.5,
    asks: -0.5,
};

/// Without: no model, or no vector for the question in time.
pub const HAND_WORDS: Weights = Weights { own: 0.6, window: 0.6, wide: 0.3, vector: 0.0, vector_window: 0.0, ..HAND };
