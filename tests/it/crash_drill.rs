//! The real binary under load, killed and started again: nothing acknowledged is lost, no wrong byte is served, no byte of the
//! disk is miscounted. `cargo bench --bench crash` does the same a thousand times.

use entrepot::fault::CRASH_POINTS;
use futures::future::join_all;

use crate::support::drill::{Dice, Drill, Kill};

/// What the clients do and where the process dies follows from it; who comes first at which moment does not.
const SEED: u64 = 20;
const ROUNDS: usize = 50;
/// How many of them at least are killed at no named point.
const ANYTIME_MIN: usize = 12;
/// Servers that are killed side by side, each at points of its own: a round is mostly waiting.
const DRILLS: usize = 3;
/// Rounds that a point is given.
const ATTEMPTS: usize = 10;
/// No client of the drill leaves a fill alone, and only luck has a piece written before the one that it follows: tests of
/// `crash` come to these, and those of `acme` to where a certificate is issued.
const ELSEWHERE: [&str; 6] = [
    "fill: left to be continued",
    "fill: written ahead",
    "acme: account kept",
    "acme: order kept",
    "acme: order finalized",
    "acme: certificate kept",
];

fn assert_sound(drill: &Drill, seed: u64, kill: Kill) {
    assert!(drill.tally.is_sound(), "seed {seed}, after {kill:?}: {:#?}", drill.tally);
}

#[tokio::test]
async fn a_crash_at_any_named_point_loses_nothing_that_was_acknowledged() {
    let points: Vec<&str> = CRASH_POINTS.iter().copied().filter(|point| !ELSEWHERE.contains(point)).collect();
    let drills = (0..DRILLS).map(|number| crash_at(points.iter().copied().skip(number).step_by(DRILLS)));
    let survived = join_all(drills).await.concat();
    assert!(survived.is_empty(), "the load does not come to {survived:?}");
}

/// Kills a server at each of these points; returns those that nothing came to.
async fn crash_at(points: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let (mut dice, mut drill) = (Dice::new(SEED), Drill::new(SEED).await);
    let mut survived = Vec::new();
    for point in points {
        if point.starts_with("start: ") {
            // Of a store that is made by this very start.
            let mut fresh = Drill::new(SEED).await;
            fresh.round(Kill::At(point, 1)).await;
            assert_sound(&fresh, SEED, Kill::At(point, 1));
            survived.extend((fresh.tally.survived > 0).then_some(point));
            continue;
        }
        let mut is_survived = true;
        // Which of the rarer points a round comes to depends on who comes first.
        for attempt in 0..ATTEMPTS {
            let nth = if attempt > 0 || point.starts_with("stop: ") { 1 } else { 1 + dice.below(2) };
            let before = drill.tally.survived;
            drill.round(Kill::At(point, nth)).await;
            assert_sound(&drill, SEED, Kill::At(point, nth));
            is_survived = drill.tally.survived > before;
            if !is_survived {
                break;
            }
        }
        survived.extend(is_survived.then_some(point));
    }
    println!("seed {SEED}: {:#?}", drill.tally);
    survived
}

#[tokio::test]
async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let seed = SEED + 1;
    let mut drill = Drill::new(seed).await;
    for _ in 0..ROUNDS.saturating_sub(CRASH_POINTS.len()).max(ANYTIME_MIN) {
        drill.round(Kill::Anytime).await;
        assert_sound(&drill, seed, Kill::Anytime);
    }
    println!("seed {seed}: {:#?}", drill.tally);
    assert!(drill.tally.acknowledged > 50, "the load was none: {:#?}", drill.tally);
}
