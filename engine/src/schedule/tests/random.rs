//! Random workloads: whatever comes, every request gets its own output, no step breaks a rule, and the pool is
//! left as it was.

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::world::{End, Script, World};
use super::*;
use crate::blocks::StateLimits;

/// What a workload is drawn from.
struct Workload {
    random: ChaCha8Rng,
    limits: SchedulerLimits,
    blocks: usize,
    states: Option<StateLimits>,
    /// Prompts often begin with one of these.
    prefixes: Vec<Vec<u32>>,
    by_host: bool,
}

impl Workload {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let limits = SchedulerLimits {
            max_sequences: random.random_range(1..12),
            step_tokens: random.random_range(1..200),
            ageing: Duration::from_millis(random.random_range(1..500)),
            stages: random.random_range(1..4),
            exact_rows: random.random_bool(0.3).then(|| random.random_range(1..20)),
        };
        let blocks = random.random_range(6..48);
        let prefixes =
            (0..3).map(|_| (0..random.random_range(1..90)).map(|_| random.random_range(0..50)).collect());
        let prefixes = prefixes.collect();
        let by_host = random.random_bool(0.3);
        let states = random
            .random_bool(0.5)
            .then(|| StateLimits { slots: random.random_range(2..24), interval: random.random_range(1..3) });
        Self { random, limits, blocks, states, prefixes, by_host }
    }

    fn script(&mut self) -> Script {
        let random = &mut self.random;
        let mut prompt = match random.random_bool(0.6) {
            true => self.prefixes[random.random_range(0..3)].clone(),
            false => Vec::new(),
        };
        let tail = random.random_range(1..40);
        prompt.extend((0..tail).map(|_| random.random_range(0..97)));
        let room = self.blocks * BLOCK_TOKENS - prompt.len();
        Script {
            prompt,
            max_new_tokens: random.random_range(1..=room.min(70)),
            priority: random.random_range(-2..3),
            client: random.random_range(0..4),
            eos: random.random_bool(0.5).then_some(13),
            sampled_by_host: self.by_host && random.random_bool(0.2),
            deadline: random.random_bool(0.1).then(|| Duration::from_millis(random.random_range(0..300))),
        }
    }
}

/// Runs `requests` requests to their ends.
fn run(seed: u64, requests: usize) -> World {
    let mut workload = Workload::new(seed);
    let mut world = World::new(workload.limits, workload.blocks, workload.states);
    let mut left = requests;
    while left > 0 {
        // Bursts, with pauses in which the queue may run dry.
        let burst = workload.random.random_range(0..12).min(left);
        left -= burst;
        for _ in 0..burst {
            world.submit(workload.script());
        }
        for _ in 0..workload.random.random_range(0..60) {
            world.breaks = workload.random.random_bool(0.005);
            world.step(Duration::from_millis(workload.random.random_range(0..4)));
            if workload.random.random_bool(0.04) && !world.live.is_empty() {
                let at = workload.random.random_range(0..world.live.len());
                let sequence = *world.live.keys().nth(at).expect("it is one of them");
                world.cancel(sequence);
            }
        }
    }
    world.breaks = false;
    world.drain(Duration::from_millis(1));
    assert_eq!(world.ended.len(), requests, "every request ends");
    assert_eq!((world.scheduler.running(), world.scheduler.waiting()), (0, 0));
    let store = world.scheduler.store();
    assert_eq!(store.available(), store.total(), "every block is free or cached");
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_workload_breaks_a_rule(seed: u64) {
        run(seed, 120);
    }
}

#[test]
fn thousands_of_requests_meet_preemption_sharing_expiry_cancellation_and_failure() {
    let worlds: Vec<World> = (0..6).map(|seed| run(seed, 600)).collect();
    let ends = |end| worlds.iter().flat_map(|world| world.ended.values()).filter(|(_, e)| *e == end).count();
    let counts = [End::Finished, End::Cancelled, End::Expired, End::Failed].map(ends);
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    let preempted: u64 = worlds.iter().map(|world| world.scheduler.preempted()).sum();
    assert!(preempted > 100, "{preempted}");
    let shared: usize = worlds.iter().map(|world| world.shared).sum();
    assert!(shared > 10_000, "{shared}");
    let evicted: u64 = worlds.iter().map(|world| world.scheduler.store().evicted()).sum();
    assert!(evicted > 100, "{evicted}");
    let forgotten: u64 = worlds.iter().map(|world| world.scheduler.store().snapshots_evicted()).sum();
    assert!(forgotten > 100, "{forgotten}");
}
