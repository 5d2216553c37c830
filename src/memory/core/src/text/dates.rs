//! Dates: of messages, and as questions name them.

use super::{lang, words};

/// A day of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// Year.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

impl Date {
    /// The day of a time in milliseconds since 1970, `offset_min` minutes east of UTC.
    #[must_use]
    pub fn of(time_ms: i64, offset_min: i16) -> Self {
        let local = time_ms.saturating_add(i64::from(offset_min) * 60_000);
        // Days to a civil date in the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date
        // algorithms").
        let days = local.div_euclid(86_400_000) + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year: i32::try_from(year).unwrap_or(i32::MAX),
            month: u8::try_from(month).unwrap_or(1),
            day: u8::try_from(day).unwrap_or(1),
        }
    }
}

/// True for a word, in lower case, that names a day or a month. "may" is a verb more often.
pub(crate) fn is_day(word: &str) -> bool {
    let is_month = |language: &&lang::Language| language.months.iter().any(|names| names.contains(&word));
    lang::any(word, |language| language.days) || (word != "may" && lang::ALL.iter().any(is_month))
}

/// True for a word, in lower case, that has a digit, or names a day or a month.
pub(crate) fn is_value(word: &str) -> bool {
    word.contains(char::is_numeric) || is_day(word)
}

/// Time that a question names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    years: Vec<i32>,
    months: Vec<u8>,
    days: Vec<u8>,
}

impl Named {
    /// Reads the years, months and days that a question names, in any language with a table.
    #[must_use]
    pub fn of(question: &str) -> Self {
        let mut named = Self::default();
        let mut days = Vec::new();
        for (at, word) in words(question) {
            let lower = word.to_lowercase();
            let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let suffix = lower.get(digits.len()..).unwrap_or_default();
            if let Ok(number) = digits.parse::<i32>() {
                if suffix.is_empty() && digits.len() == 4 && (1900..2200).contains(&number) {
                    named.years.push(number);
                } else if digits.len() <= 2 && matches!(suffix, "" | "st" | "nd" | "rd" | "th") {
                    days.extend(u8::try_from(number).ok().filter(|day| (1..=31).contains(day)));
                }
                if digits.len() == 4
                    && let Some((month, day)) = iso_rest(question.get(at + word.len()..).unwrap_or_default())
                {
                    named.months.push(month);
                    named.days.push(day);
                }
                continue;
            }
            // "may" is a month only where it is written like one.
            if lower == "may" && !word.starts_with('M') {
                continue;
            }
            for language in lang::ALL {
                let month = (1..).zip(language.months).find(|(_, names)| names.contains(&lower.as_str()));
                named.months.extend(month.map(|(number, _)| number));
            }
        }
        if !named.months.is_empty() && named.days.is_empty() {
            named.days = days;
        }
        named
    }

    /// True if nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.years.is_empty() && self.months.is_empty()
    }

    /// How well a message of `date` fits: 0, ½ (the month fits and the day does not), 1. People tell of a day up to a week
    /// later, and of a month up to the tenth of the next.
    #[must_use]
    pub fn fit(&self, date: Date) -> f64 {
        if self.is_empty() || (!self.years.is_empty() && !self.years.contains(&date.year)) {
            return 0.0;
        }
        let before = if date.month == 1 { 12 } else { date.month - 1 };
        let month_fits = self.months.is_empty()
            || self.months.contains(&date.month)
            || (self.months.contains(&before) && date.day <= 10);
        if !month_fits {
            return 0.0;
        }
        let day_fits = |day: &u8| date.day.checked_sub(*day).is_some_and(|later| later <= 7);
        if self.days.is_empty() || self.days.iter().any(day_fits) { 1.0 } else { 0.5 }
    }
}

/// `-05-08` after a year.
fn iso_rest(rest: &str) -> Option<(u8, u8)> {
    let mut parts = rest.get(..6)?.split('-');
    let (_, month, day) = (parts.next().filter(|it| it.is_empty())?, parts.next()?, parts.next()?);
    let (month, day) = (month.parse().ok()?, day.parse().ok()?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some((month, day))
}

/// True if a text says when something was or will be.
#[must_use]
pub fn tells_time(text: &str) -> bool {
    words(text).any(|(_, word)| {
        let word = word.to_lowercase();
        lang::any(&word, |language| language.time_words)
            || (word.len() == 4 && word.starts_with("20") && word.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// True if a question asks for a time.
#[must_use]
pub fn asks_when(question: &str) -> bool {
    let lower = question.trim_start().to_lowercase();
    let begins = |begin: &&str| {
        lower.strip_prefix(*begin).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    lang::ALL.iter().any(|language| language.asks_when.iter().any(begins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn days_of_the_calendar() {
        assert_eq!(Date::of(0, 0), Date { year: 1970, month: 1, day: 1 });
        assert_eq!(Date::of(-1, 0), Date { year: 1969, month: 12, day: 31 });
        assert_eq!(Date::of(1_709_164_800_000, 0), Date { year: 2024, month: 2, day: 29 });
        assert_eq!(Date::of(1_709_164_800_000, -60), Date { year: 2024, month: 2, day: 28 });
    }

    #[test]
    fn dates_that_questions_name() {
        let fit = |question: &str, year, month, day| Named::of(question).fit(Date { year, month, day });
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(fit("What did she do on 7 May 2023?", 2023, 5, 8), 1.0));
        assert!(near(fit("What did she do on 7 May 2023?", 2023, 5, 20), 0.5));
        assert!(near(fit("What did she do on 7 May 2023?", 2022, 5, 8), 0.0));
        assert!(near(fit("What happened in December?", 2023, 1, 5), 1.0));
        assert!(near(fit("What happened in December?", 2023, 1, 15), 0.0));
        assert!(near(fit("Was war am 3. März?", 2023, 3, 4), 1.0));
        assert!(near(fit("on 2023-05-08", 2023, 5, 8), 1.0));
        assert!(Named::of("what may I do with 7 eggs").is_empty());
    }

    #[test]
    fn questions_that_ask_when() {
        assert!(asks_when("When did it rain?") && asks_when(" how long ago") && asks_when("Wann kommt er?"));
        assert!(!asks_when("Whenever") && !asks_when("Where is it"));
        assert!(tells_time("Last Friday") && !tells_time("in 1999") && tells_time("in 2021"));
    }

    proptest! {
        #[test]
        fn each_day_follows_the_one_before(days in -400_000i64..400_000) {
            let (a, b) = (Date::of(days * DAY, 0), Date::of((days + 1) * DAY, 0));
            prop_assert!(a < b);
            prop_assert!(b.day == a.day + 1 || b.day == 1);
        }

        #[test]
        fn any_question_is_read(text in ".*", time: i64, offset: i16) {
            let fit = Named::of(&text).fit(Date::of(time, offset));
            prop_assert!((0.0..=1.0).contains(&fit));
        }
    }
}
