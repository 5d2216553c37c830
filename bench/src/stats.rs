//! Samples, and the kernel's figures of a process.

use std::time::Duration;

/// Times that many things of one kind took.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The time that `percent` of all stayed within; zero when there are none.
    pub(crate) fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }

    pub(crate) fn p50(&self) -> Duration {
        self.at(50)
    }
}

/// Processor time that a process has used so far: of all its threads that still live, in nanoseconds.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// A size of `/proc/PID/status`, such as `VmRSS`, in bytes.
pub(crate) fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred() {
        let mut samples = Samples::default();
        assert_eq!(samples.p50(), Duration::ZERO);
        for ms in (1..=100).rev() {
            samples.add(Duration::from_millis(ms));
        }
        assert_eq!(samples.p50(), Duration::from_millis(51));
        assert_eq!(samples.at(99), Duration::from_millis(100));
        assert_eq!(samples.at(100), Duration::from_millis(100));
    }

    #[test]
    fn the_kernel_knows_us() {
        assert!(processor_time(std::process::id()) > Duration::ZERO);
        assert!(memory(std::process::id(), "VmRSS") > 1024 * 1024);
        assert_eq!(memory(std::process::id(), "Nothing"), 0);
    }
}
