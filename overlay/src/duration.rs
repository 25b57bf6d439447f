//! Durations as users type them.

use std::time::Duration;

/// Longest duration, in seconds: a year.
const SECONDS_MAX: u64 = 365 * 86_400;

/// Reads `90s`, `15m`, `24h`, `7d`.
///
/// # Errors
/// What to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let unit = |unit| match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let split = text.len().saturating_sub(1);
    let seconds = text.split_at_checked(split).and_then(|(number, name)| {
        number.parse::<u32>().ok().zip(unit(name)).map(|(number, unit)| u64::from(number) * unit)
    });
    match seconds {
        Some(seconds) if (1..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => Err("write a time up to a year such as 90s, 15m, 24h or 7d".to_owned()),
    }
}

/// Writes a duration in the largest unit that says it without a rest: `15 min`, `90 s`, `12 h`.
#[must_use]
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "days"), (3600, "h"), (60, "min")];
    match units.into_iter().find(|(unit, _)| seconds >= 2 * unit && seconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "h", "24", "1w", "-1h", "366d", "0s", "5€", "1.5h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_in_one_unit() {
        let shown = [10, 60, 900, 5400, 12 * 3600, 7 * 86_400].map(Duration::from_secs).map(show);
        assert_eq!(shown, ["10 s", "60 s", "15 min", "90 min", "12 h", "7 days"]);
    }
}
