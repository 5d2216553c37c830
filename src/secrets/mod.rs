//! Secrets of this device: files that only its agent's user may read, named where they are used, and read only when a
//! process is started. No argument, card, answer, error, log or backup has one.

mod redact;
mod store;

pub use redact::{RedactStream, Redactor};
pub use store::{Listed, Resolved, SECRET_BYTES_MAX, SecretError, Secrets};
