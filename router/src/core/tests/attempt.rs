//! What a failure means at each point of a request's life.

use std::time::Duration;

use mlxcel_protocol::v1::FailureKind;

use super::*;
use crate::core::attempt::{Attempt, FIRST_PAUSE, Happening, MOST_CRASHES, Step, Verdict};
use crate::core::refusal::Refusal;

const PATIENCE: Duration = Duration::from_secs(30);

fn attempt() -> Attempt {
    Attempt::new("m", PATIENCE)
}

fn failed(kind: FailureKind) -> Happening {
    Happening::Failed(kind, "words of the node".into())
}

fn is_retry(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Retry(_))
}

impl World {
    fn step(&self, attempt: &mut Attempt) -> Step {
        attempt.next(&self.fleet, self.now)
    }

    fn tell(&self, attempt: &mut Attempt, happening: Happening) -> Verdict {
        attempt.on(happening, &self.fleet, self.now)
    }
}

#[test]
fn undisturbed_request_goes_through() {
    let world = World::with(&["a"]);
    let mut attempt = attempt();
    assert_eq!(world.step(&mut attempt), Step::Generate(id("a")));
    assert_eq!(world.tell(&mut attempt, started()), Verdict::Hold);
    assert_eq!(world.tell(&mut attempt, Happening::Delta), Verdict::Forward);
    assert_eq!(world.tell(&mut attempt, Happening::Finished), Verdict::Forward);
}

#[test]
fn failure_before_the_first_token_is_retried_elsewhere_unless_the_request_is_wrong() {
    for begun in [false, true] {
        for kind in [
            FailureKind::Overloaded,
            FailureKind::Draining,
            FailureKind::WorkerLost,
            FailureKind::ModelNotFound,
            FailureKind::Internal,
        ] {
            let world = World::with(&["a", "b"]);
            let mut attempt = attempt();
            assert_eq!(world.step(&mut attempt), Step::Generate(id("a")));
            if begun {
                world.tell(&mut attempt, started());
            }
            assert!(is_retry(&world.tell(&mut attempt, failed(kind))), "{kind:?}");
            assert_eq!(world.step(&mut attempt), Step::Generate(id("b")), "{kind:?}");
        }
    }
}

#[test]
fn wrong_request_is_never_retried() {
    for begun in [false, true] {
        let world = World::with(&["a", "b"]);
        let mut attempt = attempt();
        world.step(&mut attempt);
        if begun {
            world.tell(&mut attempt, started());
        }
        let verdict = world.tell(&mut attempt, failed(FailureKind::InvalidRequest));
        assert_eq!(verdict, Verdict::Fail(Refusal::Invalid("words of the node".into())));
    }
}

#[test]
fn a_deadline_that_passed_on_one_node_has_passed_on_all() {
    for streamed in [false, true] {
        let world = World::with(&["a", "b"]);
        let mut attempt = attempt();
        world.step(&mut attempt);
        if streamed {
            world.tell(&mut attempt, Happening::Delta);
        }
        let verdict = world.tell(&mut attempt, failed(FailureKind::DeadlineExceeded));
        assert_eq!(verdict, Verdict::Fail(Refusal::DeadlineExceeded("words of the node".into())));
    }
}

#[test]
fn failure_after_output_goes_on_elsewhere() {
    let happenings =
        [FailureKind::Overloaded, FailureKind::Draining, FailureKind::WorkerLost, FailureKind::Internal]
            .map(failed)
            .into_iter()
            .chain([Happening::Lost("reset".into())]);
    for happening in happenings {
        let world = World::with(&["a", "b"]);
        let mut attempt = attempt();
        world.step(&mut attempt);
        world.tell(&mut attempt, Happening::Delta);
        assert!(is_retry(&world.tell(&mut attempt, happening.clone())), "{happening:?}");
        assert_eq!(world.step(&mut attempt), Step::Generate(id("b")), "{happening:?}");
    }
}

#[test]
fn crashes_with_output_between_them_are_not_the_request_s_doing() {
    let world = World::with(&["a", "b", "c", "d"]);
    let mut attempt = attempt();
    for _ in 0..=MOST_CRASHES {
        let Step::Generate(_) = world.step(&mut attempt) else { break };
        world.tell(&mut attempt, Happening::Delta);
        assert!(is_retry(&world.tell(&mut attempt, failed(FailureKind::WorkerLost))));
    }
}

#[test]
fn lost_node_is_asked_again_only_once_it_has_returned() {
    let mut world = World::with(&["a"]);
    let mut attempt = attempt();
    world.step(&mut attempt);
    world.loses("a");
    assert!(is_retry(&world.tell(&mut attempt, Happening::Lost("reset".into()))));
    assert!(matches!(world.step(&mut attempt), Step::Wait(Some(_))));
    world.waits(FIRST_PAUSE);
    assert!(matches!(world.step(&mut attempt), Step::Wait(Some(_))));
    world.hears("a", ready(0));
    assert_eq!(world.step(&mut attempt), Step::Generate(id("a")));
}

#[test]
fn broken_stream_of_a_living_node_waits_for_its_next_report() {
    let mut world = World::with(&["a"]);
    let mut attempt = attempt();
    world.step(&mut attempt);
    world.tell(&mut attempt, Happening::Lost("reset".into()));
    world.waits(FIRST_PAUSE);
    assert!(matches!(world.step(&mut attempt), Step::Wait(Some(_))));
    world.hears("a", ready(0));
    assert_eq!(world.step(&mut attempt), Step::Generate(id("a")));
}

#[test]
fn busy_node_is_asked_again_after_a_growing_pause() {
    let mut world = World::with(&["a"]);
    let mut attempt = attempt();
    for pause in [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4] {
        assert_eq!(world.step(&mut attempt), Step::Generate(id("a")));
        world.tell(&mut attempt, failed(FailureKind::Overloaded));
        assert_eq!(world.step(&mut attempt), Step::Wait(Some(world.now + pause)));
        world.waits(pause);
    }
}

#[test]
fn patience_counts_waiting_only() {
    let mut world = World::with(&["a"]);
    let mut attempt = attempt();
    world.step(&mut attempt);
    // A long prefill, then the node is lost: the whole patience is left.
    world.waits(Duration::from_secs(600));
    world.loses("a");
    world.tell(&mut attempt, Happening::Lost("reset".into()));
    assert!(matches!(world.step(&mut attempt), Step::Wait(_)));
    world.waits(PATIENCE - Duration::from_millis(1));
    let deadline = world.now + Duration::from_millis(1);
    assert_eq!(world.step(&mut attempt), Step::Wait(Some(deadline)));
    world.waits(Duration::from_millis(1));
    let step = world.step(&mut attempt);
    assert!(matches!(step, Step::Refuse(Refusal::NoNode { .. })), "{step:?}");
}

#[test]
fn patience_is_not_renewed_by_a_try() {
    let mut world = World::with(&["a"]);
    let mut attempt = attempt();
    let mut waited = Duration::ZERO;
    loop {
        match world.step(&mut attempt) {
            Step::Generate(_) => {
                world.tell(&mut attempt, failed(FailureKind::Overloaded));
            }
            Step::Wait(Some(until)) => {
                waited += until - world.now;
                world.now = until;
            }
            Step::Refuse(refusal) => {
                assert_eq!(refusal, Refusal::Overloaded("words of the node".into()));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waited, PATIENCE);
}

#[test]
fn without_any_node_a_request_waits_before_it_gives_up() {
    let mut world = World::with(&[]);
    let mut attempt = attempt();
    assert_eq!(world.step(&mut attempt), Step::Wait(Some(world.now + PATIENCE)));
    world.waits(PATIENCE);
    let Step::Refuse(refusal) = world.step(&mut attempt) else { panic!("patience is over") };
    assert_eq!(refusal.to_string(), "no node could serve 'm' within 30 s: no node is connected");
}

#[test]
fn model_nobody_knows_is_refused_at_once() {
    let world = World::with(&["a"]);
    let mut attempt = Attempt::new("gpt", PATIENCE);
    let Step::Refuse(refusal) = world.step(&mut attempt) else { panic!("nobody knows it") };
    assert_eq!(refusal.to_string(), "the model 'gpt' does not exist; served: m");
}

#[test]
fn load_is_waited_for_beyond_patience() {
    let mut world = World::with(&[]);
    world.hears("a", loadable());
    let mut attempt = attempt();
    assert_eq!(world.step(&mut attempt), Step::Load(id("a")));
    world.fleet.load_begins(&id("a"), "m");
    world.waits(PATIENCE * 10);
    assert_eq!(world.step(&mut attempt), Step::Wait(None));
    world.fleet.load_ends(&id("a"), "m", None, world.now);
    assert_eq!(world.step(&mut attempt), Step::Generate(id("a")));
}

#[test]
fn request_that_crashes_worker_after_worker_is_given_up() {
    let world = World::with(&["a", "b", "c", "d"]);
    let mut attempt = attempt();
    for crash in 1..=MOST_CRASHES {
        assert!(matches!(world.step(&mut attempt), Step::Generate(_)));
        world.tell(&mut attempt, started());
        let verdict = world.tell(&mut attempt, failed(FailureKind::WorkerLost));
        match crash < MOST_CRASHES {
            true => assert!(is_retry(&verdict)),
            false => {
                let message = "words of the node".into();
                assert_eq!(verdict, Verdict::Fail(Refusal::Crashes { times: MOST_CRASHES, message }));
            }
        }
    }
}

#[test]
fn engine_failure_on_every_node_is_told_at_once() {
    let world = World::with(&["a", "b"]);
    let mut attempt = attempt();
    for _ in 0..2 {
        assert!(matches!(world.step(&mut attempt), Step::Generate(_)));
        world.tell(&mut attempt, failed(FailureKind::Internal));
    }
    let told = Refusal::Internal("words of the node".into());
    assert_eq!(world.step(&mut attempt), Step::Refuse(told));
}

#[test]
fn what_comes_after_the_end_changes_nothing() {
    let world = World::with(&["a"]);
    let mut attempt = attempt();
    world.step(&mut attempt);
    world.tell(&mut attempt, Happening::Finished);
    for late in [Happening::Delta, Happening::Finished, Happening::Lost("reset".into())] {
        assert_eq!(world.tell(&mut attempt, late), Verdict::Hold);
    }
}
