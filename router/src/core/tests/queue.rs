//! Who waits, whose turn it is, and who is turned away.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::core::attempt::{Attempt, Step};
use crate::core::cost::Ask;
use crate::core::queue::{Claim, Full, Limits, Queue, Ticket};

const LIMITS: Limits = Limits { requests: 6, of_model: 4, bytes: 1000 };

fn claim(client: &str, priority: i32, tokens: u64) -> Claim {
    Claim { client: client.into(), priority, tokens, bytes: 10, deadline: None }
}

/// A queue and a clock that only the test moves.
struct Waiting {
    queue: Queue,
    now: Instant,
}

impl Waiting {
    fn new(limits: Limits) -> Self {
        Self { queue: Queue::new(limits), now: Instant::now() }
    }

    fn enters(&mut self, model: &str, claim: Claim) -> Result<Ticket, Full> {
        self.queue.enter(model, claim, self.now)
    }

    /// Has the first go to a node.
    fn serves(&mut self, model: &str) -> Option<Ticket> {
        let first = self.queue.first(model, self.now)?;
        self.queue.leave(model, first, true, self.now);
        Some(first)
    }
}

#[test]
fn equals_go_in_the_order_they_came() {
    let mut waiting = Waiting::new(LIMITS);
    let tickets: Vec<_> = (0..3).map(|_| waiting.enters("m", claim("", 0, 5)).expect("room")).collect();
    let served: Vec<_> = (0..3).map(|_| waiting.serves("m").expect("waits")).collect();
    assert_eq!(served, tickets);
    assert_eq!((waiting.serves("m"), waiting.queue.len()), (None, 0));
}

#[test]
fn higher_priorities_go_first_and_lower_ones_rise() {
    let mut waiting = Waiting::new(LIMITS);
    let low = waiting.enters("m", claim("", 0, 5)).expect("room");
    waiting.now += Duration::from_secs(4);
    let high = waiting.enters("m", claim("", 1, 5)).expect("room");
    assert_eq!(waiting.queue.first("m", waiting.now), Some(high));
    waiting.now += Duration::from_secs(1);
    assert_eq!(waiting.queue.first("m", waiting.now), Some(low), "it has risen, and came first");
}

#[test]
fn clients_get_equal_shares_of_tokens_whatever_they_ask_for() {
    let limits = Limits { requests: 1000, of_model: 1000, bytes: usize::MAX };
    let mut waiting = Waiting::new(limits);
    // One asks for much at a time, one for little, and both have more than can be served.
    let mut owner = std::collections::HashMap::new();
    for _ in 0..300 {
        owner.insert(waiting.enters("m", claim("greedy", 0, 400)).expect("room"), 0);
        owner.insert(waiting.enters("m", claim("modest", 0, 100)).expect("room"), 1);
    }
    let mut given = [0_u64; 2];
    for _ in 0..200 {
        let client: usize = owner[&waiting.serves("m").expect("waits")];
        given[client] += [400, 100][client];
    }
    assert!(given[0].abs_diff(given[1]) <= 400, "{given:?}");
}

#[test]
fn a_client_that_was_away_has_saved_nothing_up() {
    let limits = Limits { requests: 100, of_model: 100, bytes: usize::MAX };
    let mut waiting = Waiting::new(limits);
    for _ in 0..20 {
        waiting.enters("m", claim("old", 0, 100)).expect("room");
    }
    for _ in 0..10 {
        waiting.serves("m");
    }
    let new: Vec<_> = (0..5).map(|_| waiting.enters("m", claim("new", 0, 100)).expect("room")).collect();
    let served: Vec<_> = (0..4).map(|_| waiting.serves("m").expect("waits")).collect();
    assert_eq!(served.iter().filter(|it| new.contains(it)).count(), 2, "one after the other");
}

#[test]
fn a_full_queue_says_when_to_try_again_by_the_pace_at_which_it_empties() {
    let mut waiting = Waiting::new(LIMITS);
    for _ in 0..4 {
        waiting.enters("m", claim("", 0, 5)).expect("room");
    }
    let full = waiting.enters("m", claim("", 0, 5)).expect_err("of one model");
    assert_eq!(full.why, "4 requests for 'm' wait already");
    // One leaves every three seconds.
    for _ in 0..10 {
        waiting.serves("m");
        waiting.now += Duration::from_secs(3);
        waiting.enters("m", claim("", 0, 5)).expect("room again");
    }
    let full = waiting.enters("m", claim("", 0, 5)).expect_err("full again");
    assert_eq!(full.seconds(), 15, "four before it");
    assert_eq!(waiting.queue.full(), None);
    for _ in 0..2 {
        waiting.enters("n", claim("", 0, 5)).expect("another model has room");
    }
    assert_eq!(waiting.enters("o", claim("", 0, 5)).expect_err("over all").why, "6 requests wait already");
    assert_eq!(waiting.queue.full().expect("full").seconds(), 15);
}

#[test]
fn bytes_are_bounded_and_one_large_request_may_wait_alone() {
    let mut waiting = Waiting::new(LIMITS);
    let large = Claim { bytes: 5000, ..claim("", 0, 5) };
    let ticket = waiting.enters("m", large.clone()).expect("alone");
    assert!(waiting.enters("m", claim("", 0, 5)).is_err());
    waiting.queue.leave("m", ticket, false, waiting.now);
    waiting.enters("m", claim("", 0, 5)).expect("room");
    assert!(waiting.enters("m", large).is_err(), "beside another");
}

#[test]
fn a_request_whose_turn_would_come_too_late_does_not_wait() {
    let mut waiting = Waiting::new(LIMITS);
    let hurried = |now: Instant, seconds| Claim {
        deadline: Some(now + Duration::from_secs(seconds)),
        ..claim("", 0, 5)
    };
    for _ in 0..3 {
        waiting.enters("m", claim("", 0, 5)).expect("room");
    }
    waiting.serves("m");
    waiting.now += Duration::from_secs(10);
    waiting.serves("m");
    let full = waiting.enters("m", hurried(waiting.now, 15)).expect_err("too late");
    assert_eq!(full.why, "its turn would come in 20 s, after the time it was given");
    waiting.enters("m", hurried(waiting.now, 25)).expect("in time");
}

#[test]
fn a_request_waits_for_room_and_for_its_turn() {
    let mut world = World::with(&["a"]);
    let mut state = ready(0);
    state.workers[0].models[0].max_running = 1;
    world.hears("a", state);
    let next = |world: &World, held_back| {
        let mut attempt = Attempt::new("m", Duration::from_secs(30));
        attempt.hold_back(held_back, 0);
        attempt.next(&world.fleet, world.now)
    };
    assert_eq!(next(&world, false), Step::Generate(id("a")));
    assert_eq!(next(&world, true), Step::Queue, "it is another's turn");
    // One runs, one waits on the node to follow it at once.
    let picks: Vec<_> = (0..2)
        .map(|_| world.fleet.pick(&id("a"), ("m", Ask::default()), world.now).expect("alive"))
        .collect();
    assert_eq!(next(&world, false), Step::Queue);
    world.fleet.release(&picks[0], world.now);
    assert_eq!(next(&world, false), Step::Generate(id("a")));
}

#[test]
fn a_request_that_has_begun_goes_on_where_there_is_no_room() {
    let mut world = World::with(&["a", "b"]);
    for node in ["a", "b"] {
        let mut state = ready(0);
        state.workers[0].models[0].max_running = 1;
        world.hears(node, state);
    }
    let mut attempt = Attempt::new("m", Duration::from_secs(30));
    assert_eq!(attempt.next(&world.fleet, world.now), Step::Generate(id("a")));
    for _ in 0..2 {
        world.fleet.pick(&id("b"), ("m", Ask::default()), world.now).expect("alive");
    }
    attempt.on(Happening::Lost("reset".into()), &world.fleet, world.now);
    attempt.hold_back(true, 0);
    assert_eq!(attempt.next(&world.fleet, world.now), Step::Generate(id("b")));
}

proptest! {
    /// Whatever comes and goes, the books are right and nobody is forgotten.
    #[test]
    fn everybody_who_waits_is_served_once(acts in prop::collection::vec((0..4_u8, 0..5_u8, -3..3_i32), 1..200)) {
        let mut waiting = Waiting::new(LIMITS);
        let mut expected = std::collections::BTreeSet::new();
        for (act, client, priority) in acts {
            waiting.now += Duration::from_millis(700);
            match act {
                0 | 1 => {
                    let entered = waiting.enters("m", claim(&client.to_string(), priority, 7));
                    prop_assert_eq!(entered.is_ok(), expected.len() < LIMITS.of_model);
                    expected.extend(entered);
                }
                2 => {
                    let served = waiting.serves("m");
                    prop_assert_eq!(served.is_some(), !expected.is_empty());
                    served.into_iter().for_each(|ticket| assert!(expected.remove(&ticket), "served twice"));
                }
                _ => {
                    let gone = expected.pop_first();
                    gone.into_iter().for_each(|ticket| waiting.queue.leave("m", ticket, false, waiting.now));
                }
            }
            prop_assert_eq!(waiting.queue.len(), expected.len());
        }
        while let Some(served) = waiting.serves("m") {
            assert!(expected.remove(&served));
        }
        prop_assert!(expected.is_empty() && waiting.queue.len() == 0);
    }
}
