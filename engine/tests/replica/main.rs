//! Replicas of real processes over TCP: they answer what one device answers, and end when a rank does.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests")]

mod member;
mod processes;

use std::time::{Duration, Instant};

use processes::Replica;

/// Stages, each with its number of ranks.
const DIVISIONS: [&[usize]; 6] = [&[2], &[3], &[1, 1], &[1, 1, 1], &[2, 2], &[2, 1]];

#[test]
fn answers_are_the_same_however_the_model_is_divided() {
    let alone = Replica::start(&[1]).ask("answers");
    assert!(
        alone.len() == member::PROMPTS.len() && alone.iter().all(|answer| answer.contains("Finished")),
        "{alone:?}"
    );
    for division in DIVISIONS {
        let divided = Replica::start(division).ask("answers");
        assert_eq!(divided, alone, "{division:?}");
    }
}

#[test]
fn answers_of_a_model_with_states_are_the_same_however_it_is_divided() {
    let dir = std::env::var_os("MLXCEL_PARITY_DIR");
    let dir = dir.expect("MLXCEL_PARITY_DIR names what parity/generate.py wrote; `./x test` sets it");
    let model = std::path::Path::new(&dir).join("lfm2");
    let alone = Replica::of(&model, &[1]).ask("answers");
    assert!(alone.iter().all(|answer| answer.contains("Finished")), "{alone:?}");
    for division in [&[2][..], &[1, 1], &[2, 2], &[1, 1, 1]] {
        assert_eq!(Replica::of(&model, division).ask("answers"), alone, "{division:?}");
    }
}

#[test]
fn a_rank_of_four_holds_little_more_than_a_quarter_of_the_weights() {
    let whole = Replica::start(&[1]).weight_bytes()[0] as f64;
    let shares: Vec<f64> =
        Replica::start(&[4]).weight_bytes().iter().map(|bytes| *bytes as f64 / whole).collect();
    // Nine heads are not for four ranks alike, and three KV heads are held by four.
    assert!(shares.iter().all(|share| *share < 0.30), "{shares:?}");
}

/// Ends a rank by `signal` in the middle of an answer; what the leader says of it, and how long that took.
fn lose(division: &[usize], rank: usize, signal: &str) -> (String, Duration) {
    let mut replica = Replica::start(division);
    replica.begin("endless");
    replica.signal(rank, signal);
    let begun = Instant::now();
    // The leader's own notice may come first.
    let of_request = std::iter::repeat_with(|| replica.next_line()).find(|line| !line.starts_with("ended: "));
    (of_request.expect("lines go on"), begun.elapsed())
}

#[test]
fn requests_end_as_lost_when_a_rank_is_killed() {
    for (division, rank) in [(&[2][..], 1), (&[1, 1], 0), (&[2, 1], 1)] {
        let (said, took) = lose(division, rank, "-KILL");
        assert!(
            said.contains(&format!("Lost(\"rank {rank} of the replica was lost")),
            "{division:?}: {said}"
        );
        assert!(took < Duration::from_secs(2), "{division:?}: {took:?}");
    }
}

#[test]
fn requests_end_as_lost_when_a_rank_stops() {
    let (said, took) = lose(&[2], 1, "-STOP");
    assert!(said.contains("Lost(\"rank 1 of the replica was lost"), "{said}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn nothing_is_told_of_what_was_computed_after_a_loss() {
    let whole = Replica::start(&[1, 1, 1]).ask("long");
    let (_, undisturbed) = whole[0].split_once(' ').expect("how it ended, and the text");
    // The stage between goes on for a moment with what it has.
    for signal in ["-STOP", "-KILL"] {
        let (said, _) = lose(&[1, 1, 1], 0, signal);
        let (_, told) = said.split_once("after ").expect("the text");
        let told = told.trim_matches('"');
        assert!(undisturbed.trim_matches('"').starts_with(told), "{signal}: {told} of {undisturbed}");
    }
}

#[test]
fn every_rank_learns_that_one_is_lost_while_nothing_is_asked() {
    // Rank 2 leads.
    for lost in [0, 1, 2] {
        let mut replica = Replica::start(&[2, 1]);
        replica.signal(lost, "-KILL");
        let begun = Instant::now();
        for (rank, said) in replica.last_words(lost) {
            assert!(said.contains("ended: rank "), "rank {rank}: {said}");
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}
