//! Many runs on several threads, one thread a seed, and what came of them.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::link::Faults;
use super::model::Violation;
use super::plant::Plant;
use super::run::{SECOND, run};
use super::world::{Done, Ring};

/// What came of many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Simulated nanoseconds.
    pub time: u64,
    /// What was done.
    pub done: Done,
    /// What went wrong on purpose.
    pub faults: Faults,
    /// Slowest recovery.
    pub recovery: u64,
    /// The first violation by seed.
    pub failed: Option<(u64, Violation)>,
}

impl Summary {
    /// Adds another summary.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.time += other.time;
        self.done.events += other.done.events;
        self.done.frames += other.done.frames;
        self.done.delivered += other.done.delivered;
        self.faults.add(&other.faults);
        self.recovery = self.recovery.max(other.recovery);
        self.failed = self.failed.take().or(other.failed);
    }

    /// Says in a line what was done in so much real time.
    #[must_use]
    pub fn describe(&self, took: Duration) -> String {
        let hours = self.time as f64 / (3600 * SECOND) as f64;
        let Done { events, frames, delivered } = self.done;
        let rate = events as f64 / took.as_secs_f64().max(0.001);
        let recovery = self.recovery as f64 / SECOND as f64;
        format!(
            "{} seeds, {hours:.1} simulated hours, {events} events ({rate:.0}/s), {frames} frames, \
             {delivered} delivered, slowest recovery {recovery:.0} s, {:?}",
            self.runs, self.faults
        )
    }
}

/// Runs seeds, one thread each of so many, until all are done or one fails.
#[must_use]
pub fn many(seeds: Range<u64>, threads: usize, ring: Ring, plant: Option<Plant>) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = run(seed, ring, plant);
            let mut summary = summary.lock().expect("no run panics with the lock");
            let failed = outcome.violation.map(|violation| (seed, violation));
            let later = summary.failed.take_if(|(earlier, _)| failed.is_some() && seed < *earlier);
            drop(later);
            stop.fetch_or(failed.is_some(), Ordering::Relaxed);
            summary.add(Summary {
                runs: 1,
                time: outcome.time,
                done: outcome.done,
                faults: outcome.faults,
                recovery: outcome.recovery,
                failed,
            });
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    summary.into_inner().expect("no run panics with the lock")
}
