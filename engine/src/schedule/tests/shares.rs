//! Who gets how much, and who waits how long, where there is more to do than can be done.

use super::world::{Script, World};
use super::*;

const STEP: Duration = Duration::from_millis(10);

fn script(client: u8, prompt: usize, max_new_tokens: usize) -> Script {
    Script {
        prompt: vec![client.into(); prompt],
        max_new_tokens,
        priority: 0,
        client,
        eos: None,
        sampled_by_host: false,
        deadline: None,
    }
}

fn world(max_sequences: usize, blocks: usize) -> World {
    let limits = SchedulerLimits {
        max_sequences,
        step_tokens: 64,
        ageing: Duration::from_secs(1),
        stages: 1,
        exact_rows: None,
    };
    World::new(limits, blocks, None)
}

/// Sees to it that each client has `count` requests waiting or running.
fn keep_busy(world: &mut World, scripts: &[Script], count: usize) {
    for script in scripts {
        let live = world.live.values().filter(|live| live.script.client == script.client).count();
        for _ in live..count {
            world.submit(script.clone());
        }
    }
}

#[test]
fn clients_with_small_and_large_requests_get_equal_service() {
    let blocks = 40;
    let mut world = world(6, blocks);
    // Prompts short of a block share nothing, so that all that is asked for is computed.
    let scripts = [script(0, 4, 3), script(1, 31, 200), script(2, 20, 40)];
    for _ in 0..20_000 {
        keep_busy(&mut world, &scripts, 8);
        world.step(STEP);
    }
    let served: Vec<u64> = world.served.values().copied().collect();
    let (most, least) = (served.iter().max().expect("three"), served.iter().min().expect("three"));
    // Theorem 4.4 of the paper: twice the larger of a prompt's cost and the cost of all that can run at once.
    let bound = 2 * 2 * (blocks * BLOCK_TOKENS) as u64;
    assert!(most - least <= bound, "{served:?} differ by more than {bound}");
    assert!(*least > 10 * bound, "{served:?} are too small to tell");
}

#[test]
fn a_flood_does_not_hold_up_a_client_that_asks_for_little() {
    let mut world = world(4, 64);
    for _ in 0..400 {
        world.submit(script(0, 20, 20));
    }
    (0..20).for_each(|_| world.step(STEP));
    let few: Vec<SequenceId> = (0..5).map(|_| world.submit(script(1, 20, 20))).collect();
    while few.iter().any(|name| world.live.contains_key(name)) {
        world.step(STEP);
    }
    let flooded = world.ended.values().filter(|(live, _)| live.script.client == 0).count();
    assert!(flooded < 30, "{flooded} of the flood ended before five that came later");
}

#[test]
fn a_higher_priority_waits_less() {
    let mut world = world(4, 64);
    for _ in 0..40 {
        for priority in [0, 4] {
            world.submit(Script { priority, ..script(0, 20, 20) });
        }
    }
    world.drain(STEP);
    let waited = |priority| {
        let of = world.ended.values().filter(|(live, _)| live.script.priority == priority);
        let waits = of.map(|(live, _)| live.first_planned.expect("it ran").saturating_sub(live.arrival));
        waits.sum::<Duration>() / 40
    };
    assert!(waited(4) * 2 < waited(0), "{:?} against {:?}", waited(4), waited(0));
}

#[test]
fn the_lowest_priority_waits_a_bounded_time_under_endless_higher_ones() {
    let mut world = world(4, 64);
    let high = Script { priority: 5, ..script(0, 20, 20) };
    keep_busy(&mut world, std::slice::from_ref(&high), 12);
    let low = world.submit(script(1, 20, 20));
    while world.live.contains_key(&low) {
        keep_busy(&mut world, std::slice::from_ref(&high), 12);
        world.step(STEP);
        assert!(world.now < Duration::from_secs(60), "it starves");
    }
    let (live, _) = &world.ended[&low];
    let waited = live.first_planned.expect("it ran") - live.arrival;
    // Five levels of a second each, and the time for a place to become free.
    assert!(waited <= Duration::from_secs(6), "{waited:?}");
    let ran = world.now - live.first_planned.expect("it ran");
    assert!(ran <= Duration::from_secs(1), "once it runs it is not put off again: {ran:?}");
}
