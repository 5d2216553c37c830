//! What is told of all that went out or did not: the first of its kind at once, and what is like it once a minute, counted. A
//! tool may ask for something else a thousand times in a second; that costs a few lines. Pure.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

/// Time for which what is alike is counted.
const WINDOW: Duration = Duration::from_mins(1);
/// Kinds of a plugin that are told with their calls, and further ones without, in that time. Beyond is one number.
const WITH_CALL_MAX: usize = 16;
const WITHOUT_CALL_MAX: usize = 24;
/// Plugins that are remembered. There are no more that run tools.
const PLUGINS_MAX: usize = 1024;

/// The one on whose behalf something was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Behalf {
    /// The plugin.
    pub provider: String,
    /// Its tool; `None`: it is shared by several.
    pub tool: Option<String>,
    /// The call, likewise.
    pub call: Option<String>,
}

/// Something that went out, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whose it was.
    pub behalf: Behalf,
    /// The host as far as it could be read; `*`: several.
    pub host: String,
    /// Its port; 0: none could be read, or several.
    pub port: u16,
    /// True if it went out.
    pub allowed: bool,
    /// The rule that allowed it, or the word for why it was refused.
    pub why: String,
    /// Bytes to there.
    pub sent: u64,
    /// Bytes from there.
    pub received: u64,
    /// So often.
    pub count: u32,
}

type Kind = (Behalf, String, u16, bool, String);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<String, Window>);

#[derive(Debug)]
struct Window {
    until: Instant,
    kinds: BTreeMap<Kind, Told>,
}

impl Ledger {
    /// Something has happened. What is to be told now is put into `out`.
    pub(super) fn take(&mut self, told: Told, now: Instant, out: &mut Vec<Told>) {
        self.flush(now, out);
        let provider = told.behalf.provider.clone();
        if self.0.len() >= PLUGINS_MAX && !self.0.contains_key(&provider) {
            return;
        }
        let window = self.0.entry(provider).or_insert_with(|| Window { until: now + WINDOW, kinds: BTreeMap::new() });
        let told = window.fitted(told);
        let kind = told.kind();
        if let Some(held) = window.kinds.get_mut(&kind) {
            held.add(&told);
        } else {
            window.kinds.insert(kind, Told { sent: 0, received: 0, count: 0, ..told.clone() });
            out.push(told);
        }
    }

    /// Tells what was counted in windows that are over.
    pub(super) fn flush(&mut self, now: Instant, out: &mut Vec<Told>) {
        self.0.retain(|_, window| {
            let over = window.until <= now;
            if over {
                out.extend(mem::take(&mut window.kinds).into_values().filter(|told| told.count > 0));
            }
            !over
        });
    }
}

impl Window {
    fn fitted(&self, told: Told) -> Told {
        let fits = |told: &Told, max: usize| self.kinds.len() < max || self.kinds.contains_key(&told.kind());
        if fits(&told, WITH_CALL_MAX) {
            return told;
        }
        let provider = told.behalf.provider.clone();
        let told = Told { behalf: Behalf { provider, tool: told.behalf.tool, call: None }, ..told };
        if fits(&told, WITHOUT_CALL_MAX) {
            return told;
        }
        let behalf = Behalf { tool: None, ..told.behalf };
        Told { behalf, host: "*".to_owned(), port: 0, why: "several".to_owned(), ..told }
    }
}

impl Told {
    fn kind(&self) -> Kind {
        (self.behalf.clone(), self.host.clone(), self.port, self.allowed, self.why.clone())
    }

    fn add(&mut self, other: &Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
        self.count = self.count.saturating_add(other.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str, call: &str) -> Told {
        let behalf =
            Behalf { provider: "photo".to_owned(), tool: Some("photo.get".to_owned()), call: Some(call.to_owned()) };
        let why = "not_listed".to_owned();
        Told { behalf, host: host.to_owned(), port: 443, allowed: false, why, sent: 1, received: 2, count: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_at_once_and_what_is_like_it_once_a_minute() {
        let (mut ledger, mut out, began) = (Ledger::default(), Vec::new(), Instant::now());
        for _ in 0..5 {
            ledger.take(refused("a.example", "1"), began, &mut out);
        }
        assert_eq!(out, [refused("a.example", "1")]);
        out.clear();
        ledger.flush(began + WINDOW - Duration::from_millis(1), &mut out);
        assert_eq!(out, []);
        ledger.flush(began + WINDOW, &mut out);
        assert_eq!(out, [Told { sent: 4, received: 8, count: 4, ..refused("a.example", "1") }]);
        out.clear();
        ledger.take(refused("a.example", "1"), began + WINDOW, &mut out);
        assert_eq!(out.len(), 1, "and then anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_a_few_lines_and_nothing_of_it_is_lost() {
        let (mut ledger, mut out, now) = (Ledger::default(), Vec::new(), Instant::now());
        for n in 0..10_000 {
            ledger.take(refused(&format!("h{n}.example"), &n.to_string()), now, &mut out);
        }
        ledger.take(Told { allowed: true, ..refused("b.example", "1") }, now, &mut out);
        assert!(out.len() <= WITHOUT_CALL_MAX + 2, "{}", out.len());
        ledger.flush(now + WINDOW, &mut out);
        assert!(out.len() <= WITHOUT_CALL_MAX + 4, "{}", out.len());
        assert_eq!(out.iter().map(|told| told.count).sum::<u32>(), 10_001);
        assert!(out.iter().any(|told| told.host == "*" && told.behalf.call.is_none()));
    }
}
