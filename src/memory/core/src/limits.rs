//! Limits of what a caller or a peer may hand to memory. Whoever exceeds one gets an error and nothing is stored.

/// Text of one message, bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// A caller's id, a conversation, a session: bytes each.
pub const NAME_BYTES_MAX: usize = 256;
/// Name of a speaker, bytes.
pub const SPEAKER_BYTES_MAX: usize = 128;
/// Items of one group: of one import, of what came within 50 ms, or of one compaction.
pub const GROUP_ITEMS_MAX: usize = 256;
/// Items of a group that has a tombstone. Each may travel alone with the header of its group, which has a hash of every item,
/// and is kept so: a group of more would take many times of what it costs to send.
pub const TOMBSTONE_GROUP_ITEMS_MAX: usize = 32;
/// Chains of which one session asks for more: 64 incarnations of 256 authors.
pub const CHAINS_MAX: usize = 16_384;
/// Bodies of one group together, bytes.
pub const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Body of one item with its salt, bytes: a message at its limits, and room for its frame.
pub const ITEM_BYTES_MAX: usize = 80 * 1024;
/// Facts that one extractor may say of one message.
pub const FACTS_PER_MESSAGE_MAX: usize = 8;
/// Messages of one batch. An explicit compaction of more takes several.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// A model's sentence may be this many times as long as the message that it rewrites.
pub const REWRITE_TIMES_MAX: usize = 2;
/// Text of a summary's head, bytes: at most three sentences.
pub const HEAD_BYTES_MAX: usize = 1024;
/// Most by which another device's hybrid clock may push ours ahead of our own time, milliseconds.
pub const CLOCK_AHEAD_MS_MAX: u64 = 60_000;
/// Standing instructions that travel with every answer.
pub const STANDING_MAX: usize = 10;
/// Tokens (characters / 4) of them together.
pub const STANDING_TOKENS_MAX: usize = 400;
/// Tombstones in one frame: 64 KiB.
pub const TOMBSTONES_PER_FRAME: usize = 256;
/// Groups that one answer of [`crate::replica`] carries, bytes of bodies; at least one group.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Items that one question of [`crate::replica`] names: 20 KiB.
pub const LACKING_MAX: usize = 1_024;
/// Bytes of all groups of a workspace, as they travel, that are kept on one device; shared along the approvals of their
/// authors. As much as the log of one owner: some ten million messages.
pub const ROOM_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Shares of those whom others let in come in so many bytes: a group at its limits.
pub const ROOM_GRAIN_BYTES: u64 = 2 * 1024 * 1024;
