//! Many requests over nodes of unequal speed, in virtual time: a slow node must only ever help.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use mlxcel_protocol::v1::Finished;

use super::*;
use crate::core::attempt::{Attempt, Step};
use crate::core::cost::Ask;
use crate::core::fleet::Pick;
use crate::core::prefixes::Cuts;

/// How fast a node is: one prompt after the other, and answers beside each other.
#[derive(Debug, Clone, Copy)]
struct Rates {
    name: &'static str,
    /// Microseconds for a token of a prompt, and of an answer.
    prefill: u64,
    decode: u64,
    /// Percent that each sequence beside it adds to the latter.
    crowding: u64,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    arrives: u64,
    prompt: u64,
    answer: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Finishes(usize),
    Prefilled(usize),
    Arrives(usize),
    Report,
}

/// Where a request is, and since when.
struct Running {
    pick: Pick,
    node: usize,
    prefilled: u64,
}

/// What nodes are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Measured,
    /// Requests, as long as nothing is known.
    Counted,
}

/// Long-tailed lengths, and as many requests a second in the mean. The same seed gives the same.
fn workload(seed: u64, count: usize, a_second: u64) -> Vec<Request> {
    let mut state = seed;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1_u32 << 31)
    };
    let mut at = 0.0;
    (0..count)
        .map(|_| {
            at -= (1.0 - random()).ln() * 1e6 / a_second as f64;
            let tail = |most: f64, random: f64| 1.0 / (1.0 - random * (1.0 - 1.0 / most));
            let (prompt, answer) = (100.0 * tail(30.0, random()), 20.0 * tail(15.0, random()));
            Request { arrives: at as u64, prompt: prompt as u64, answer: answer as u64 }
        })
        .collect()
}

/// What every request took, in microseconds, sorted.
fn run(nodes: &[Rates], requests: &[Request], choice: Choice) -> Vec<u64> {
    let names: Vec<&str> = nodes.iter().map(|node| node.name).collect();
    let mut world = World::with(&names);
    let begin = world.now;
    let mut prefill_free = vec![0; nodes.len()];
    let mut decoding = vec![0_u64; nodes.len()];
    let mut running: Vec<Option<Running>> = requests.iter().map(|_| None).collect();
    let mut took = Vec::new();
    let mut events: BinaryHeap<Reverse<(u64, Event)>> =
        requests.iter().enumerate().map(|(at, it)| Reverse((it.arrives, Event::Arrives(at)))).collect();
    events.push(Reverse((0, Event::Report)));
    while let Some(Reverse((now, event))) = events.pop() {
        world.now = begin + Duration::from_micros(now);
        match event {
            Event::Report => {
                for name in &names {
                    let queued = world.fleet.get(&id(name)).expect("known").own;
                    world.hears(name, ready(queued));
                }
                if took.len() < requests.len() {
                    events.push(Reverse((now + 1_000_000, Event::Report)));
                }
            }
            Event::Arrives(at) => {
                let Request { prompt, .. } = requests[at];
                let ask = Ask { bytes: usize::try_from(prompt * 4).expect("short"), ..Ask::default() };
                let mut attempt = Attempt::new("m", Duration::from_secs(30)).asking(ask, Cuts::default());
                let step = attempt.next(&world.fleet, world.now);
                let Step::Generate(chosen) = step else { panic!("{step:?}") };
                let node = names.iter().position(|name| id(name) == chosen).expect("known");
                let pick = world.fleet.pick(&chosen, ("m", ask), world.now).expect("alive");
                let began = now.max(prefill_free[node]);
                let prefilled = began + prompt * nodes[node].prefill;
                prefill_free[node] = prefilled;
                running[at] = Some(Running { pick, node, prefilled });
                events.push(Reverse((prefilled, Event::Prefilled(at))));
            }
            Event::Prefilled(at) => {
                let it = running[at].as_mut().expect("runs");
                world.fleet.decodes(&mut it.pick);
                let Rates { decode, crowding, .. } = nodes[it.node];
                let token = decode + decode * crowding * decoding[it.node] / 100;
                decoding[it.node] += 1;
                events.push(Reverse((now + requests[at].answer * token, Event::Finishes(at))));
            }
            Event::Finishes(at) => {
                let it = running[at].take().expect("runs");
                let Request { arrives, prompt, answer } = requests[at];
                let finished = Finished {
                    prompt_tokens: u32::try_from(prompt).expect("short"),
                    completion_tokens: u32::try_from(answer).expect("short"),
                    // As an engine tells it: since the request came.
                    prefill_micros: it.prefilled - arrives,
                    decode_micros: now - it.prefilled,
                    ..Finished::default()
                };
                decoding[it.node] -= 1;
                if choice == Choice::Measured {
                    world.fleet.learn(&it.pick, &finished);
                }
                world.fleet.release(&it.pick, world.now);
                took.push(now - arrives);
            }
        }
    }
    took.sort_unstable();
    took
}

fn percentile(took: &[u64], percent: usize) -> u64 {
    took[took.len() * percent / 100]
}

const FAST_PREFILL: Rates = Rates { name: "a", prefill: 100, decode: 12_000, crowding: 2 };
const FAST_DECODE: Rates = Rates { name: "b", prefill: 600, decode: 3_000, crowding: 2 };
const SLOW: Rates = Rates { name: "c", prefill: 2_000, decode: 40_000, crowding: 10 };

/// What requests take over all seeds. One of them says little: whatever changes one decision changes all that follow, so that single
/// runs with and without a node that is never used differ by some percent either way.
fn pooled(nodes: &[Rates], a_second: u64, choice: Choice) -> Vec<u64> {
    let mut took: Vec<u64> =
        (1..=12).flat_map(|seed| run(nodes, &workload(seed, 3000, a_second), choice)).collect();
    took.sort_unstable();
    took
}

#[test]
fn a_slow_node_never_makes_requests_slower() {
    for a_second in [2, 10, 20] {
        let without = pooled(&[FAST_PREFILL, FAST_DECODE], a_second, Choice::Measured);
        let with = pooled(&[FAST_PREFILL, FAST_DECODE, SLOW], a_second, Choice::Measured);
        for percent in [50, 90] {
            let (with, without) = (percentile(&with, percent), percentile(&without, percent));
            println!("{a_second}/s: p{percent} {with} us with the slow node, {without} us without");
            assert!(
                with <= without + without / 100,
                "{a_second}/s, p{percent}: {with} us, {without} without"
            );
        }
    }
}

#[test]
fn measured_rates_choose_better_than_counts_of_requests() {
    let nodes = [FAST_PREFILL, FAST_DECODE, SLOW];
    let measured = pooled(&nodes, 20, Choice::Measured);
    let counted = pooled(&nodes, 20, Choice::Counted);
    for percent in [50, 90] {
        let (measured, counted) = (percentile(&measured, percent), percentile(&counted, percent));
        println!("p{percent}: {measured} us by rates, {counted} us by counts");
        assert!(measured < counted, "p{percent}");
    }
}

#[test]
fn a_slow_node_helps_where_the_others_have_too_much_to_do() {
    let requests = workload(3, 3000, 60);
    let without = run(&[FAST_PREFILL, FAST_DECODE], &requests, Choice::Measured);
    let with = run(&[FAST_PREFILL, FAST_DECODE, SLOW], &requests, Choice::Measured);
    assert!(percentile(&with, 90) < percentile(&without, 90));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let requests = workload(7, 500, 20);
    let nodes = [FAST_PREFILL, FAST_DECODE, SLOW];
    assert_eq!(run(&nodes, &requests, Choice::Measured), run(&nodes, &requests, Choice::Measured));
}

/// A burst of like requests, before anything is heard of the first.
#[test]
fn a_burst_spreads_before_any_report_of_it() {
    let nodes = [Rates { name: "a", ..FAST_DECODE }, Rates { name: "b", ..FAST_DECODE }];
    let quiet = (0..4_u64).map(|at| Request { arrives: at * 3_000_000, prompt: 500, answer: 50 });
    let burst = (0..40).map(|_| Request { arrives: 20_000_000, prompt: 500, answer: 50 });
    let took = run(&nodes, &quiet.chain(burst).collect::<Vec<_>>(), Choice::Measured);
    // Twenty prompts of 300 ms on each, one after the other.
    assert!(*took.last().expect("some") < 6_800_000, "{took:?}");
}
