//! When a stream leaves a node that is not lost, and when it does not.

use std::time::Duration;

use mlxcel_protocol::v1::{Finished, WorkerState};

use super::*;
use crate::core::attempt::{Attempt, Step, Verdict, Watch};
use crate::core::cost::Ask;
use crate::core::fleet::Pick;
use crate::core::member::STALL;
use crate::core::watchdog::MOST_MOVES;

const PATIENCE: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_millis(150);

/// A request on its way, watched as the relay does.
struct Stream {
    attempt: Attempt,
    pick: Option<Pick>,
    look_at: Instant,
    moves: u32,
}

impl World {
    /// Nodes that beat, and one request sent to one of them.
    fn with_stream(nodes: &[&str]) -> (Self, Stream) {
        let mut world = Self::with(nodes);
        for node in nodes {
            world.fleet.beats(&id(node), world.now);
        }
        let look_at = world.now;
        let mut stream = Stream { attempt: Attempt::new("m", PATIENCE), pick: None, look_at, moves: 0 };
        stream.goes(&mut world);
        (world, stream)
    }

    /// Time passes in which these nodes beat and report, with so many sequences running and waiting, and the stream is
    /// watched.
    fn lives(&mut self, time: Duration, beating: &[&str], queue: (u32, u32), stream: &mut Stream) {
        let until = self.now + time;
        while self.now < until {
            self.waits(BEAT);
            for node in beating {
                let mut state = ready(queue.0);
                state.workers[0].models[0].waiting = queue.1;
                self.hears(node, state);
                self.fleet.beats(&id(node), self.now);
            }
            self.fleet.at(self.now);
            stream.is_watched(self);
        }
    }
}

impl Stream {
    fn on(&self) -> Option<&NodeId> {
        self.pick.as_ref().map(|pick| &pick.node)
    }

    /// Is sent where it can go.
    fn goes(&mut self, world: &mut World) {
        if let Step::Generate(node) = self.attempt.next(&world.fleet, world.now) {
            self.pick = world.fleet.pick(&node, ("m", Ask::default()), world.now);
        }
    }

    fn hears(&mut self, world: &World, happening: Happening) -> Verdict {
        self.attempt.on(happening, &world.fleet, world.now)
    }

    fn is_watched(&mut self, world: &mut World) {
        if self.pick.is_none() || self.look_at > world.now {
            return;
        }
        match self.attempt.watch(&world.fleet, world.now) {
            Watch::Until(until) => {
                assert!(until > world.now, "looks at the past");
                self.look_at = until;
            }
            Watch::Move(_) => {
                self.moves += 1;
                let left = self.pick.take().expect("on a node");
                world.fleet.release(&left, world.now);
                self.goes(world);
            }
        }
    }
}

#[test]
fn a_stream_leaves_a_silent_node_for_one_that_lives_within_a_second() {
    let (mut world, mut stream) = World::with_stream(&["a", "b"]);
    stream.hears(&world, started());
    stream.hears(&world, Happening::Delta);
    world.lives(STALL - BEAT, &["b"], (1, 0), &mut stream);
    assert_eq!(stream.on(), Some(&id("a")), "too early");
    world.lives(Duration::from_secs(1) - STALL, &["b"], (1, 0), &mut stream);
    assert_eq!((stream.on(), stream.moves), (Some(&id("b")), 1));
}

#[test]
fn a_stream_stays_where_nobody_else_can_take_it() {
    let (mut world, mut stream) = World::with_stream(&["a"]);
    stream.hears(&world, Happening::Delta);
    world.lives(Duration::from_millis(2900), &[], (1, 0), &mut stream);
    assert_eq!((stream.on(), stream.moves), (Some(&id("a")), 0));
    // It goes on, and so does the stream.
    world.lives(Duration::from_secs(60), &["a"], (1, 0), &mut stream);
    assert_eq!(stream.hears(&world, Happening::Delta), Verdict::Forward);
}

#[test]
fn a_long_prompt_and_a_long_queue_are_no_hang() {
    for queue in [(1, 0), (8, 20)] {
        let (mut world, mut stream) = World::with_stream(&["a", "b"]);
        stream.hears(&world, Happening::Started { prompt_tokens: 100_000, device: Some(0) });
        world.lives(Duration::from_secs(900), &["a", "b"], queue, &mut stream);
        assert_eq!((stream.on(), stream.moves), (Some(&id("a")), 0), "{queue:?}");
    }
}

/// A node whose worker of this device is stalled, and one that goes on.
fn one_of_two_stalled(stalled: u32) -> NodeState {
    let mut state = ready(1);
    state.workers.push(WorkerState { device_index: 1, ..state.workers[0].clone() });
    state.workers[stalled as usize].stalled = true;
    state
}

#[test]
fn a_stream_leaves_a_stalled_worker_and_no_other() {
    for (stalled, moves) in [(0, 1), (1, 0)] {
        let (mut world, mut stream) = World::with_stream(&["a", "b"]);
        stream.hears(&world, started());
        for _ in 0..10 {
            world.lives(BEAT, &["b"], (1, 0), &mut stream);
            world.hears("a", one_of_two_stalled(stalled));
        }
        assert_eq!(stream.moves, moves, "worker {stalled} is stalled");
    }
}

#[test]
fn a_stream_that_flows_does_not_care_what_is_said_of_its_worker() {
    let (mut world, mut stream) = World::with_stream(&["a", "b"]);
    for _ in 0..100 {
        world.hears("a", one_of_two_stalled(0));
        world.lives(BEAT, &["b"], (1, 0), &mut stream);
        stream.hears(&world, Happening::Delta);
    }
    assert_eq!(stream.moves, 0);
}

#[test]
fn a_stream_leaves_a_node_that_says_it_has_nothing_to_do() {
    let (mut world, mut stream) = World::with_stream(&["a", "b"]);
    stream.hears(&world, started());
    world.lives(Duration::from_secs(5), &["a", "b"], (0, 0), &mut stream);
    assert_eq!(stream.on(), Some(&id("b")));
}

#[test]
fn a_stream_that_waits_far_longer_than_its_node_explains_leaves() {
    let (mut world, mut stream) = World::with_stream(&["a", "b"]);
    let figures = Finished {
        prompt_tokens: 100,
        prefill_micros: 100_000,
        completion_tokens: 100,
        ..Finished::default()
    };
    let pick = stream.pick.clone().expect("on a node");
    for _ in 0..2 {
        world.fleet.learn(&pick, &figures);
    }
    // A millisecond a token: 10 s, and three minutes are too long for it.
    stream.hears(&world, Happening::Started { prompt_tokens: 10_000, device: Some(0) });
    world.lives(Duration::from_secs(190), &["a", "b"], (1, 0), &mut stream);
    assert_eq!(stream.moves, 0);
    world.lives(Duration::from_secs(15), &["a", "b"], (1, 0), &mut stream);
    assert_eq!(stream.on(), Some(&id("b")));
}

#[test]
fn a_stream_is_not_sent_about_for_ever() {
    let (mut world, mut stream) = World::with_stream(&["a", "b", "c"]);
    for round in 0..20 {
        // Whichever node it is on falls silent, and comes back later.
        let on = stream.on().cloned();
        let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| on != Some(id(name))).collect();
        world.lives(Duration::from_millis(1500), &others, (1, 0), &mut stream);
        world.lives(Duration::from_millis(1500), &["a", "b", "c"], (1, 0), &mut stream);
        assert!(stream.moves <= MOST_MOVES, "round {round}");
    }
    assert_eq!(stream.moves, MOST_MOVES);
}

#[test]
fn a_node_found_stalled_gets_nothing_new_until_it_gives_a_sign_of_life() {
    let (mut world, mut stream) = World::with_stream(&["a", "b"]);
    world.lives(Duration::from_secs(1), &["b"], (1, 0), &mut stream);
    assert_eq!(stream.on(), Some(&id("b")));
    let next = |world: &World| Attempt::new("m", PATIENCE).next(&world.fleet, world.now);
    assert_eq!(next(&world), Step::Generate(id("b")), "with nothing on 'a' any more");
    assert!(world.fleet.beats(&id("a"), world.now), "news");
    assert_eq!(next(&world), Step::Generate(id("a")), "which has less to do");
    assert!(!world.fleet.beats(&id("a"), world.now));
}

#[test]
fn with_every_node_stalled_a_request_waits() {
    let (mut world, mut stream) = World::with_stream(&["a"]);
    world.lives(Duration::from_secs(1), &[], (1, 0), &mut stream);
    let mut other = Attempt::new("m", PATIENCE);
    assert!(matches!(other.next(&world.fleet, world.now), Step::Wait(Some(_))));
    world.fleet.beats(&id("a"), world.now);
    assert_eq!(other.next(&world.fleet, world.now), Step::Generate(id("a")));
}

#[test]
fn a_router_that_was_stopped_itself_blames_nobody() {
    let (mut world, mut stream) = World::with_stream(&["a", "b"]);
    stream.hears(&world, Happening::Delta);
    world.lives(Duration::from_secs(1), &["a", "b"], (1, 0), &mut stream);
    world.waits(Duration::from_secs(20));
    world.fleet.at(world.now);
    stream.is_watched(&mut world);
    assert_eq!(world.fleet.lose_silent(world.now), []);
    world.lives(Duration::from_secs(2), &["a", "b"], (1, 0), &mut stream);
    assert_eq!((stream.on(), stream.moves), (Some(&id("a")), 0));
}
