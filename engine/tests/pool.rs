//! A pool that is too small for what is asked: everyone is answered, and nothing is lost.

#![allow(clippy::expect_used, reason = "tests")]

mod real;

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mlxcel_engine::{Engine, Event, FinishReason, GenerateError, LoadOptions, Turn};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use real::{request, submit, tiny};

/// Tokens of 24 blocks; the 16 sequences that may run at once want about twice as many at their ends.
const POOL_TOKENS: u32 = 24 * 32;

const REQUESTS: usize = 1000;

/// Asks for some output of up to 200 tokens, after prompts of which many have begun alike.
fn ask(engine: &dyn Engine, random: &mut ChaCha8Rng, index: usize) -> Receiver<Event> {
    let long = random.random_bool(0.1);
    let length: u32 = if long { random.random_range(40..56) } else { random.random_range(1..40) };
    let family: u32 = random.random_range(0..20);
    let prompt: Vec<u32> = (0..length).map(|at| 3 + (family * 31 + at * 7) % 200).collect();
    let mut request = request(&format!("r{index}"), &prompt, random.random_range(1..200));
    request.turn = Turn {
        priority: random.random_range(-3..4),
        client: Some(format!("c{}", random.random_range(0..5))),
        deadline: random.random_bool(0.05).then(|| Duration::from_millis(random.random_range(1..300))),
    };
    submit(engine, request)
}

/// How a request ended, after checking that it ended once.
fn end(events: &Receiver<Event>) -> Result<FinishReason, GenerateError> {
    let mut ended = None;
    for event in events {
        assert!(ended.is_none(), "{event:?} follows the end");
        match event {
            Event::Finished(finish) => ended = Some(Ok(finish.reason)),
            Event::Failed(error) => ended = Some(Err(error)),
            _ => {}
        }
    }
    ended.expect("every request ends")
}

fn settled(engine: &dyn Engine) -> mlxcel_engine::EngineState {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let state = engine.state();
        if (state.running, state.waiting) == (0, 0) || Instant::now() > until {
            return state;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_thousand_requests_leave_the_pool_as_it_began() {
    let options = LoadOptions { kv_tokens: Some(POOL_TOKENS), ..LoadOptions::default() };
    let engine = tiny(options);
    let before = engine.state();
    assert_eq!((before.kv_blocks, before.kv_blocks_available), (24, 24));
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut asked = Vec::new();
    for index in 0..REQUESTS {
        asked.push(ask(engine.as_ref(), &mut random, index));
        if random.random_bool(0.15) {
            // Waiting, running or over: whatever it is by now.
            engine.cancel(&format!("r{}", random.random_range(0..=index)));
        }
    }
    let ends: Vec<_> = asked.iter().map(end).collect();
    let count = |wanted: &dyn Fn(&Result<FinishReason, GenerateError>) -> bool| {
        ends.iter().filter(|end| wanted(end)).count()
    };
    let finished = count(&|end| matches!(end, Ok(FinishReason::Length)));
    let cancelled = count(&|end| matches!(end, Ok(FinishReason::Cancelled)));
    let expired = count(&|end| matches!(end, Err(GenerateError::DeadlineExceeded(_))));
    assert_eq!(finished + cancelled + expired, REQUESTS, "{ends:?}");
    assert!(finished > 700 && cancelled > 50 && expired > 5, "{finished}, {cancelled}, {expired}");
    let after = settled(engine.as_ref());
    assert!(after.preemptions > 20, "the pool was too large to test anything: {after:?}");
    assert_eq!((after.kv_blocks, after.kv_blocks_available), (24, 24));
    // Every block can be had again, at once: what is cached gives way.
    let most = before.context_tokens;
    let whole = |index: u32| request(&format!("w{index}"), &vec![250 + index; most as usize - 1], 1);
    let whole: Vec<_> = (0..POOL_TOKENS / most).map(|index| submit(engine.as_ref(), whole(index))).collect();
    assert!(whole.iter().all(|events| end(events) == Ok(FinishReason::Length)));
    assert_eq!(settled(engine.as_ref()).kv_blocks_available, 24);
}
