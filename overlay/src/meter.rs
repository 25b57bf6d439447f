//! What passes in a second, from counters that only grow.

use std::collections::VecDeque;

use vde_switch::time::Instant;

/// Looks that are kept: the rate is over five seconds when counters are looked at each second.
const LOOKS_MAX: usize = 6;

/// Rates over the last looks at a counter of frames and one of their bytes.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    looks: VecDeque<(Instant, u64, u64)>,
}

impl Meter {
    /// Takes what the counters are now; ones that fell belong to something that started anew.
    pub fn look(&mut self, frames: u64, bytes: u64, now: Instant) {
        if self.looks.back().is_some_and(|(_, f, b)| frames < *f || bytes < *b) {
            self.looks.clear();
        }
        if self.looks.len() == LOOKS_MAX {
            self.looks.pop_front();
        }
        self.looks.push_back((now, frames, bytes));
    }

    /// Returns bits a second, of whole frames.
    #[must_use]
    pub fn bps(&self) -> f64 {
        self.rate(|(_, _, bytes)| *bytes) * 8.0
    }

    /// Returns frames a second, a super-frame as one.
    #[must_use]
    pub fn fps(&self) -> f64 {
        self.rate(|(_, frames, _)| *frames)
    }

    fn rate(&self, of: impl Fn(&(Instant, u64, u64)) -> u64) -> f64 {
        let Some((first, last)) = self.looks.front().zip(self.looks.back()) else { return 0.0 };
        let seconds = (last.0 - first.0).as_secs_f64();
        // Exact below 2^53 in five seconds.
        if seconds > 0.0 { of(last).saturating_sub(of(first)) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_of_the_last_seconds_and_start_anew_with_their_counters() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut meter = Meter::default();
        assert!(meter.bps() + meter.fps() < 1e-9, "nothing is known");
        meter.look(10, 1000, at(1));
        assert!(meter.bps() < 1e-9, "one look is no rate");
        meter.look(20, 3000, at(3));
        assert!((meter.bps() - 8000.0).abs() < 1e-6 && (meter.fps() - 5.0).abs() < 1e-6);
        (4..20).for_each(|second| meter.look(20, 3000, at(second)));
        assert!(meter.bps() < 1e-9, "what was long ago is forgotten");
        meter.look(0, 0, at(20));
        meter.look(7, 100, at(21));
        assert!((meter.fps() - 7.0).abs() < 1e-6);
    }
}
