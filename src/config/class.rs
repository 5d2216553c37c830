//! Class of this machine, for election, when its owner does not name one.

use mesh_core::config::Class;

/// Below this much memory a machine counts as small: single-board computers and cheap virtual machines.
const SMALL_MEMORY_BYTES: u64 = 2 << 30;

/// Findings from which the guess is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// A battery powers the whole machine.
    pub battery: bool,
    /// Bytes of memory; 0 when unknown.
    pub memory: u64,
    /// Model of an ARM board, such as `Raspberry Pi 4 Model B`.
    pub board: Option<String>,
}

impl Probe {
    /// Looks at this machine. What cannot be read counts as absent.
    #[must_use]
    pub fn this_machine() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let battery = std::fs::read_dir("/sys/class/power_supply").is_ok_and(|supplies| {
            supplies.flatten().any(|supply| {
                let says = |file: &str, what: &str| {
                    std::fs::read_to_string(supply.path().join(file)).is_ok_and(|text| text.trim() == what)
                };
                // `scope` "Device" is the battery of a mouse or a headset.
                says("type", "Battery") && !says("scope", "Device")
            })
        });
        let memory = read("/proc/meminfo").and_then(|text| meminfo_bytes(&text, "MemTotal")).unwrap_or(0);
        let board = read("/proc/device-tree/model").map(|model| model.trim_end_matches('\0').to_owned());
        Self { battery, memory, board }
    }
}

/// The class of a machine that looks like this. A server cannot be told from a desktop: its owner has to say.
#[must_use]
pub fn guess(probe: &Probe) -> Class {
    if probe.battery {
        Class::LAPTOP
    } else if probe.board.is_some() || (1..SMALL_MEMORY_BYTES).contains(&probe.memory) {
        Class::SMALL
    } else {
        Class::DESKTOP
    }
}

/// A value of `/proc/meminfo`, in bytes.
#[must_use]
pub fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guess_follows_what_the_machine_has() {
        let big = Probe { memory: 16 << 30, ..Probe::default() };
        assert_eq!(guess(&big), Class::DESKTOP);
        assert_eq!(guess(&Probe { battery: true, ..big.clone() }), Class::LAPTOP);
        assert_eq!(guess(&Probe { board: Some("Raspberry Pi 5".into()), ..big }), Class::SMALL);
        assert_eq!(guess(&Probe { memory: 1 << 30, ..Probe::default() }), Class::SMALL);
        assert_eq!(guess(&Probe::default()), Class::DESKTOP);
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:        2048 kB\nMemFree: 1 kB\n";
        assert_eq!(meminfo_bytes(text, "MemTotal"), Some(2 << 20));
        assert_eq!(meminfo_bytes(text, "Mem"), None);
    }
}
