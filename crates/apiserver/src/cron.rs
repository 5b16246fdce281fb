//! Schedules of CronJobs, in UTC.
//!
//! The syntax is that of Kubernetes' parser (`ParseStandard` of github.com/robfig/cron): five fields (minute, hour, day of
//! month, month, day of week) with lists, ranges, steps and names, or a descriptor such as `@hourly`.

use std::str::FromStr;

use time::{Duration, OffsetDateTime};

/// Longest search for the next time: a leap day is at most eight years away.
const MAX_DAYS: i64 = 8 * 366;
const MINUTES_OF_DAY: i64 = 24 * 60;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule: the times at which a CronJob runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronSchedule {
    minutes: CronField,
    hours: CronField,
    days: CronField,
    months: CronField,
    weekdays: CronField,
}

/// Why a schedule cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CronError(String);

/// The numbers that a field allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CronField {
    allowed: u64,
    /// Whether the field is `*` or `?`.
    any: bool,
}

impl FromStr for CronSchedule {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let expanded = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ if text.starts_with('@') => return Err(CronError(format!("unrecognized descriptor: {text}"))),
            _ => text,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            let found = fields.len();
            return Err(CronError(format!("expected exactly 5 fields, found {found}: [{}]", fields.join(" "))));
        };
        Ok(Self {
            minutes: CronField::parse(minute, 0, 59, &[])?,
            hours: CronField::parse(hour, 0, 23, &[])?,
            days: CronField::parse(day, 1, 31, &[])?,
            months: CronField::parse(month, 1, 12, &MONTHS)?,
            weekdays: CronField::parse(weekday, 0, 6, &WEEKDAYS)?,
        })
    }
}

impl CronSchedule {
    /// Returns the first time after `unix`, both in seconds since 1970; `None` if there is none, as on February 30.
    #[must_use]
    pub fn next_after(&self, unix: i64) -> Option<i64> {
        let first = unix.div_euclid(60) + 1;
        let (today, minute) = (first.div_euclid(MINUTES_OF_DAY), first.rem_euclid(MINUTES_OF_DAY));
        (today..today + MAX_DAYS).find_map(|day| {
            let start = if day == today { minute } else { 0 };
            let minute = self.allows_day(day)?.then(|| self.first_minute(start))??;
            Some((day * MINUTES_OF_DAY + minute) * 60)
        })
    }

    /// Reports whether the schedule has times on a day, in days since 1970. If both the day of the month and the day of the
    /// week are restricted, one of them suffices.
    fn allows_day(&self, day: i64) -> Option<bool> {
        let date = (OffsetDateTime::UNIX_EPOCH.checked_add(Duration::days(day)))?.date();
        let of_month = self.days.allows(date.day());
        let of_week = self.weekdays.allows(date.weekday().number_days_from_sunday());
        let day = if self.days.any || self.weekdays.any { of_month && of_week } else { of_month || of_week };
        Some(day && self.months.allows(u8::from(date.month())))
    }

    fn first_minute(&self, start: i64) -> Option<i64> {
        let parts = |minute: i64| (u8::try_from(minute / 60), u8::try_from(minute % 60));
        (start..MINUTES_OF_DAY).find(|minute| match parts(*minute) {
            (Ok(hour), Ok(minute)) => self.hours.allows(hour) && self.minutes.allows(minute),
            _ => false,
        })
    }
}

impl CronField {
    fn allows(self, number: u8) -> bool {
        self.allowed >> number & 1 == 1
    }

    fn parse(text: &str, least: u8, most: u8, names: &[&str]) -> Result<Self, CronError> {
        let mut field = Self { allowed: 0, any: false };
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(number(step, &[], 0)?)),
                None => (part, None),
            };
            let star = range == "*" || range == "?";
            let (first, last) = match range.split_once('-') {
                _ if star => (least, most),
                Some((first, last)) => (number(first, names, least)?, number(last, names, least)?),
                None => {
                    let first = number(range, names, least)?;
                    // A number with a step is the beginning of a range.
                    (first, if step.is_some() { most } else { first })
                }
            };
            field.any |= star && step.is_none_or(|step| step == 1);
            field.add(part, (first, last), (least, most), step.unwrap_or(1))?;
        }
        Ok(field)
    }

    fn add(&mut self, part: &str, range: (u8, u8), bounds: (u8, u8), step: u8) -> Result<(), CronError> {
        let ((first, last), (least, most)) = (range, bounds);
        let problem = match () {
            () if first < least => format!("beginning of range ({first}) below minimum ({least}): {part}"),
            () if last > most => format!("end of range ({last}) above maximum ({most}): {part}"),
            () if first > last => format!("beginning of range ({first}) beyond end of range ({last}): {part}"),
            () if step == 0 => format!("step of range should be a positive number: {part}"),
            () => {
                (first..=last).step_by(usize::from(step)).for_each(|number| self.allowed |= 1 << number);
                return Ok(());
            }
        };
        Err(CronError(problem))
    }
}

/// Returns a number, or the number of a name; the first name has the number `first`.
fn number(text: &str, names: &[&str], first: u8) -> Result<u8, CronError> {
    if let Some(index) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(first + u8::try_from(index).unwrap_or(0));
    }
    text.parse().map_err(|_| CronError(format!("failed to parse int from {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp;

    fn next(schedule: &str, after: &str) -> String {
        let schedule: CronSchedule = schedule.parse().unwrap_or_else(|error| panic!("{schedule}: {error}"));
        let after = timestamp::parse(after).expect("a time").unix_timestamp();
        let Some(next) = schedule.next_after(after) else { return "never".to_owned() };
        let next = OffsetDateTime::from_unix_timestamp(next).expect("a time");
        let (date, hour, minute) = (next.date(), next.hour(), next.minute());
        format!("{date} {hour:02}:{minute:02}")
    }

    #[test]
    fn the_next_time_follows_the_schedule() {
        // A Tuesday.
        let now = "2026-12-01T04:05:30Z";
        for (schedule, expected) in [
            ("* * * * *", "2026-12-01 04:06"),
            ("*/15 * * * *", "2026-12-01 04:15"),
            ("5 4 * * *", "2026-12-02 04:05"),
            ("0,30 9-17 * * mon-fri", "2026-12-01 09:00"),
            ("10/20 * * * *", "2026-12-01 04:10"),
            ("0 0 31 * *", "2026-12-31 00:00"),
            ("0 0 29 2 *", "2028-02-29 00:00"),
            ("0 0 13 * 5", "2026-12-04 00:00"),
            ("0 0 13 * ?", "2026-12-13 00:00"),
            ("0 12 * JAN Sun", "2027-01-03 12:00"),
            ("0 0 30 2 *", "never"),
            ("@hourly", "2026-12-01 05:00"),
            ("@daily", "2026-12-02 00:00"),
            ("@weekly", "2026-12-06 00:00"),
            ("@monthly", "2027-01-01 00:00"),
            ("@yearly", "2027-01-01 00:00"),
        ] {
            assert_eq!(next(schedule, now), expected, "{schedule}");
        }
        assert_eq!(next("0 * * * *", "2026-12-01T05:00:00Z"), "2026-12-01 06:00", "a time is not its own successor");
    }

    #[test]
    fn mistakes_are_named() {
        for (schedule, problem) in [
            ("", "expected exactly 5 fields, found 0: []"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("9-5 * * * *", "beginning of range (9) beyond end of range (5): 9-5"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x"),
            ("@never", "unrecognized descriptor: @never"),
        ] {
            assert_eq!(schedule.parse::<CronSchedule>().unwrap_err().to_string(), problem, "{schedule:?}");
        }
    }
}
