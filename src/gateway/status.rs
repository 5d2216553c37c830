//! Errors as the world sees them, once.
