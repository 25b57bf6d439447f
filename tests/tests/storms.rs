//! Guests that send as fast as they can: the others keep their share, memory stays, and the host of
//! their seller tracks none of it (G12, G14, R01, R02, R04, R11).

use std::time::Duration;

use anyhow::{Result, ensure};
use overlay_tests::storm::{Kind, Scene, Weather};

/// How long each storm lasts, in seconds, unless [`SECS`] says otherwise.
const SECS_DEFAULT: u64 = 3;
/// The environment variable that says so.
const SECS: &str = "OVERLAY_STORM_SECS";
/// What others keep of a steady flow: 0.9 is the goal, this is on a machine that is busy besides.
const SHARE_MIN: f64 = 0.5;
/// What a storm may add to the memory of five programs, in bytes.
const GROWTH_MAX: i64 = 24 << 20;
/// A storm is one only from so many frames a second on.
const RATE_MIN: f64 = 10_000.0;
/// What the buyer allows a guest when he wants the others of his order to keep their share of him.
const LIMIT: &str = "20M";

/// Asserts what holds in every storm.
fn holds(weather: &Weather) -> Result<()> {
    let said = weather.describe();
    ensure!(weather.rate >= RATE_MIN, "no storm: {said}");
    ensure!(weather.shares()[1] >= SHARE_MIN, "the other order suffers: {said}");
    ensure!(weather.grown_len <= GROWTH_MAX, "memory grows: {said}");
    ensure!(weather.tracked.unwrap_or(0) == 0, "the seller's host tracks it: {said}");
    Ok(())
}

#[test]
fn storms_of_one_guest_leave_the_others_their_share() -> Result<()> {
    let secs = std::env::var(SECS).ok().and_then(|secs| secs.parse().ok());
    let time = Duration::from_secs(secs.unwrap_or(SECS_DEFAULT));
    let mut scene = Scene::set()?;
    // Without a connection table there is nothing to see in it.
    let plain = scene.plain_is_tracked()?;
    ensure!(plain != Some(0), "a plain guest's flows are not seen in the connection table");
    let calm = scene.calm(time)?;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        let weather = scene.weather(kind, calm, time)?;
        eprintln!("{}", weather.describe());
        all.push(weather);
    }
    scene.limit(LIMIT)?;
    let limited = scene.weather(Kind::Small, calm, time)?;
    eprintln!("limited to {LIMIT}: {}", limited.describe());
    for weather in all.iter().chain([&limited]) {
        holds(weather)?;
    }
    // Frames that are the buyer's to take, the buyer is to limit: without that they share what he
    // can take as it comes.
    let own = all.iter().filter(|weather| weather.kind != Kind::Small);
    for weather in own.chain([&limited]) {
        let said = weather.describe();
        ensure!(weather.shares()[0] >= SHARE_MIN, "others of the order suffer: {said}");
    }
    Ok(())
}
