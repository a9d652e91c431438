//! The scheduler's promises: by example, and over random workloads on a device that remembers.

mod device;
mod random;
mod shares;
mod world;

use std::time::Duration;

use super::*;
use crate::blocks::{BLOCK_TOKENS, BlockStore};

const NOW: Duration = Duration::ZERO;

fn scheduler(max_sequences: usize, step_tokens: usize, blocks: usize) -> Scheduler {
    let limits = SchedulerLimits {
        max_sequences,
        step_tokens,
        ageing: Duration::from_secs(1),
        stages: 1,
        exact_rows: None,
    };
    Scheduler::new(limits, BlockStore::new(blocks))
}

fn admission(id: u64, prompt: usize, max_new_tokens: usize) -> Admission {
    Admission {
        sequence: SequenceId(id),
        // Prompts of different sequences share nothing.
        prompt: (0..prompt as u32).map(|at| 1000 * id as u32 + at).collect(),
        resumed: 0,
        max_new_tokens,
        priority: 0,
        client: None,
        arrival: Duration::from_millis(id),
        deadline: None,
    }
}

/// Sequence, start, tokens and whether it is sampled, of every span.
fn shape(plan: &StepPlan) -> Vec<(u64, usize, usize, bool)> {
    plan.spans.iter().map(|s| (s.sequence.0, s.start, s.tokens.len(), s.samples > 0)).collect()
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks_and_sampled_at_its_end() {
    let mut scheduler = scheduler(3, 8, 4);
    scheduler.add(admission(1, 20, 4)).expect("it fits");
    let shapes: Vec<_> = (0..3).flat_map(|_| shape(&scheduler.plan(NOW))).collect();
    assert_eq!(shapes, [(1, 0, 8, false), (1, 8, 8, false), (1, 16, 4, true)]);
    assert!(scheduler.plan(NOW).is_empty(), "nothing to do until a token is sampled");
}

#[test]
fn a_step_of_a_pipeline_decodes_its_part_and_leaves_the_rest_to_the_next() {
    let mut scheduler = scheduler(4, 100, 8);
    scheduler.limits.stages = 2;
    (1..=4).for_each(|id| scheduler.add(admission(id, 2, 4)).expect("it fits"));
    scheduler.plan(NOW);
    (1..=4).for_each(|id| scheduler.append(SequenceId(id), Token::Known(9)));
    assert_eq!(shape(&scheduler.plan(NOW)), [(1, 2, 1, true), (2, 2, 1, true)]);
    assert_eq!(shape(&scheduler.plan(NOW)), [(3, 2, 1, true), (4, 2, 1, true)]);
    assert!(scheduler.plan(NOW).is_empty(), "nobody's next token is known");
}

#[test]
fn resumed_output_is_computed_in_steps_as_small_as_those_that_made_it() {
    let mut scheduler = scheduler(3, 100, 8);
    scheduler.limits.exact_rows = Some(4);
    scheduler.add(Admission { resumed: 6, ..admission(1, 26, 4) }).expect("it fits");
    let shapes: Vec<_> = (0..3).flat_map(|_| shape(&scheduler.plan(NOW))).collect();
    assert_eq!(shapes, [(1, 0, 20, false), (1, 20, 4, false), (1, 24, 2, true)]);
}

#[test]
fn decode_tokens_go_before_prefill_chunks() {
    let mut scheduler = scheduler(3, 8, 4);
    scheduler.add(admission(1, 2, 4)).expect("it fits");
    scheduler.plan(NOW);
    scheduler.append(SequenceId(1), Token::Known(9));
    scheduler.add(admission(2, 20, 4)).expect("it fits");
    assert_eq!(shape(&scheduler.plan(NOW)), [(1, 2, 1, true), (2, 0, 7, false)]);
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let mut scheduler = scheduler(3, 8, 2);
    assert_eq!(scheduler.add(admission(1, 0, 4)), Err(AdmissionError::EmptyPrompt));
    assert_eq!(
        scheduler.add(admission(1, 60, 5)),
        Err(AdmissionError::LargerThanCache { needed: 65, available: 64 })
    );
}

#[test]
fn the_latest_arrival_gives_way_and_computes_its_output_again_as_prompt() {
    let mut scheduler = scheduler(2, 100, 4);
    for id in [1, 2] {
        scheduler.add(admission(id, 30, 60)).expect("it fits alone");
    }
    assert_eq!(shape(&scheduler.plan(NOW)), [(1, 0, 30, true), (2, 0, 30, true)]);
    let mut last = Vec::new();
    // Both need a second block at 32 tokens, the first a third at 64, where there is none.
    for _ in 0..35 {
        for id in [1, 2] {
            // Read, and nothing to share.
            scheduler.computed(SequenceId(id), 0);
            scheduler.append(SequenceId(id), Token::Known(7));
        }
        last = shape(&scheduler.plan(NOW));
    }
    assert_eq!(last, [(1, 64, 1, true)]);
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.preempted()), (1, 1, 1));
    scheduler.remove(SequenceId(1));
    assert_eq!(shape(&scheduler.plan(NOW)), [(2, 0, 65, true)], "its 30 and 35 tokens");
}

#[test]
fn a_token_awaited_when_its_sequence_gives_way_is_computed_once_it_is_read() {
    let mut scheduler = scheduler(2, 100, 2);
    scheduler.add(admission(1, 32, 20)).expect("it fits alone");
    scheduler.add(admission(2, 20, 20)).expect("it fits alone");
    // The second has no reserve to start with beside the first.
    scheduler.plan(NOW);
    assert_eq!((scheduler.running(), scheduler.waiting()), (1, 1));
    scheduler.remove(SequenceId(1));
    assert_eq!(shape(&scheduler.plan(NOW)), [(2, 0, 20, true)]);
    scheduler.append(SequenceId(2), Token::Awaited);
    scheduler.add(Admission { priority: 1, ..admission(3, 40, 4) }).expect("it fits alone");
    assert_eq!(shape(&scheduler.plan(NOW)), [(3, 0, 40, true)], "a higher priority takes its place");
    scheduler.remove(SequenceId(3));
    assert!(scheduler.plan(NOW).is_empty(), "what its step computed is not known yet");
    scheduler.computed(SequenceId(2), 20);
    scheduler.append(SequenceId(2), Token::Known(5));
    let plan = scheduler.plan(NOW);
    assert_eq!(shape(&plan), [(2, 0, 21, true)]);
    assert_eq!(plan.spans[0].tokens.last(), Some(&Token::Known(5)));
}

#[test]
fn a_prefix_that_has_been_computed_is_not_computed_again() {
    let mut scheduler = scheduler(2, 200, 16);
    let prompt = |tail: u32| (0..70).chain([tail]).collect::<Vec<u32>>();
    scheduler.add(Admission { prompt: prompt(1), ..admission(1, 0, 4) }).expect("it fits");
    scheduler.plan(NOW);
    scheduler.computed(SequenceId(1), 71);
    scheduler.add(Admission { prompt: prompt(2), ..admission(2, 0, 4) }).expect("it fits");
    assert_eq!(shape(&scheduler.plan(NOW)), [(2, 64, 7, true)]);
    scheduler.remove(SequenceId(1));
    scheduler.remove(SequenceId(2));
    assert_eq!(scheduler.store().available(), 16);
}

#[test]
fn guesses_are_planned_behind_the_token_they_follow_and_kept_as_far_as_they_are_right() {
    let mut scheduler = scheduler(2, 100, 8);
    scheduler.add(admission(1, 31, 20)).expect("it fits");
    scheduler.plan(NOW);
    scheduler.append(SequenceId(1), Token::Known(5));
    scheduler.guess(SequenceId(1), vec![6, 7, 8]);
    let plan = scheduler.plan(NOW);
    let span = &plan.spans[0];
    assert_eq!((span.start, &span.tokens[..], span.samples), (31, &[5, 6, 7, 8].map(Token::Known)[..], 4));
    assert_eq!(span.blocks.len(), 2, "there is room for the guesses");
    assert!(scheduler.plan(NOW).is_empty(), "what follows is known when the guesses have been checked");
    for token in [6, 9] {
        scheduler.append(SequenceId(1), Token::Known(token));
    }
    scheduler.keep(SequenceId(1), 1);
    let plan = scheduler.plan(NOW);
    assert_eq!((plan.spans[0].start, &plan.spans[0].tokens[..]), (33, &[Token::Known(9)][..]));
    scheduler.remove(SequenceId(1));
    assert_eq!(scheduler.store().available(), 8);
}

#[test]
fn guesses_take_neither_the_budget_nor_the_blocks_of_others() {
    let mut scheduler = scheduler(2, 4, 2);
    scheduler.add(admission(1, 1, 20)).expect("it fits");
    scheduler.plan(NOW);
    scheduler.append(SequenceId(1), Token::Known(5));
    scheduler.guess(SequenceId(1), vec![6; 10]);
    assert_eq!(shape(&scheduler.plan(NOW)), [(1, 1, 4, true)], "as many as the budget allows");
    let mut crowded = super::tests::scheduler(1, 200, 1);
    crowded.add(admission(2, 30, 2)).expect("it fits");
    crowded.plan(NOW);
    crowded.append(SequenceId(2), Token::Known(5));
    crowded.guess(SequenceId(2), vec![6; 2]);
    assert_eq!(shape(&crowded.plan(NOW)), [(2, 30, 1, true)], "there is no block for them");
}

#[test]
fn a_sequence_that_is_only_planned_shares_nothing_yet() {
    let mut scheduler = scheduler(2, 200, 16);
    let admit = |id| Admission { prompt: (0..70).collect(), ..admission(id, 0, 4) };
    scheduler.add(admit(1)).expect("it fits");
    scheduler.plan(NOW);
    scheduler.add(admit(2)).expect("it fits");
    assert_eq!(shape(&scheduler.plan(NOW)), [(2, 0, 70, true)]);
}

#[test]
fn a_deadline_ends_what_waits_and_what_runs_and_frees_its_blocks() {
    let mut scheduler = scheduler(1, 100, 4);
    let until =
        |id, seconds| Admission { deadline: Some(Duration::from_secs(seconds)), ..admission(id, 40, 4) };
    for (id, seconds) in [(1, 5), (2, 3), (3, 9)] {
        scheduler.add(until(id, seconds)).expect("it fits");
    }
    scheduler.plan(NOW);
    assert_eq!(scheduler.expire(Duration::from_secs(2)), []);
    assert_eq!(scheduler.expire(Duration::from_secs(5)), [SequenceId(2), SequenceId(1)]);
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.store().available()), (0, 1, 4));
    scheduler.remove(SequenceId(3));
    assert_eq!(scheduler.expire(Duration::from_secs(99)), [], "what was removed does not expire");
}

#[test]
fn a_high_priority_takes_the_place_of_a_low_one_and_not_of_an_equal_one() {
    let mut scheduler = scheduler(1, 100, 8);
    scheduler.add(Admission { priority: -1, ..admission(1, 40, 4) }).expect("it fits");
    scheduler.plan(NOW);
    scheduler.add(admission(2, 40, 4)).expect("it fits");
    assert_eq!(shape(&scheduler.plan(NOW)), [(2, 0, 40, true)]);
    scheduler.add(admission(3, 40, 4)).expect("it fits");
    assert!(scheduler.plan(NOW).is_empty());
    assert_eq!((scheduler.running(), scheduler.waiting()), (1, 2));
}

#[test]
fn nothing_gives_way_to_what_would_not_fit_even_so() {
    let mut scheduler = scheduler(4, 100, 4);
    scheduler.add(Admission { priority: 2, ..admission(1, 2 * BLOCK_TOKENS, 4) }).expect("it fits");
    scheduler.add(admission(2, 4, 4)).expect("it fits");
    scheduler.plan(NOW);
    scheduler.add(Admission { priority: 1, ..admission(3, 3 * BLOCK_TOKENS, 4) }).expect("it fits alone");
    scheduler.plan(NOW);
    assert_eq!(
        (scheduler.running(), scheduler.preempted()),
        (1, 0),
        "the second had no reserve, the third no room"
    );
}
