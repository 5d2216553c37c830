//! Limits as manifests write them: `256Mi`, `500m`.

use std::ops::RangeInclusive;

/// Least and most memory that a plugin may be given.
const MEMORY_LIMITS: RangeInclusive<u64> = 16 << 20..=64 << 30;
/// Least and most processing power, in thousandths of a core.
const CPU_LIMITS: RangeInclusive<u32> = 10..=256_000;

/// A text that is no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLimit {
    /// Not a number with a unit.
    #[error("it must be {0}")]
    Form(&'static str),
    /// More than can be counted.
    #[error("it must be less than 16Ei")]
    Overflow,
}

/// Size of a private `/tmp` of which nothing is said.
pub(super) const TMP_DEFAULT: u64 = 64 << 20;

/// Form of a size, for messages.
pub(super) const SIZE_RULE: &str = "a size such as 256Mi, 1Gi, 512Ki or plain bytes";
/// Form of a memory limit, for messages.
pub(super) const MEMORY_RULE: &str = "a size such as 256Mi or 1Gi, from 16Mi to 64Gi";
/// Form of a CPU limit, for messages.
pub(super) const CPU_RULE: &str = "cores such as 1 or 0.5, or thousandths such as 500m, from 10m to 256";

/// Memory that a plugin may use, in bytes: 16 MiB to 64 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryLimit(u64);

impl MemoryLimit {
    /// Memory of a container whose manifest says nothing.
    pub const DEFAULT: Self = Self(256 << 20);

    /// As a limit, if it is within those that there are.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        MEMORY_LIMITS.contains(&bytes).then_some(Self(bytes))
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// Reads a size in bytes: a whole number with `Ki`, `Mi` or `Gi`, or without a unit.
///
/// # Errors
/// Anything else, a sign among it, and what does not fit into 64 bits.
pub fn parse_memory_limit(text: &str) -> Result<u64, InvalidLimit> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit: u64 = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(InvalidLimit::Form(SIZE_RULE)),
    };
    if digits.is_empty() {
        return Err(InvalidLimit::Form(SIZE_RULE));
    }
    // Digits alone: what does not parse is too large.
    let number: u64 = digits.parse().map_err(|_| InvalidLimit::Overflow)?;
    number.checked_mul(unit).ok_or(InvalidLimit::Overflow)
}

/// Reads a share of the cores in thousandths: `500m`, `1`, `0.5`. `None` if it is not one.
pub(super) fn parse_cpu(text: &str) -> Option<u32> {
    let digits = |text: &str| (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = if let Some(thousandths) = text.strip_suffix('m') {
        digits(thousandths).then(|| thousandths.parse().ok())??
    } else {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        if !digits(whole) || !digits(part) || part.len() > 3 {
            return None;
        }
        let (whole, part): (u32, u32) = (whole.parse().ok()?, format!("{part:0<3}").parse().ok()?);
        whole.checked_mul(1000)?.checked_add(part)?
    };
    CPU_LIMITS.contains(&thousandths).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seed_c2_memory_limits_parse() {
        assert_eq!(parse_memory_limit("256Mi"), Ok(256 * 1024 * 1024));
        assert_eq!(parse_memory_limit("1Gi"), Ok(1024 * 1024 * 1024));
        assert_eq!(parse_memory_limit("512Mi"), Ok(512 * 1024 * 1024));
        assert_eq!(parse_memory_limit("4Ki"), Ok(4096));
        assert_eq!(parse_memory_limit("17"), Ok(17));
        for nonsense in ["", "Mi", "256M", "256MB", "1.5Gi", " 1Gi", "1Gi ", "0x10", "ten", "1Ti", "１Gi"] {
            assert_eq!(parse_memory_limit(nonsense), Err(InvalidLimit::Form(SIZE_RULE)), "{nonsense:?}");
        }
        for negative in ["-1", "-256Mi", "+1Gi"] {
            assert!(parse_memory_limit(negative).is_err(), "{negative:?}");
        }
        for large in ["18446744073709551616", "17179869184Gi", "99999999999999999999Ki"] {
            assert_eq!(parse_memory_limit(large), Err(InvalidLimit::Overflow), "{large:?}");
        }
        assert_eq!(parse_memory_limit("17179869183Gi"), Ok(17_179_869_183 << 30));
        assert_eq!(MemoryLimit::new(15 << 20), None);
        assert_eq!(MemoryLimit::new(64 << 30).map(MemoryLimit::bytes), Some(64 << 30));
        assert_eq!(MemoryLimit::new((64 << 30) + 1), None);
    }

    #[test]
    fn shares_of_cores_parse() {
        for (text, thousandths) in [("500m", 500), ("1", 1000), ("0.5", 500), ("2.25", 2250), ("256", 256_000)] {
            assert_eq!(parse_cpu(text), Some(thousandths), "{text}");
        }
        for bad in ["", "m", "0", "9m", "257", "-1", "1.", ".5", "1.2345", "1e3", "0.5m", "1 "] {
            assert_eq!(parse_cpu(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,24}") {
            let _ = (parse_memory_limit(&text), parse_cpu(&text));
        }

        #[test]
        fn what_is_written_is_read(number in 0u64..1 << 34) {
            prop_assert_eq!(parse_memory_limit(&format!("{number}Ki")), Ok(number << 10));
        }
    }
}
