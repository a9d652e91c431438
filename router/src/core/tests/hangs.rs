//! Many answers over nodes that stop, go on, die and return at random: each comes whole and once.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::core::attempt::{Attempt, Step, Verdict, Watch};
use crate::core::cost::Ask;
use crate::core::fleet::Pick;
use crate::core::watchdog::MOST_MOVES;

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const TICK: Duration = Duration::from_millis(50);
/// Tokens of an answer; a node gives one a tick.
const ANSWER: u32 = 60;
/// While nodes fail, and until all must have ended.
const FAULTY: u32 = 600;
const LIMIT: u32 = 3000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Health {
    Runs,
    /// Alive and silent, as after SIGSTOP: what it was asked is there when it goes on.
    Stopped,
    /// Its worker is; the node says so after a while.
    WorkerStopped {
        ticks: u32,
    },
    Dead,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    at: u32,
    node: usize,
    health: Health,
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let health = prop_oneof![
        4 => Just(Health::Runs),
        3 => Just(Health::Stopped),
        3 => Just(Health::WorkerStopped { ticks: 0 }),
        2 => Just(Health::Dead),
    ];
    let fault = (0..FAULTY, 0..NODES.len(), health).prop_map(|(at, node, health)| Fault { at, node, health });
    prop::collection::vec(fault, 0..40)
}

/// What a node has of a request: the next token, and whether it has said that it started.
struct Leg {
    pick: Pick,
    next: u32,
    started: bool,
}

struct Request {
    attempt: Attempt,
    leg: Option<Leg>,
    look_at: Instant,
    told: Vec<u32>,
    moves: u32,
    ends: u32,
}

struct Cluster {
    world: World,
    health: [Health; NODES.len()],
    requests: Vec<Request>,
    ticks: u32,
}

impl Cluster {
    fn tick(&mut self) {
        self.ticks += 1;
        self.world.waits(TICK);
        self.world.fleet.at(self.world.now);
        for (node, name) in NODES.into_iter().enumerate() {
            self.signs_of_life(node, name);
        }
        if self.ticks.is_multiple_of(5) {
            let silent = self.world.fleet.lose_silent(self.world.now);
            self.lose(&silent);
        }
        for request in 0..self.requests.len() {
            self.advance(request);
        }
    }

    fn signs_of_life(&mut self, node: usize, name: &str) {
        let mut state = ready(0);
        let on_it =
            self.requests.iter().filter(|it| it.leg.as_ref().is_some_and(|leg| leg.pick.node == id(name)));
        state.workers[0].models[0].running = u32::try_from(on_it.count()).expect("few");
        match &mut self.health[node] {
            Health::Stopped | Health::Dead => return,
            Health::WorkerStopped { ticks } => {
                *ticks += 1;
                state.workers[0].stalled = *ticks > 14;
            }
            Health::Runs => {}
        }
        if self.ticks.is_multiple_of(3) {
            self.world.fleet.beats(&id(name), self.world.now);
        }
        if self.ticks.is_multiple_of(18) || matches!(self.health[node], Health::WorkerStopped { ticks: 15 }) {
            self.world.hears(name, state);
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.health[fault.node] = fault.health;
        match fault.health {
            Health::Dead => {
                self.world.loses(NODES[fault.node]);
                self.lose(&[id(NODES[fault.node])]);
            }
            // It may have been lost: it connects again.
            Health::Runs => self.world.hears(NODES[fault.node], ready(0)),
            Health::Stopped | Health::WorkerStopped { .. } => {}
        }
    }

    fn lose(&mut self, nodes: &[NodeId]) {
        for request in &mut self.requests {
            if request.leg.as_ref().is_some_and(|leg| nodes.contains(&leg.pick.node)) {
                request.leg = None;
                let lost = Happening::Lost("silent".into());
                let verdict = request.attempt.on(lost, &self.world.fleet, self.world.now);
                assert!(matches!(verdict, Verdict::Retry(_)), "{verdict:?}");
            }
        }
    }

    /// What the relay does for a request, with what its node says.
    fn advance(&mut self, at: usize) {
        let request = &mut self.requests[at];
        if request.ends > 0 {
            return;
        }
        if request.leg.is_none()
            && let Step::Generate(node) = request.attempt.next(&self.world.fleet, self.world.now)
        {
            let pick = self.world.fleet.pick(&node, ("m", Ask::default()), self.world.now).expect("alive");
            let next = u32::try_from(request.told.len()).expect("few");
            request.leg = Some(Leg { pick, next, started: false });
        }
        let Some(leg) = &mut request.leg else { return };
        let node = NODES.iter().position(|name| id(name) == leg.pick.node).expect("known");
        if self.health[node] == Health::Runs {
            let happening = match leg.started {
                false => started(),
                true if leg.next == ANSWER => Happening::Finished,
                true => Happening::Delta,
            };
            let forwarded = request.attempt.on(happening.clone(), &self.world.fleet, self.world.now);
            match (happening, forwarded) {
                (Happening::Delta, Verdict::Forward) => {
                    request.told.push(leg.next);
                    leg.next += 1;
                }
                (Happening::Finished, Verdict::Forward) => {
                    request.ends += 1;
                    self.world.fleet.release(&leg.pick, self.world.now);
                    request.leg = None;
                }
                _ => leg.started = true,
            }
        } else if request.look_at <= self.world.now {
            match request.attempt.watch(&self.world.fleet, self.world.now) {
                Watch::Until(until) => request.look_at = until,
                Watch::Move(_) => {
                    request.moves += 1;
                    self.world.fleet.release(&leg.pick, self.world.now);
                    request.leg = None;
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn every_answer_comes_whole_and_once(faults in faults(), begins in prop::collection::vec(0..FAULTY, 1..30)) {
        let mut cluster = Cluster {
            world: World::with(&NODES),
            health: [Health::Runs; NODES.len()],
            requests: Vec::new(),
            ticks: 0,
        };
        while cluster.ticks < FAULTY || cluster.requests.iter().any(|it| it.ends == 0) {
            prop_assert!(cluster.ticks < LIMIT, "a request is lost");
            for _ in begins.iter().filter(|at| **at == cluster.ticks) {
                let attempt = Attempt::new("m", Duration::from_secs(600));
                let look_at = cluster.world.now;
                let request = Request { attempt, leg: None, look_at, told: Vec::new(), moves: 0, ends: 0 };
                cluster.requests.push(request);
            }
            let struck: Vec<Fault> = faults.iter().copied().filter(|it| it.at == cluster.ticks).collect();
            struck.into_iter().for_each(|fault| cluster.strike(fault));
            if cluster.ticks == FAULTY {
                for node in 0..NODES.len() {
                    cluster.strike(Fault { at: FAULTY, node, health: Health::Runs });
                }
            }
            cluster.tick();
        }
        for request in &cluster.requests {
            let whole: Vec<u32> = (0..ANSWER).collect();
            prop_assert_eq!(&request.told, &whole);
            prop_assert_eq!(request.ends, 1);
            prop_assert!(request.moves <= MOST_MOVES);
        }
    }
}
