//! lan.
