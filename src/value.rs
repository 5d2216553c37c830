//! Durations, sizes and words as people write them: `30s`, `1h30m`, `64MiB`, and what they may have meant.

use std::time::Duration;

/// Form of a duration, for error messages.
pub const DURATION_RULE: &str = "a duration such as 500ms, 30s, 5m, 2h, 7d or 1h30m";
/// Form of a size, for error messages.
pub const SIZE_RULE: &str = "a size such as 4096, 64KiB, 10MB or 1GiB";

/// Reads a duration: whole numbers, each with a unit (`ms`, `s`, `m` or `min`, `h`, `d`), added up. `None` when it is
/// not one.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total_ms = total_ms.checked_add(number.checked_mul(unit_ms)?)?;
        rest = after;
    }
    Some(Duration::from_millis(total_ms))
}

/// Reads a size in bytes: a whole number with an optional unit (`B`, `kB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`).
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A duration for people, in the same form: `1m30s`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= unit_ms {
            text += &(left / unit_ms).to_string();
            text += unit;
            left %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A size for people, in the same form: `64MiB`, or plain bytes when it is not a round number.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

/// `, did you mean …?`, or nothing when nothing known is near.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|name| (strsim::damerau_levenshtein(word, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => format!(", did you mean `{name}`?"),
        _ => String::new(),
    }
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_mean_what_they_say() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_mins(90)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("15min"), parse_duration("15m"));
        assert_eq!(parse_duration("7d"), Some(Duration::from_hours(7 * 24)));
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("10 MB"), Some(10_000_000));
        assert_eq!(parse_size("17"), Some(17));
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "1.5h",
            "30 s",
            "1y",
            "ten",
            "99999999999999999999s",
            "9999999999999999999d",
            "30s x",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "1TB", "99999999999GiB"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(ms in 0..u64::MAX, bytes: u64) {
            prop_assert_eq!(parse_duration(&show_duration(Duration::from_millis(ms))), Some(Duration::from_millis(ms)));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
