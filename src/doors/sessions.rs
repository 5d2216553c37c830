//! Sessions of the web page: opened by a code that `sigil ui` has printed, kept by a cookie. Owner of the codes, the sessions
//! and the page's own host name.
//!
//! A session is whoever sits at this device, at its browser. It is worth no more than that person, less than the socket
//! (docs/decisions/0132), and ends when another sits here.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::ids::Hash;
use mesh_core::io::View;
use mesh_core::policy::{Principal, Role};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::other_end::User;
use crate::mesh::bucket::{Bucket, Flow};
use crate::platform;
use crate::status::{ErrorCode, OpError};

/// Name of the cookie.
pub const COOKIE: &str = "sigil_session";
/// Time in which a code can be used.
pub const CODE_TTL: Duration = Duration::from_mins(2);
/// Age of a session up to which it may also look after other sessions.
pub const FRESH: Duration = Duration::from_mins(5);
/// Silence after which a session of an owner or admin of the mesh ends.
pub const IDLE_ADMIN: Duration = Duration::from_hours(30 * 24);
/// Silence after which any other ends.
pub const IDLE: Duration = Duration::from_hours(12);
/// Longest name of a browser that is kept, in bytes.
const AGENT_BYTES_MAX: usize = 200;
/// Codes that are remembered, used or not: each is for one sign-in of one person.
const CODES_MAX: usize = 64;
/// Time for which a code that is over is still told from one that never was.
const CODE_KEPT: Duration = Duration::from_mins(10);
/// Open sessions; the one that was used least recently makes room.
const SESSIONS_MAX: usize = 32;
/// Wrong codes of all browsers together: with ten a minute, 50 bits and two minutes nobody guesses one.
const WRONG: Flow = Flow { units: 10, within: Duration::from_mins(1), ahead: 10 };
/// Use that is not yet in the file: a crash makes a session end so much earlier.
const SAVE_EVERY: Duration = Duration::from_hours(1);
/// Letters of a code: 50 bits.
const CODE_CHARS: usize = 10;
/// The file in the home.
const FILE: &str = "sessions.json";

/// A session that was shown, and counts.
#[derive(Clone)]
pub struct Session {
    /// By which it is listed and ended.
    pub id: String,
    /// Whoever sits at this device.
    pub holder: Principal,
    /// Wall time of its beginning, milliseconds.
    pub made_ms: u64,
    /// Cancelled when it was ended.
    over: CancellationToken,
}

impl Session {
    /// Resolves when it was ended.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.over.clone()
    }

    /// True if it was opened within the last [`FRESH`].
    #[must_use]
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        // One that was opened while the clock was ahead is no newer for that.
        self.made_ms <= now_ms && now_ms < self.made_ms.saturating_add(millis(FRESH))
    }

    /// True if nobody has ended it, and the same still sits at this device.
    #[must_use]
    pub fn still_counts(&self, view: &View) -> bool {
        !self.over.is_cancelled() && view.rights.sits_at(&view.me).as_ref() == Some(&self.holder)
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Session {}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// A session as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session.
    pub session: Arc<Session>,
    /// What the browser calls itself. Not proven.
    pub user_agent: String,
    /// Wall time of its last use, milliseconds.
    pub used_ms: u64,
    /// Wall time of its end if it is not used again, milliseconds.
    pub ends_ms: u64,
}

/// A new session, with what only its browser learns.
#[derive(Debug)]
pub struct SignedIn {
    /// The session.
    pub session: Arc<Session>,
    /// Text of its cookie.
    pub cookie: String,
}

/// See the module.
pub struct Sessions {
    file: PathBuf,
    kept: Mutex<Kept>,
    /// Held while the file is written, so that the newest state is written last.
    saving: Mutex<()>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("open", &self.lock().open.len()).finish_non_exhaustive()
    }
}

struct Kept {
    /// First label of the page's host name, 64 random bits: cookies of `127.0.0.1` go to every service of this machine.
    label: String,
    /// By the hash of their text.
    codes: BTreeMap<Hash, CodeState>,
    /// By the hash of their cookie.
    open: BTreeMap<Hash, Open>,
    wrong: Bucket,
    saved_ms: u64,
}

#[derive(Clone, Copy)]
struct CodeState {
    ends_ms: u64,
    used: bool,
}

struct Open {
    session: Arc<Session>,
    user_agent: String,
    /// The user of this machine that opened it, by its number; `None` where the system does not tell.
    user: Option<u32>,
    used_ms: u64,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Written {
    label: String,
    sessions: Vec<WrittenSession>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSession {
    /// In hexadecimal.
    cookie_sha256: String,
    holder: String,
    user_agent: String,
    user: Option<u32>,
    made_ms: u64,
    used_ms: u64,
}

impl Sessions {
    /// Those of a home. A file that cannot be read is as good as none: everybody signs in again.
    ///
    /// # Errors
    /// The file cannot be written, or the system gives no random bytes.
    pub fn open(home: &Path) -> io::Result<Self> {
        let file = home.join(FILE);
        let written = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Written>(&text).ok());
        let written = written.filter(|written| is_label(&written.label));
        let is_new = written.is_none();
        let Written { label, sessions } = match written {
            Some(written) => written,
            None => Written { label: format!("sigil-{}", random(13)?), sessions: Vec::new() },
        };
        let open = sessions.into_iter().filter_map(Open::read).take(SESSIONS_MAX).collect();
        let kept = Kept { label, codes: BTreeMap::new(), open, wrong: Bucket::new(Instant::now()), saved_ms: 0 };
        let sessions = Self { file, kept: Mutex::new(kept), saving: Mutex::default() };
        if is_new {
            sessions.write()?;
        }
        Ok(sessions)
    }

    /// Host name of the page. A secret like a code, shown only to whoever sits at this device: a cookie set under it goes to
    /// no other service of this machine.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.localhost", self.lock().label)
    }

    /// Gives the page another host name, for as long as it has no session: whatever somebody has left in browsers under the old one,
    /// while the port was another's, has nothing to do with the new one.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn move_away(&self) -> Result<(), OpError> {
        let label = format!("sigil-{}", random(13).map_err(|_| no_entropy())?);
        let mut kept = self.lock();
        if kept.open.is_empty() {
            kept.label = label;
        }
        Ok(())
    }

    /// A new code, and the wall time of its end in milliseconds. It is shown once.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn code(&self, now_ms: u64) -> Result<(String, u64), OpError> {
        let code = random(CODE_CHARS).map_err(|_| no_entropy())?.to_ascii_uppercase();
        let ends_ms = now_ms.saturating_add(millis(CODE_TTL));
        let mut kept = self.lock();
        kept.codes.retain(|_, code| now_ms < code.ends_ms.saturating_add(millis(CODE_KEPT)));
        while kept.codes.len() >= CODES_MAX {
            let oldest = kept.codes.iter().min_by_key(|(_, code)| code.ends_ms).map(|(hash, _)| *hash);
            oldest.and_then(|hash| kept.codes.remove(&hash));
        }
        kept.codes.insert(Hash::of(code.as_bytes()), CodeState { ends_ms, used: false });
        drop(kept);
        let (head, tail) = code.split_at(CODE_CHARS / 2);
        Ok((format!("{head}-{tail}"), ends_ms))
    }

    /// Opens a session for `holder`, which is served to the user of this machine that opens it and to no other. The code is used up.
    ///
    /// # Errors
    /// [`ErrorCode::SignInUnknown`], [`ErrorCode::SignInUsed`] or [`ErrorCode::SignInExpired`]; [`ErrorCode::RateLimited`] after too
    /// many of these, also for a right one.
    pub fn sign_in(
        &self,
        code: &str,
        holder: Principal,
        user_agent: &str,
        user: User,
        (now, now_ms): (Instant, u64),
    ) -> Result<SignedIn, OpError> {
        if user == User::Gone {
            // Whose session it would be is not known, and it would be everybody's.
            return Err(OpError::new(ErrorCode::Denied, "the other end of this connection is gone").hint("try again"));
        }
        let code: String = code.chars().filter(|c| !matches!(c, '-' | ' ')).collect::<String>().to_ascii_uppercase();
        let shown = Hash::of(code.as_bytes());
        let cookie = random(52).map_err(|_| no_entropy())?;
        let mut kept = self.lock();
        let wait = kept.wrong.until(&WRONG, 1, now);
        if !wait.is_zero() {
            let detail = "too many wrong codes were tried on this device";
            return Err(OpError::new(ErrorCode::RateLimited, detail)
                .hint("wait, then run `sigil ui` again")
                .retry_after(wait));
        }
        let mut found = None;
        for (hash, state) in &mut kept.codes {
            if bool::from(hash.as_bytes().ct_eq(shown.as_bytes())) {
                found = Some(state);
            }
        }
        let again = "run `sigil ui` again on this device";
        let refused = match found {
            Some(state) if state.used => (ErrorCode::SignInUsed, "this code has opened a session already"),
            Some(state) if state.ends_ms <= now_ms => (ErrorCode::SignInExpired, "a code can be used for two minutes"),
            Some(state) => {
                state.used = true;
                let hash = Hash::of(cookie.as_bytes());
                let id = id_of(hash);
                let session = Arc::new(Session { id, holder, made_ms: now_ms, over: CancellationToken::new() });
                let user_agent = clipped(user_agent);
                kept.make_room();
                let opened = Open { session: session.clone(), user_agent, user: user.number(), used_ms: now_ms };
                kept.open.insert(hash, opened);
                return Ok(SignedIn { session, cookie });
            }
            None => (ErrorCode::SignInUnknown, "no such code was printed on this device"),
        };
        kept.wrong.take(&WRONG, 1, now);
        drop(kept);
        Err(OpError::new(refused.0, refused.1).hint(again))
    }

    /// The session of a cookie, if it counts now and it is shown by the user who has opened it. Its time begins anew.
    #[must_use]
    pub fn find(&self, cookie: &str, user: User, view: &View, now_ms: u64) -> Option<Arc<Session>> {
        let shown = Hash::of(cookie.as_bytes());
        let mut kept = self.lock();
        let open = kept.open.get_mut(&shown)?;
        if !user.may_be(open.user) {
            tracing::warn!(
                session = open.session.id,
                ?user,
                "a session of the page was shown by another user of this machine"
            );
            return None;
        }
        let ends_ms = open.ends_ms(view);
        if ends_ms <= now_ms || !open.session.still_counts(view) {
            open.session.over.cancel();
            kept.open.remove(&shown);
            return None;
        }
        open.used_ms = open.used_ms.max(now_ms);
        Some(open.session.clone())
    }

    /// Open sessions, the one that was used last first.
    #[must_use]
    pub fn list(&self, view: &View, now_ms: u64) -> Vec<SessionInfo> {
        let kept = self.lock();
        let counts = |open: &&Open| now_ms < open.ends_ms(view) && open.session.still_counts(view);
        let info = |open: &Open| SessionInfo {
            session: open.session.clone(),
            user_agent: open.user_agent.clone(),
            used_ms: open.used_ms,
            ends_ms: open.ends_ms(view),
        };
        let mut list: Vec<_> = kept.open.values().filter(counts).map(info).collect();
        list.sort_by(|a, b| (b.used_ms, &a.session.id).cmp(&(a.used_ms, &b.session.id)));
        list
    }

    /// Ends those that `over` chooses; answers how many. Their event streams end at once.
    pub fn end(&self, over: impl Fn(&Session) -> bool) -> usize {
        let mut kept = self.lock();
        let before = kept.open.len();
        kept.open.retain(|_, open| {
            let ends = over(&open.session);
            if ends {
                open.session.over.cancel();
            }
            !ends
        });
        before - kept.open.len()
    }

    /// Writes the file, `always` or if what it says of uses is old. What was written is durable. Blocks.
    ///
    /// # Errors
    /// The disk: a start after this one knows of nothing that has happened since the last write.
    pub fn save(&self, always: bool, now_ms: u64) -> io::Result<()> {
        if !always && now_ms < self.lock().saved_ms.saturating_add(millis(SAVE_EVERY)) {
            return Ok(());
        }
        self.write()?;
        self.lock().saved_ms = now_ms;
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        let _alone = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let written = {
            let kept = self.lock();
            let sessions = kept.open.iter().map(|(hash, open)| open.written(*hash)).collect();
            Written { label: kept.label.clone(), sessions }
        };
        let text = serde_json::to_vec(&written)?;
        platform::replace_file(&self.file, &text)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn make_room(&mut self) {
        while self.open.len() >= SESSIONS_MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.used_ms).map(|(hash, _)| *hash);
            let Some(gone) = oldest.and_then(|hash| self.open.remove(&hash)) else { return };
            gone.session.over.cancel();
        }
    }
}

impl Open {
    fn ends_ms(&self, view: &View) -> u64 {
        let role = self.session.holder.person().and_then(|person| view.rights.role(person));
        self.used_ms.saturating_add(millis(if role >= Some(Role::Admin) { IDLE_ADMIN } else { IDLE }))
    }

    fn read(written: WrittenSession) -> Option<(Hash, Self)> {
        let WrittenSession { cookie_sha256, holder, user_agent, user, made_ms, used_ms } = written;
        let hash = data_encoding::HEXLOWER.decode(cookie_sha256.as_bytes()).ok()?;
        let hash = Hash(hash.try_into().ok()?);
        let session =
            Session { id: id_of(hash), holder: holder.parse().ok()?, made_ms, over: CancellationToken::new() };
        Some((hash, Self { session: Arc::new(session), user_agent: clipped(&user_agent), user, used_ms }))
    }

    fn written(&self, hash: Hash) -> WrittenSession {
        let Session { holder, made_ms, .. } = &*self.session;
        WrittenSession {
            cookie_sha256: data_encoding::HEXLOWER.encode(hash.as_bytes()),
            holder: holder.to_string(),
            user_agent: self.user_agent.clone(),
            user: self.user,
            made_ms: *made_ms,
            used_ms: self.used_ms,
        }
    }
}

/// The value that a page has to send along with whatever changes something. It is of the cookie, which no script reads; a page of
/// another origin, for which a browser would send the cookie, does not learn it.
#[must_use]
pub fn csrf_of(cookie: &str) -> String {
    Hash::of(format!("sigil.csrf.v1 {cookie}").as_bytes()).to_string()
}

/// True if this is the value of [`csrf_of`].
#[must_use]
pub fn is_csrf_of(cookie: &str, shown: &[u8]) -> bool {
    bool::from(csrf_of(cookie).as_bytes().ct_eq(shown))
}

/// With 80 bits of its hash no two sessions are called alike.
fn id_of(hash: Hash) -> String {
    hash.to_string().chars().take(16).collect()
}

fn is_label(label: &str) -> bool {
    label.len() == 19 && label.starts_with("sigil-") && label.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric())
}

fn clipped(user_agent: &str) -> String {
    let mut text: String = user_agent.chars().filter(|c| !c.is_control()).collect();
    text.truncate(text.floor_char_boundary(AGENT_BYTES_MAX));
    text
}

/// So many random letters of base32, 5 bits each.
fn random(letters: usize) -> io::Result<String> {
    let mut bytes = vec![0; letters.div_ceil(8) * 5];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let mut text = data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
    text.truncate(letters);
    Ok(text)
}

fn no_entropy() -> OpError {
    OpError::new(ErrorCode::Internal, "the system gives no random bytes")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn owner() -> Principal {
        "person:owner".parse().unwrap()
    }

    fn sessions() -> (tempfile::TempDir, Sessions) {
        let home = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(home.path()).unwrap();
        (home, sessions)
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_opens_one_session_for_two_minutes() {
        let (_home, sessions) = sessions();
        let at = |ms| (Instant::now(), ms);
        let (code, ends_ms) = sessions.code(NOW).unwrap();
        assert_eq!((code.len(), ends_ms), (11, NOW + 120_000));
        let typed = code.replace('-', " ").to_ascii_lowercase();
        assert!(sessions.sign_in(&typed, owner(), "x", User::Untold, at(NOW)).is_ok());
        let refused = |code: &str, ms| sessions.sign_in(code, owner(), "x", User::Untold, at(ms)).unwrap_err().code;
        assert_eq!(refused(&code, NOW), ErrorCode::SignInUsed);
        assert_eq!(refused("AAAAA-AAAAA", NOW), ErrorCode::SignInUnknown);
        let (late, _) = sessions.code(NOW).unwrap();
        assert_eq!(refused(&late, NOW + 120_000), ErrorCode::SignInExpired);
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_a_new_session_an_old_one_may_not() {
        let (_home, sessions) = sessions();
        let (code, _) = sessions.code(NOW).unwrap();
        let signed_in = sessions.sign_in(&code, owner(), "x", User::Untold, (Instant::now(), NOW)).unwrap();
        let who = crate::doors::identity::Identity::Session(signed_in.session);
        let at = |ms| who.require_fresh(ms, "this happens", "there").map_err(|error| error.code);
        assert_eq!((at(NOW + 299_999), at(NOW + 300_000)), (Ok(()), Err(ErrorCode::NotFresh)));
        assert!(crate::doors::identity::Identity::Socket.require_fresh(u64::MAX, "this happens", "there").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn after_ten_wrong_codes_also_a_right_one_waits() {
        let (_home, sessions) = sessions();
        let (code, _) = sessions.code(NOW).unwrap();
        for _ in 0..10 {
            let error = sessions.sign_in("wrong", owner(), "", User::Untold, (Instant::now(), NOW)).unwrap_err();
            assert_eq!(error.code, ErrorCode::SignInUnknown);
        }
        let error = sessions.sign_in(&code, owner(), "", User::Untold, (Instant::now(), NOW)).unwrap_err();
        assert_eq!(error.code, ErrorCode::RateLimited);
        assert_eq!(error.retry_after.unwrap(), Duration::from_secs(6));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(sessions.sign_in(&code, owner(), "", User::Untold, (Instant::now(), NOW)).is_ok());
    }

    #[tokio::test]
    async fn the_file_keeps_no_secret_and_brings_sessions_over_a_restart() {
        use std::os::unix::fs::PermissionsExt as _;
        let (home, sessions) = sessions();
        let (code, _) = sessions.code(NOW).unwrap();
        let opened = sessions.sign_in(&code, owner(), &"a".repeat(900), User::Untold, (Instant::now(), NOW)).unwrap();
        sessions.save(true, NOW).unwrap();
        let file = home.path().join(FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&opened.cookie) && !text.contains(&code.replace('-', "")) && text.len() < 900);
        let again = Sessions::open(home.path()).unwrap();
        assert_eq!((again.host(), again.lock().open.len()), (sessions.host(), 1));
        std::fs::write(&file, "{").unwrap();
        let anew = Sessions::open(home.path()).unwrap();
        assert!(anew.host() != sessions.host() && anew.lock().open.is_empty());
    }

    #[test]
    fn only_the_value_of_a_cookie_goes_with_it() {
        assert!(is_csrf_of("a", csrf_of("a").as_bytes()));
        for wrong in [csrf_of("b"), String::new(), "a".to_owned()] {
            assert!(!is_csrf_of("a", wrong.as_bytes()), "{wrong}");
        }
    }
}
