//! Correction: a message says something else from now on.

use memory_core::ids::MessageKey;
use memory_core::item::{Body, Correction, InvalidMessage};
use memory_core::limits::TEXT_BYTES_MAX;

use super::error::MemoryError;
use super::workspace::Workspace;

impl Workspace {
    /// Gives a message another text, durably. Its summary line and facts go with the old one. `false`: it says that already.
    ///
    /// # Errors
    /// There is no such message; the text breaks a limit; the disk.
    pub fn correct(&mut self, key: &MessageKey, text: String) -> Result<bool, MemoryError> {
        let message = self.held.message(key, &self.store)?;
        let (Some(current), Some(message)) = (self.held.view.messages.get(key), message) else {
            return Err(MemoryError::UnknownItem(key.to_string()));
        };
        if text.trim().is_empty() {
            return Err(InvalidMessage::Empty { id: key.to_string() }.into());
        }
        if text.len() > TEXT_BYTES_MAX {
            let (id, bytes) = (key.to_string(), text.len());
            return Err(InvalidMessage::TooLong { id, what: "the text", bytes, max: TEXT_BYTES_MAX }.into());
        }
        if message.text == text {
            return Ok(false);
        }
        let generation = current.corrected.map_or(0, |it| it.generation).saturating_add(1);
        self.say(&[Body::Correction(Correction { target: *key, generation, text })], Vec::new())?;
        Ok(true)
    }
}
