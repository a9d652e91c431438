//! What measurements say of a node.

use std::time::Duration;

use super::*;
use crate::core::cost::{Ask, Habit, Need, Work, completion};
use crate::core::speed::Speed;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A node that has given many answers: a millisecond a token of a prompt, and of an answer as `gap` says, by the sequences beside.
fn speed(gap: impl Fn(u32) -> Duration) -> Speed {
    let mut speed = Speed::default();
    for answer in 0..200 {
        let beside = answer % 8;
        speed.learn((1000.0, ms(1000)), (101, gap(beside) * 100), f64::from(beside));
    }
    speed
}

fn near(time: Option<Duration>, expected: Duration) -> bool {
    time.is_some_and(|time| time.abs_diff(expected) < expected / 20)
}

#[test]
fn the_first_answer_of_a_node_says_nothing() {
    let mut speed = Speed::default();
    speed.learn((1000.0, ms(90_000)), (101, ms(9000)), 0.0);
    assert_eq!((speed.prefill(1), speed.gap()), (None, None));
    speed.learn((1000.0, ms(1000)), (101, ms(1000)), 0.0);
    assert_eq!((speed.prefill(1), speed.gap()), (Some(ms(1)), Some(ms(10))));
}

#[test]
fn what_sequences_cost_each_other_is_learned() {
    let alone = speed(|_| ms(10));
    assert!(near(alone.gap_beside(0), ms(10)) && near(alone.gap_beside(20), ms(10)));
    let sharing = speed(|beside| ms(10) * (beside + 1));
    assert!(near(sharing.gap_beside(0), ms(10)), "{:?}", sharing.gap_beside(0));
    assert!(near(sharing.gap_beside(15), ms(160)), "{:?}", sharing.gap_beside(15));
}

#[test]
fn completion_is_what_is_there_before_and_the_request_itself() {
    let speed = speed(|_| ms(10));
    let need = Need { prompt_tokens: 500.0, answer_tokens: 100.0 };
    let idle = Work { slots: 4, ..Work::default() };
    assert!(near(completion(&speed, &idle, need), ms(1500)));
    let prompts = Work { prefill_tokens: 2000.0, sequences: 2, ..idle };
    assert!(near(completion(&speed, &prompts, need), ms(3500)));
    // Four run, each of a second: one ends in a quarter of it, the next in another.
    let full = Work { decode_tokens: 400.0, sequences: 4, ..idle };
    assert!(near(completion(&speed, &full, need), ms(1750)));
    let queue = Work { decode_tokens: 500.0, sequences: 5, ..idle };
    assert!(near(completion(&speed, &queue, need), ms(2000)));
    assert_eq!(completion(&Speed::default(), &idle, need), None);
}

#[test]
fn what_requests_are_like_is_learned_and_bounded_by_what_they_say() {
    let mut habit = Habit::default();
    let ask = Ask { bytes: 6000, ..Ask::default() };
    for _ in 0..200 {
        habit.learn(ask, 1000, 50);
    }
    let need = habit.expect(ask);
    assert!(
        (need.prompt_tokens - 1000.0).abs() < 10.0 && (need.answer_tokens - 50.0).abs() < 1.0,
        "{need:?}"
    );
    let short = habit.expect(Ask { max_tokens: 10, choices: 2, had: 0.5, ..ask });
    assert!((short.prompt_tokens - 500.0).abs() < 5.0, "{short:?}");
    assert!((short.answer_tokens - 20.0).abs() < 0.1, "{short:?}");
}

#[test]
fn a_node_that_was_slow_is_tried_again_in_the_end() {
    let mut world = World::with(&["a", "b"]);
    let figures = |micros| mlxcel_protocol::v1::Finished {
        prompt_tokens: 100,
        prefill_micros: micros,
        completion_tokens: 11,
        decode_micros: micros,
        ..Default::default()
    };
    let mut on_b = 0;
    for request in 0..5000 {
        let mut attempt = crate::core::attempt::Attempt::new("m", Duration::from_secs(30));
        let crate::core::attempt::Step::Generate(node) = attempt.next(&world.fleet, world.now) else {
            panic!("both are free")
        };
        let pick = world.fleet.pick(&node, ("m", attempt.ask()), world.now).expect("alive");
        let is_b = node == id("b");
        on_b += u32::from(is_b);
        // It was busy with something else for a while.
        world.fleet.learn(&pick, &figures(if is_b && request < 1000 { 900_000 } else { 1000 }));
        world.fleet.release(&pick, world.now);
    }
    assert!(on_b > 20, "{on_b}");
}

/// A node that runs one request at a time and has two, ten times as fast as one with nothing to do.
#[test]
fn a_slow_node_is_used_once_the_queue_is_longer_than_it_is_slow() {
    let mut world = World::with(&["fast", "slow"]);
    for (node, millis) in [("fast", 10), ("slow", 100)] {
        let mut state = ready(0);
        state.workers[0].models[0].max_running = 1;
        world.hears(node, state);
        for _ in 0..2 {
            let pick = world.fleet.pick(&id(node), ("m", Ask::default()), world.now).expect("alive");
            let finished = mlxcel_protocol::v1::Finished {
                completion_tokens: 101,
                decode_micros: 100 * millis * 1000,
                ..Default::default()
            };
            world.fleet.learn(&pick, &finished);
            world.fleet.release(&pick, world.now);
        }
    }
    for _ in 0..2 {
        world.fleet.pick(&id("fast"), ("m", Ask::default()), world.now).expect("alive");
    }
    let step = |queued| {
        let mut attempt = crate::core::attempt::Attempt::new("m", Duration::from_secs(30));
        attempt.hold_back(false, queued);
        attempt.next(&world.fleet, world.now)
    };
    use crate::core::attempt::Step;
    assert_eq!(step(0), Step::Queue, "the fast one is done sooner, with two before it");
    assert_eq!(step(5), Step::Queue);
    assert_eq!(step(9), Step::Generate(id("slow")));
}

/// How long a choice takes, by nodes; run by hand: `cargo test --release -p mlxcel-router choice_takes -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn choice_takes() {
    for nodes in [1, 10, 100, 1000] {
        let mut world = World::with(&[]);
        for node in 0..nodes {
            let name = format!("{node:064}");
            world.hears(&name, ready(0));
            for _ in 0..2 {
                let pick = world.fleet.pick(&id(&name), ("m", Ask::default()), world.now).expect("alive");
                let finished = mlxcel_protocol::v1::Finished {
                    completion_tokens: 101,
                    decode_micros: 1_000_000,
                    ..Default::default()
                };
                world.fleet.learn(&pick, &finished);
                world.fleet.release(&pick, world.now);
            }
        }
        for bytes in [400, 16_000, 128_000] {
            let text = "x".repeat(bytes);
            let began = Instant::now();
            for _ in 0..200 {
                let cuts = crate::core::prefixes::Cuts::new("m", &[text.as_bytes()]);
                let ask = Ask { bytes, ..Ask::default() };
                let mut attempt =
                    crate::core::attempt::Attempt::new("m", Duration::from_secs(30)).asking(ask, cuts);
                let crate::core::attempt::Step::Generate(node) = attempt.next(&world.fleet, world.now) else {
                    panic!("all are free")
                };
                let pick = world.fleet.pick(&node, ("m", attempt.ask()), world.now).expect("alive");
                world.fleet.note(attempt.cuts(), &node);
                world.fleet.release(&pick, world.now);
            }
            println!("{nodes} nodes, {bytes} bytes: {:?}", began.elapsed() / 200);
        }
    }
}
