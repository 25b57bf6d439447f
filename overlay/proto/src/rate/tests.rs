//! The limits of a port at their edges: rates, bursts, super-frames, clocks.

use proptest::prelude::*;
use vde_switch::vnet::{GsoType, VnetHdr};

use super::*;

const START: Instant = Instant::from_nanos(1 << 40);

fn bytes_only(bytes_per_s: u64) -> Limits {
    Limits { bytes_per_s, frames_per_s: 0 }
}

/// Offers frames of `len` bytes at 1000 MB/s for `seconds`; returns the bytes admitted.
fn offered(rate: &mut RateLimit, len: u64, start: Instant, seconds: u64) -> u64 {
    let count = seconds * 1_000_000_000 / len;
    let at = |n: u64| start + Duration::from_nanos(n * len);
    let admitted = (0..count).filter(|n| rate.admit_units(len, 1, at(*n))).count();
    admitted as u64 * len
}

#[test]
fn a_port_sends_at_its_rate_and_its_burst_and_no_more() {
    for per_s in [1_000_000_u64, 12_500_000, 125_000_000] {
        for len in [60, 1514, 65_549] {
            let mut rate = RateLimit::new(bytes_only(per_s), START);
            let sent = offered(&mut rate, len, START, 4);
            let burst = (per_s / 20).max(BURST_BYTES_MIN);
            let most = per_s * 4 + burst;
            assert!(sent <= most, "{sent} bytes of {len} at {per_s}/s, above {most}");
            assert!(sent >= per_s * 4 - 2 * len, "{sent} of {len} at {per_s}/s");
        }
    }
}

#[test]
fn frames_are_limited_beside_bytes_and_a_refused_frame_costs_nothing() {
    let mut rate = RateLimit::new(Limits { bytes_per_s: 0, frames_per_s: 1000 }, START);
    let sent = offered(&mut rate, 1000, START, 2) / 1000;
    assert!((2000..=2257).contains(&sent), "{sent} frames in two seconds");
    let mut rate = RateLimit::new(Limits { bytes_per_s: 1000, frames_per_s: 100 }, START);
    assert!(rate.admit_units(65_549, 1, START) && rate.admit_units(60_000, 1, START));
    assert!(!rate.admit_units(65_549, 1, START), "above the bytes");
    let few = (0..300).filter(|_| rate.admit_units(1, 1, START)).count();
    assert_eq!(few, 255, "the refused frame was counted, or the burst is another");
}

#[test]
fn a_super_frame_counts_as_all_that_it_stands_for_and_passes_at_any_rate() {
    let gso = |gso_size| VnetHdr { gso: GsoType::TcpV4, gso_size, ..VnetHdr::default() };
    for (gso_size, count) in [(GSO_SIZE_MIN, 257), (1448, 46), (65_000, 2)] {
        let bytes = vec![0; FRAME_LEN_MAX];
        let frame = Frame { hdr: gso(gso_size), bytes: &bytes };
        for (bytes_per_s, frames_per_s) in [(1, 1), (0, 1), (1, 0), (u64::MAX, u32::MAX)] {
            let limits = Limits { bytes_per_s, frames_per_s };
            let mut rate = RateLimit::new(limits, START);
            assert!(rate.admit(&frame, START), "{gso_size} at {limits:?}");
        }
        let mut rate = RateLimit::new(Limits { bytes_per_s: 0, frames_per_s: 1 }, START);
        assert!(rate.admit(&frame, START));
        let left = (0..1000).filter(|_| rate.admit_units(60, 1, START)).count();
        assert_eq!(left, 257 - count, "what is left beside a super-frame of {gso_size}");
    }
}

#[test]
fn a_rate_changes_at_once_both_ways_and_idle_time_fills_one_burst() {
    let mut rate = RateLimit::new(bytes_only(1000), START);
    assert!(rate.admit_units(65_536, 1, START) && rate.admit_units(65_536, 1, START));
    let later = START + Duration::from_secs(1);
    rate.set(bytes_only(100_000_000), later);
    let sent = offered(&mut rate, 1514, later, 1);
    assert!(sent > 95_000_000, "{sent} bytes in the second after the rate was raised");
    let later = later + Duration::from_secs(1);
    rate.set(bytes_only(1_000_000), later);
    let sent = offered(&mut rate, 1514, later, 1);
    assert!(sent <= 1_000_000 + BURST_BYTES_MIN, "{sent} bytes after it was lowered");
    let day = later + Duration::from_secs(86_400);
    let sent = offered(&mut rate, 1514, day, 1);
    assert!((990_000..=1_000_000 + BURST_BYTES_MIN).contains(&sent), "{sent} after a day");
    rate.set(Limits::NONE, later);
    assert!(rate.admit_units(u64::MAX, u64::MAX, later), "no limit is one");
}

fn per_s() -> impl Strategy<Value = u64> {
    prop_oneof![1..2000_u64, 1..10_000_000_000_u64, Just(u64::MAX), Just(u64::MAX / 50)]
}

fn bucket(per_s: u64, burst_min: u64, at: u64) -> (Bucket, u128) {
    let mut bucket = Bucket::default();
    bucket.set(per_s, burst_min, Instant::from_nanos(at));
    (bucket, u128::from((per_s / 1000).saturating_mul(50).max(burst_min)))
}

/// Takes units if they are there, as [`RateLimit::admit`] does.
fn take(bucket: &mut Bucket, units: u64, now: u64) -> bool {
    let Some(paid_at) = bucket.after(units, Instant::from_nanos(now)) else { return false };
    bucket.paid_at = paid_at;
    true
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Between any two instants no more than a burst and what the rate brings.
    #[test]
    fn no_window_carries_more_than_burst_and_rate(
        per_s in per_s(),
        burst_min in 1..200_000_u64,
        start in prop_oneof![Just(0), any::<u64>()],
        steps in prop::collection::vec(
            (0..80_000_000_u64, prop_oneof![1..1515_u64, 60_000..70_000_u64, any::<u64>()]),
            1..150,
        ),
    ) {
        let (mut bucket, burst) = bucket(per_s, burst_min, start);
        let (mut now, mut taken) = (start, Vec::new());
        for (gap, units) in steps {
            now = now.saturating_add(gap);
            if take(&mut bucket, units, now) {
                taken.push((now, u128::from(units)));
            }
        }
        for (from, (first, _)) in taken.iter().enumerate() {
            let mut sum = 0_u128;
            for (at, units) in &taken[from..] {
                sum += units;
                let rated = u128::from(at - first) * u128::from(per_s) / 1_000_000_000;
                // A burst is counted in whole nanoseconds.
                let rounding = u128::from(per_s) / 1_000_000_000 + 1;
                prop_assert!(sum <= burst + rated + rounding, "{} of {} + {}", sum, burst, rated);
            }
        }
    }

    /// Whatever was sent and however the clock jumped, backwards too, the time of a burst later a
    /// burst is there; so nobody is ever shut out.
    #[test]
    fn after_the_time_of_a_burst_a_burst_is_there(
        per_s in per_s(),
        burst_min in 1..200_000_u64,
        jumps in prop::collection::vec((0..1_u64 << 60, any::<u64>()), 0..40),
        at in 0..1_u64 << 60,
    ) {
        let (mut bucket, burst) = bucket(per_s, burst_min, 0);
        for (jump, units) in jumps {
            take(&mut bucket, units, jump);
        }
        take(&mut bucket, 1, at);
        let filled = at + bucket.burst;
        let burst = u64::try_from(burst).unwrap_or(u64::MAX);
        prop_assert!(take(&mut bucket, burst, filled));
        prop_assert!(!take(&mut bucket, burst_min.max(per_s / 1000), filled));
    }

    /// Neither limits nor instants nor lengths overflow anything, at the end of time either, where
    /// what cannot be counted is refused.
    #[test]
    fn extreme_limits_instants_and_lengths_are_refused_or_counted(
        settings in prop::collection::vec(
            (any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..40),
    ) {
        let mut rate = RateLimit::new(Limits::NONE, Instant::ZERO);
        for (bytes_per_s, frames_per_s, at, bytes, frames) in settings {
            let at = Instant::from_nanos(at);
            rate.set(Limits { bytes_per_s, frames_per_s }, at);
            rate.admit_units(bytes, frames, at);
        }
        let end = Instant::from_nanos(u64::MAX);
        let mut rate = RateLimit::new(Limits { bytes_per_s: 1, frames_per_s: 1 }, end);
        prop_assert!(!rate.admit_units(1, 1, end));
    }
}
