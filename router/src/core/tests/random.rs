//! Promises that hold whatever happens.

use std::time::Duration;

use mlxcel_protocol::v1::FailureKind;
use proptest::prelude::*;

use super::*;
use crate::core::attempt::{Attempt, Happening, Step, Verdict};

const PATIENCE: Duration = Duration::from_secs(30);
const NODES: [&str; 3] = ["a", "b", "c"];

/// Something the world does.
#[derive(Debug, Clone)]
enum Act {
    Report(usize, u32),
    Drain(usize),
    Lose(usize),
    Pass(Duration),
    Happen(Happening),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let node = 0..NODES.len();
    let kinds = (0..=6_i32).prop_map(|k| FailureKind::try_from(k).expect("a kind"));
    let happening = prop_oneof![
        2 => Just(started()),
        1 => Just(Happening::Delta),
        1 => Just(Happening::Finished),
        4 => kinds.prop_map(|kind| Happening::Failed(kind, "x".into())),
        3 => Just(Happening::Lost("x".into())),
    ];
    let act = prop_oneof![
        3 => (node.clone(), 0..4_u32).prop_map(|(n, queued)| Act::Report(n, queued)),
        1 => node.clone().prop_map(Act::Drain),
        2 => node.prop_map(Act::Lose),
        2 => (0..5000_u64).prop_map(|ms| Act::Pass(Duration::from_millis(ms))),
        6 => happening.prop_map(Act::Happen),
    ];
    prop::collection::vec(act, 1..80)
}

/// A request, its node, and what has been seen of it.
struct Play {
    world: World,
    attempt: Attempt,
    on: Option<NodeId>,
    ended: bool,
    waited: Duration,
}

impl Play {
    /// Sends the request on where it can go.
    fn drive(&mut self) {
        while self.on.is_none() && !self.ended {
            match self.attempt.next(&self.world.fleet, self.world.now) {
                Step::Generate(node) => {
                    let member = self.world.fleet.get(&node).expect("known");
                    assert!(member.alive() && member.report.serves("m"), "{node} cannot serve");
                    self.on = Some(node);
                }
                Step::Refuse(_) => self.ended = true,
                Step::Wait(until) => {
                    let until = until.expect("nothing is loading");
                    assert!(until > self.world.now, "waits for the past");
                    return;
                }
                Step::Queue => panic!("there is room"),
                Step::Load(node) => panic!("{node} has nothing to load"),
                Step::Assemble(assembly) => panic!("nobody said how large {} is", assembly.model),
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Report(node, queued) => self.world.hears(NODES[node], ready(queued)),
            Act::Drain(node) => self.world.hears(NODES[node], draining()),
            Act::Lose(node) => {
                self.world.loses(NODES[node]);
                if self.on == Some(id(NODES[node])) {
                    self.happen(Happening::Lost("reset".into()));
                }
            }
            Act::Pass(time) => {
                if self.on.is_none() && !self.ended {
                    self.waited += time;
                }
                self.world.waits(time);
            }
            Act::Happen(happening) => self.happen(happening),
        }
    }

    fn happen(&mut self, happening: Happening) {
        if self.on.is_none() {
            return;
        }
        let wrong = matches!(happening, Happening::Failed(FailureKind::InvalidRequest, _));
        let last = happening == Happening::Finished;
        match self.attempt.on(happening, &self.world.fleet, self.world.now) {
            Verdict::Hold => {}
            Verdict::Forward => {
                assert!(!self.ended, "something follows the end");
                self.ended |= last;
            }
            Verdict::Retry(_) => {
                assert!(!wrong, "retried a wrong request");
                self.on = None;
            }
            Verdict::Fail(_) => self.ended = true,
        }
    }
}

proptest! {
    #[test]
    fn request_ends_once_and_always(acts in acts()) {
        let mut play = Play {
            world: World::with(&NODES),
            attempt: Attempt::new("m", PATIENCE),
            on: None,
            ended: false,
            waited: Duration::ZERO,
        };
        for act in acts {
            play.drive();
            play.act(act);
        }
        // Left alone it is on a node, has ended, or gives up when its patience is over.
        play.drive();
        if play.on.is_none() && !play.ended {
            prop_assert!(play.waited < PATIENCE + Duration::from_secs(5), "waited {:?}", play.waited);
            for node in NODES {
                play.world.loses(node);
            }
            play.act(Act::Pass(PATIENCE));
            play.drive();
            prop_assert!(play.ended);
        }
    }
}
