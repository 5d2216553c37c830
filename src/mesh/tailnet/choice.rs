//! Which of the two ways onto a tailnet this device goes, in words.

use super::answers::Condition;
use super::embedded::EmbeddedCondition;

/// Use of a tailnet that the settings ask for (`tailnet.mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// None.
    #[default]
    Off,
    /// By the tailscaled of this machine, which should be there.
    Host,
    /// By a node in this program.
    Embedded,
    /// By the tailscaled of this machine where it runs, else by a node in this program where it can join. That somebody has
    /// switched the first off is no trouble.
    Auto,
}

/// The tailnet as this device uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tailnet {
    /// All that the settings ask for.
    pub mode: Mode,
    /// Condition of the tailscaled of this machine.
    pub condition: Condition,
    /// Condition of the node in this program.
    pub embedded: EmbeddedCondition,
}

impl Tailnet {
    /// The state in words, and the next step if something should be done.
    #[must_use]
    pub fn told(&self, now_ms: u64) -> (String, Option<String>) {
        let (host, step) = self.condition.told(now_ms);
        let step = step.map(ToOwned::to_owned);
        match (self.mode, &self.condition) {
            (Mode::Off, _) => (Condition::Off.told(now_ms).0, None),
            (Mode::Embedded, _) => self.embedded.told(now_ms),
            (Mode::Host, Condition::Absent) => {
                let step = "install Tailscale and run `tailscale up`, or set `tailnet.mode` to \"auto\" or \"off\"";
                (host, Some(step.to_owned()))
            }
            (Mode::Host, _) => (host, step),
            (Mode::Auto, Condition::Running { .. }) => {
                let ends = matches!(self.embedded, EmbeddedCondition::Leaving);
                let also = if ends { "; the node in this program ends within a minute" } else { "" };
                (format!("{host}, by the tailscaled of this device{also}"), step)
            }
            (Mode::Auto, condition) => {
                let host = host.split(';').next().unwrap_or_default().to_owned();
                // That somebody has switched it off is no trouble.
                let is_choice = matches!(condition, Condition::Absent | Condition::Stopped | Condition::NeedsLogin);
                match &self.embedded {
                    EmbeddedCondition::Off => (host, step.filter(|_| !is_choice)),
                    EmbeddedCondition::NoWay(why) => {
                        (format!("{host}, and there is no node in this program: {why}"), step.filter(|_| !is_choice))
                    }
                    embedded @ (EmbeddedCondition::Starting
                    | EmbeddedCondition::NeedsLogin(_)
                    | EmbeddedCondition::Failed(_)
                    | EmbeddedCondition::Leaving
                    | EmbeddedCondition::Running { .. }) => {
                        let (told, step) = embedded.told(now_ms);
                        (format!("{told}, since {host}"), step)
                    }
                }
            }
        }
    }
}
