//! A thousand lives and deaths of the real binary: under load, killed at named points and at any moment, started again, held
//! against what it had acknowledged, what its upstream has, and its disk.
//!
//! `cargo bench --bench crash --profile dev -- [ROUNDS [SEED]]`; a release build has no named points and is killed at any moment
//! only. `TMPDIR` says where the stores lie, which is memory otherwise. Ends with 1 if anything was lost, wrong or miscounted.
#![expect(clippy::disallowed_methods, reason = "a benchmark owns its files and processes")]

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
mod support;

use std::process::ExitCode;
use std::time::Instant;

#[cfg(debug_assertions)]
use entrepot::fault::CRASH_POINTS;
use support::drill::{Dice, Drill, Kill, Tally};

#[cfg(not(debug_assertions))]
const CRASH_POINTS: &[&str] = &[];

const ROUNDS: usize = 1000;
/// Rounds over one store: what was pushed grows with them.
const ROUNDS_PER_STORE: usize = 50;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Cargo itself passes `--bench`.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (rounds, seed) = (numbers.next().unwrap_or(ROUNDS), numbers.next().unwrap_or(1) as u64);
    println!("{rounds} rounds, seed {seed}, {} named points", CRASH_POINTS.len());
    let (started, mut dice, mut total) = (Instant::now(), Dice::new(seed), Tally::default());
    for first in (0..rounds).step_by(ROUNDS_PER_STORE) {
        let mut drill = Drill::new(seed + first as u64).await;
        for round in first..rounds.min(first + ROUNDS_PER_STORE) {
            let kill = match CRASH_POINTS.len() {
                n if n > 0 && round % 4 != 0 => Kill::At(CRASH_POINTS[dice.below(n)], 1 + dice.below(3)),
                _ => Kill::Anytime,
            };
            drill.round(kill).await;
            if !drill.tally.is_sound() {
                println!("round {round}, seed {}, {kill:?}: {:#?}", seed + first as u64, drill.tally);
            }
        }
        total.add(std::mem::take(&mut drill.tally));
        // Whoever ends it early knows what it found by then.
        println!("{}", so_far(&total, started));
    }
    for (point, kills) in &total.kills {
        println!("  killed {point}: {kills}");
    }
    println!("  ended in good order, the point not come to: {}", total.survived);
    println!("{}", so_far(&total, started));
    if total.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn so_far(total: &Tally, started: Instant) -> String {
    let Tally { rounds, acknowledged, continued, .. } = total;
    format!(
        "{rounds} rounds in {:.0} s: {} kills, acknowledged changes {acknowledged}, partial fills continued {continued}, \
         lost pushes {}, wrong bytes {}, drift {}, errors of the server {}",
        started.elapsed().as_secs_f64(),
        total.kills.values().sum::<usize>(),
        total.lost.len(),
        total.wrong_bytes.len(),
        total.drift.len(),
        total.refused.len(),
    )
}
