//! Continuous batching: what the next step computes.
//!
//! A step decodes every running sequence and fills what is left of its token budget with chunks of prompts. A
//! sequence is admitted when its prompt fits beside a reserve, and grows block by block; when no block is left,
//! the last in rank gives its blocks up and waits, and its tokens so far are its prompt when it comes back
//! (preemption by recompute, as in vLLM: Kwon et al., "PagedAttention", SOSP 2023). Who is next is `queue`'s to say.

use std::time::Duration;

use super::member::{Member, Running};
use super::plan::StepPlan;
use super::preemption::rank;
use super::queue::Next;
use super::scheduler::Scheduler;
use super::service::{OUTPUT_COST, PROMPT_COST};
use crate::blocks::{BlockTable, blocks_for};

impl Scheduler {
    /// Admits what fits and plans the next step; empty when there is nothing to do. Planned tokens count as computed
    /// for the plans that follow.
    pub fn plan(&mut self, now: Duration) -> StepPlan {
        self.plans += 1;
        rank(&mut self.running);
        self.make_way(now);
        let mut plan = StepPlan::default();
        let crowded = self.decode(&mut plan, now);
        let budget = self.limits.step_tokens.max(1).saturating_sub(plan.len());
        if !crowded {
            self.admit(budget, now);
        }
        if plan.is_empty() && self.running.is_empty() {
            // All gave way for one that does not fit yet: whoever is next need not wait for another plan.
            self.plans += 1;
            self.admit(budget, now);
        }
        self.prefill(&mut plan, budget);
        plan
    }

    /// Has sequences of a lower level give way to the next one that waits, if that makes room for it.
    fn make_way(&mut self, now: Duration) {
        let Some(next) = self.next(now) else { return };
        let lower = self.running.iter().rev().take_while(|entry| entry.level < next.level);
        let (count, held) = lower.fold((0, 0), |(n, held), entry| (n + 1, held + entry.table.blocks().len()));
        let needed = self.queue.get(&next).map_or(usize::MAX, |member| blocks_for(member.tokens.len()));
        let slots = self.running.len() - count < self.limits.max_sequences;
        if !slots || self.store.available() + held < needed {
            return;
        }
        for _ in 0..count {
            let fits = self.running.len() < self.limits.max_sequences
                && self.place(&next).is_some_and(|table| {
                    self.store.release(table);
                    true
                });
            if fits {
                return;
            }
            self.preempt_last(now);
        }
    }

    /// Plans the next token of every sequence that has just one, or of this step's part of them; true when sequences
    /// had to give way.
    fn decode(&mut self, plan: &mut StepPlan, now: Duration) -> bool {
        let before = self.running.len();
        let most = before.div_ceil(self.limits.stages.max(1));
        let mut at = 0;
        while at < self.running.len() && plan.spans.len() < most {
            if self.running[at].pending() == 1 && self.grow(at, plan, now) {
                self.grow_for_guesses(at, plan);
                self.compute(at, 1, plan);
            }
            at += 1;
        }
        self.running.len() < before
    }

    /// Makes room for the guesses of the sequence at `at`, or drops them: nobody gives way to a guess, and those
    /// that exceed the budget of a step are not checked.
    fn grow_for_guesses(&mut self, at: usize, plan: &mut StepPlan) {
        let left = self.limits.step_tokens.saturating_sub(plan.len() + self.running.len() - at);
        let entry = &mut self.running[at];
        entry.guesses.truncate(left);
        // A state that has seen a wrong guess could not be taken back.
        if entry.member.awaited > 0 || self.store.has_states() {
            entry.guesses.clear();
        }
        let lacking = entry.lacking(1 + entry.guesses.len());
        match self.store.grow(&mut entry.table, lacking) {
            Ok(copy) => plan.copies.extend(copy),
            Err(_) => entry.guesses.clear(),
        }
    }

    /// Makes room for the next token of the sequence at `at`, at the cost of those after it; false when it had to
    /// give way itself.
    fn grow(&mut self, at: usize, plan: &mut StepPlan, now: Duration) -> bool {
        while let Some(entry) = self.running.get_mut(at) {
            let lacking = entry.lacking(1);
            if let Ok(copy) = self.store.grow(&mut entry.table, lacking) {
                plan.copies.extend(copy);
                return true;
            }
            self.preempt_last(now);
        }
        false
    }

    /// The last in rank gives its blocks up.
    fn preempt_last(&mut self, now: Duration) {
        let Some(Running { mut member, table, .. }) = self.running.pop() else { return };
        self.store.release(table);
        self.preempted += 1;
        member.not_before = self.plans + 1;
        self.queue.insert(member, &mut self.service, now);
    }

    /// Admits what may run beside what runs, as long as what goes before it leaves any of `budget`.
    fn admit(&mut self, budget: usize, now: Duration) {
        while self.running.len() < self.limits.max_sequences
            && let Some(next) = self.next(now)
        {
            let before = self.running.iter().filter(|entry| entry.level >= next.level);
            if before.map(Running::pending).sum::<usize>() >= budget {
                return;
            }
            let Some(mut table) = self.place(&next) else { return };
            let Some(mut member) = self.queue.take(&next, &mut self.service, now) else {
                return self.store.release(table);
            };
            let shared = table.tokens();
            let rest = member.tokens.len() - shared;
            if self.store.grow(&mut table, rest).is_err() {
                // `place` has seen that there is room.
                self.store.release(table);
                return self.queue.insert(member, &mut self.service, now);
            }
            if !std::mem::replace(&mut member.charged, true) {
                self.service.charge(&member.client, PROMPT_COST * rest as u64);
            }
            self.running.push(Running {
                member,
                table,
                level: next.level,
                planned: shared,
                computed: shared,
                guesses: Vec::new(),
            });
        }
    }

    /// Plans chunks of prompts, by rank. What has no room is for another step of the pipeline to decode.
    fn prefill(&mut self, plan: &mut StepPlan, mut budget: usize) {
        rank(&mut self.running);
        for at in 0..self.running.len() {
            let count = self.running[at].chunk(plan.len(), budget, self.limits.exact_rows);
            if count > 0 && self.running[at].lacking(count) == 0 {
                budget -= count;
                self.compute(at, count, plan);
            }
        }
    }

    /// Plans the next `count` tokens of the sequence at `at`.
    fn compute(&mut self, at: usize, count: usize, plan: &mut StepPlan) {
        let entry = &mut self.running[at];
        // A slot for its state was claimed when it was admitted.
        let Ok(state) = self.store.advance(&mut entry.table, count) else { return };
        let span = entry.take(count, state);
        if span.samples > 0 {
            self.service.charge(&entry.member.client, OUTPUT_COST);
        }
        plan.spans.push(span);
    }

    /// Whose turn it is, unless a step that computes tokens of it has yet to be read: what that step computed went
    /// to blocks that it may no longer have.
    fn next(&self, now: Duration) -> Option<Next> {
        let next = self.queue.next(&self.service, now)?;
        let may_enter = |member: &Member| member.not_before <= self.plans && member.in_flight == 0;
        self.queue.get(&next).is_some_and(may_enter).then_some(next)
    }

    /// A table of what `next` shares with others, if there is room for its state, and for the rest of its tokens beside a
    /// block for every running sequence to grow into, or a hundredth of the pool: what is admitted should not soon have to
    /// give way again.
    fn place(&mut self, next: &Next) -> Option<BlockTable> {
        let tokens = &self.queue.get(next)?.tokens;
        let mut table = self.store.attach(tokens);
        let needed = self.store.needed(&table, tokens.len() - table.tokens());
        if needed + self.reserve() <= self.store.available() && self.store.claim_state(&mut table).is_ok() {
            return Some(table);
        }
        self.store.release(table);
        None
    }

    /// Blocks to be left for what runs.
    pub(super) fn reserve(&self) -> usize {
        match self.running.len() {
            0 => 0,
            running => (running + 1).max(self.store.total() / 100),
        }
    }
}
