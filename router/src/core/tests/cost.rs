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
