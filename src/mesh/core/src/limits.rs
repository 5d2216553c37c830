//! Every limit of the protocol, with its unit. What a peer sends beyond one is refused with a typed error.

/// Largest encoded entry: an inline payload plus a generous header.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Largest encoded call, outcome or cancel request: an inline payload, two texts and names.
pub const CALL_ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Largest payload that travels inside an entry; larger ones are blobs named by hash.
pub const INLINE_BYTES_MAX: usize = 32 * 1024;
/// Entries of one sync frame stop at this many bytes (`docs/protocol.md`, Log).
pub const SYNC_BYTES_MAX: usize = 256 * 1024;
/// Largest arguments of a call.
pub const ARGUMENTS_BYTES_MAX: usize = 1024 * 1024;
/// Largest result of a call.
pub const RESULT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Parts of a result.
pub const PARTS_MAX: usize = 16;
/// Longest type of a part: twice what RFC 6838 lets a name have.
pub const MEDIA_TYPE_BYTES_MAX: usize = 128;
/// Longest name of a part: that of a file (`NAME_MAX`).
pub const PART_NAME_BYTES_MAX: usize = 255;
/// Largest card of a tool: a blob that tells all of it, its schemas too.
pub const CARD_BYTES_MAX: u64 = 96 * 1024;
/// Cards of one node, together.
pub const CARDS_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Longest time to live of a call: 7 days.
pub const TTL_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// Open calls of one (origin, target).
pub const OPEN_PER_TARGET_MAX: usize = 1000;
/// Bytes of arguments of the open calls of one (origin, target).
pub const OPEN_BYTES_PER_TARGET_MAX: u64 = 64 * 1024 * 1024;
/// Open calls that a gateway holds for others, of those who are no owners at most half as many; beyond, headers stay with
/// their origins.
pub const QUEUE_MAX: usize = 20_000;
/// Calls of one origin of which a target awaits the arguments.
pub const ARGUMENTS_LACKING_MAX: usize = 32;
/// Headers beyond that of which a peer remembers where they stand in its log.
pub const DEFERRED_MAX: usize = 10_000;
/// Calls of one origin that ended without their target's own outcome and stay in a book; the oldest leave it first.
pub const ENDED_MAX: usize = 4_000;
/// The same of an origin that does not belong any more: what it had filled is free when it is gone.
pub const ENDED_OF_EXCLUDED_MAX: usize = 128;
/// Bytes of outputs and texts of such calls.
pub const ENDED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Calls of an origin that was removed, of those that are over, that stay on disk; the newest, as their ids sort.
pub const CLOSED_OF_EXCLUDED_MAX: u64 = 1_000;
/// Bytes of their rows.
pub const CLOSED_BYTES_OF_EXCLUDED_MAX: u64 = 4 * 1024 * 1024;
/// A call that says it was accepted so far in our future, in milliseconds, is listed by the time at which it came.
pub const FUTURE_MS_MAX: u64 = 3_600_000;
/// A claim may not jump further ahead than this of what a peer knows (`docs/protocol.md`, Election). A device that was
/// restored jumps by up to 36,864, and may be restored often before it meets anyone.
pub const EPOCH_JUMP_MAX: u64 = 1 << 20;
/// Highest counter of an epoch with which a newcomer begins. What the mesh has come to it cannot know, so this is far
/// above what claims (at most one a second) and restored devices add up to, and as far below what a counter holds.
pub const EPOCH_WELCOME_MAX: u64 = 1 << 48;
/// Peers of one mesh behind one gateway with room to spare.
pub const PEERS_MAX: usize = 2_000;
/// Peers that one command revokes: so many that the step stays short (a signature each), and few fsyncs are needed.
pub const REVOKED_AT_ONCE_MAX: usize = 128;
/// Revoked peers that may still come to learn that they are; older ones get no link.
pub const REVOKED_TOLD_MAX: usize = 256;
/// Membership changes that one names as known, and that it names as standing: more than there is room for in a set, so
/// that there is always a change that knows all.
pub const CHANGES_NAMED_MAX: usize = 4_096;
/// Bytes of the membership changes that count and of what those name, each counted as 1 KiB at least: a mesh of
/// [`PEERS_MAX`], and thought again. Shared along the approvals that they rest on (`docs/protocol.md`, Keeping and
/// spreading).
pub const CHANGES_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of the membership changes that count for nothing, counted and shared likewise: a revocation voids them (which may
/// turn out to be void itself), or their author was let in, but is no owner (its promotion may still be on its way).
pub const STRAY_CHANGES_BYTES_MAX: u64 = 512 * 1024;
/// Bytes of membership changes that are taken, counted likewise, before the set is judged.
pub const CHANGES_UNJUDGED_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of directories in a welcome, the smallest first; the log brings the others.
pub const WELCOME_DIRECTORIES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest name of what decided on a call: that of a rule, or of a pattern, with its layer.
pub const RULE_BYTES_MAX: usize = 160;
/// Largest entry by which a person answers a call that asks: its envelope, with eight devices in its audience, and its
/// body, with eight rules and a note.
pub const CONSENT_BYTES_MAX: usize = 8 * 1024;
/// Largest entry of the audit: its envelope, and its body with all its rows.
pub const AUDIT_BYTES_MAX: usize = 24 * 1024;
/// Consents that travel with a dispatch: as many as a call can need.
pub const CONSENTS_OF_CALL_MAX: usize = 8;
/// Consents of one owner that are held; the ones whose time is over first make room.
pub const CONSENTS_PER_OWNER_MAX: usize = 128;
/// The same of one who is no owner.
pub const CONSENTS_PER_GUEST_MAX: usize = 16;
/// Open calls that are decided anew in one step, when something about rights changes.
pub const REDECIDED_PER_STEP_MAX: usize = 1_000;
/// Logs that one statement about rights, or a call, says it knew.
pub const MARK_MAX: usize = 64;
/// Bytes of all truncations of owners that are held ahead of their logs; as many again of others.
pub const TRUNCATIONS_AHEAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Statements of one author about rights that are held, and as many again of those that take away: deletions, bans and
/// asks, suspensions and the mode. Who is no owner any more has none after that.
pub const STATEMENTS_MAX: u64 = 4_096;
/// Their bytes, and as many again of those that take away.
pub const STATEMENTS_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of statements about rights of all authors that are held, each counted as 1 KiB at least: shared along the approvals.
pub const STATEMENTS_ROOM_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of all that holds about rights: what is told to a newcomer in a welcome.
pub const RIGHTS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Directories in a welcome: its giver sends no more, and a newcomer takes no more.
pub const WELCOME_DIRECTORIES_MAX: usize = PEERS_MAX;
/// Incarnations of one peer's database whose logs are held.
pub const INCARNATIONS_MAX: usize = 64;
/// The same of a peer that is no owner, besides those that a revocation has closed.
/// A few are for restored backups, and for what others wrote with its key before it was let in again.
pub const GUEST_INCARNATIONS_MAX: usize = 8;
/// Rows of one digest: whoever holds more logs sends several, each of the authors of one range.
pub const DIGEST_ROWS_MAX: usize = 8_000;
/// Digests of one neighbour that wait to be answered.
pub const DIGESTS_WAITING_MAX: usize = 16;
/// Tools that one node may declare.
pub const TOOLS_MAX: usize = 512;
/// Longest description of a tool in a directory: 200 characters of four bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 800;
/// Services in one directory record; there are two or three.
pub const SERVICES_MAX: usize = 64;
/// Addresses in one directory record.
pub const ADDRESSES_MAX: usize = 32;
/// Outcomes kept for headers that have not come yet.
pub const EARLY_OUTCOMES_MAX: usize = 1024;
/// Bytes of such outcomes.
pub const EARLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Entries of one peer kept although this version does not understand them.
pub const UNSUPPORTED_PER_AUTHOR_MAX: usize = 4096;
/// Bytes of such entries.
pub const UNSUPPORTED_BYTES_PER_AUTHOR_MAX: u64 = 16 * 1024 * 1024;
/// Bodies of entries by owners that a peer lacks, and knows of one by one; what is beyond is looked for in its log when
/// there is room.
pub const LACKING_MAX: usize = 4_096;
/// The same of one owner's entries.
pub const LACKING_PER_OWNER_MAX: usize = 1_024;
/// The same of all who are no owners, together.
pub const LACKING_OF_GUESTS_MAX: usize = 2_048;
/// The same of one who is no owner.
pub const LACKING_PER_GUEST_MAX: usize = 64;
/// The same of all who do not belong any more, together.
pub const LACKING_OF_EXCLUDED_MAX: usize = 256;
/// The same of one of them.
pub const LACKING_PER_EXCLUDED_MAX: usize = 32;
/// Bodies that one frame asks for.
pub const WANTED_MAX: usize = 256;
/// Bodies that are remembered as owed to one neighbour, which asked for them before they were here.
pub const OWED_MAX: usize = 4_096;
/// Runs of dropped entries in one incarnation of a log; what does not fit stays.
pub const TRUNCATED_RUNS_MAX: usize = 256;
/// Largest encoded truncation: so many runs. It stands beside the log, also at whoever has none of that log.
pub const TRUNCATION_BYTES_MAX: usize = 32 * 1024;
/// Rows of a log that are dropped in one step.
pub const SWEEP_ROWS_MAX: usize = 256;
/// Entries that an author declares dead in one step.
pub const DEAD_PER_STEP_MAX: usize = 4096;
/// Longest reason or error text, in bytes.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Longest client key, in bytes.
pub const CLIENT_KEY_BYTES_MAX: usize = 255;
/// Unused invites of one peer.
pub const INVITES_MAX: usize = 256;
/// Invites of one peer that are kept, the ones that are over included.
pub const INVITES_KEPT_MAX: usize = 1024;

/// Error bound of measured durations: 2 s + 0.05 % of the TTL (`docs/protocol.md`, Calls).
#[must_use]
pub const fn epsilon_ms(ttl_ms: u64) -> u64 {
    2_000 + ttl_ms / 2_000
}

/// Cuts a text to `max` bytes at a character's border.
#[must_use]
pub fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max.min(text.len()))).unwrap_or_default()
}

/// Longest name of a tailnet, id of one of its nodes, or tag, in bytes; a DNS name has at most 253 (RFC 1035 §2.3.4).
pub const TAILNET_TEXT_BYTES_MAX: usize = 253;

/// Longest stay of an ephemeral device: 30 days. Who is to belong for longer is a shared one.
pub const STAY_MS_MAX: u64 = 30 * 24 * 3_600_000;

/// Most patterns of tools that an ephemeral device may be let in for: they stand in a membership change, which all keep.
pub const STAY_SCOPE_MAX: usize = 16;

/// Time after its end for which a stay is left to the device that approved it, whose clock it is by, before any other owner
/// ends it, and within which an hour's consent may be shown to one that had not heard of it: 10 minutes, more than clocks of
/// one household differ by.
pub const STAY_GRACE_MS: u64 = 600_000;

/// Time for which a device that was let in for one call stays when that is over, to read the result: 30 s.
pub const STAY_AFTER_CALL_MS: u64 = 30_000;
