//! A scheduler, a device and requests, driven as the engine drives them: the next step is planned and launched
//! before the last is read, unless a sequence of the last is sampled by the host; with a pipeline, as many steps as it
//! has stages are launched, and nobody awaits a token.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::super::*;
use super::device::{Device, history, sample};
use crate::blocks::{BlockStore, StateLimits};

/// What a request will do.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) prompt: Vec<u32>,
    pub(super) max_new_tokens: usize,
    pub(super) priority: i32,
    pub(super) client: u8,
    /// Ends at this token of the vocabulary.
    pub(super) eos: Option<u32>,
    pub(super) sampled_by_host: bool,
    /// From its arrival.
    pub(super) deadline: Option<Duration>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Cancelled,
    Expired,
    /// Its step broke off.
    Failed,
}

pub(super) struct Live {
    pub(super) script: Script,
    pub(super) output: Vec<u32>,
    pub(super) arrival: Duration,
    pub(super) first_planned: Option<Duration>,
    launched: usize,
    /// Tokens computed, the first time.
    reached: usize,
}

/// A step that has been launched and not read.
struct Launched {
    sampled: BTreeMap<SequenceId, u32>,
    computed: Vec<(SequenceId, usize)>,
    by_host: bool,
    broken: bool,
}

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    device: Device,
    pub(super) live: BTreeMap<SequenceId, Live>,
    pub(super) ended: BTreeMap<SequenceId, (Live, End)>,
    launched: VecDeque<Launched>,
    pub(super) now: Duration,
    /// Tokens computed for each client and twice those generated, leaving out what was computed again.
    pub(super) served: BTreeMap<u8, u64>,
    pub(super) steps: u64,
    /// Tokens of prompts that were found in the pool.
    pub(super) shared: usize,
    /// The next step is to break off.
    pub(super) breaks: bool,
    next: u64,
    limits: SchedulerLimits,
}

impl World {
    pub(super) fn new(limits: SchedulerLimits, blocks: usize, states: Option<StateLimits>) -> Self {
        let store = BlockStore::new(blocks);
        let store = match states {
            Some(limits) => store.with_states(limits),
            None => store,
        };
        Self {
            scheduler: Scheduler::new(limits, store),
            device: Device::new(blocks),
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            launched: VecDeque::new(),
            now: Duration::ZERO,
            served: BTreeMap::new(),
            steps: 0,
            shared: 0,
            breaks: false,
            next: 0,
            limits,
        }
    }

    pub(super) fn submit(&mut self, script: Script) -> SequenceId {
        let sequence = SequenceId(self.next);
        self.next += 1;
        let admission = Admission {
            sequence,
            prompt: script.prompt.clone(),
            resumed: 0,
            max_new_tokens: script.max_new_tokens,
            priority: script.priority,
            client: Some(script.client.to_string().into()),
            arrival: self.now,
            deadline: script.deadline.map(|after| self.now + after),
        };
        self.scheduler.add(admission).expect("scripts fit the pool");
        let (output, arrival) = (Vec::new(), self.now);
        self.live
            .insert(sequence, Live { script, output, arrival, first_planned: None, launched: 0, reached: 0 });
        sequence
    }

    pub(super) fn cancel(&mut self, sequence: SequenceId) {
        self.scheduler.remove(sequence);
        self.end(sequence, End::Cancelled);
    }

    /// One step, as `serving::step::advance` takes it.
    pub(super) fn step(&mut self, took: Duration) {
        self.steps += 1;
        self.now += took;
        for sequence in self.scheduler.expire(self.now) {
            self.end(sequence, End::Expired);
        }
        let pipelined = self.limits.stages > 1;
        if !pipelined && self.launched.front().is_some_and(|step| step.by_host) {
            self.read_first();
        }
        let idle = self.launched.is_empty();
        let plan = self.scheduler.plan(self.now);
        assert!(
            !(plan.is_empty() && idle && !self.live.is_empty()),
            "a step does nothing while requests wait"
        );
        self.check(&plan);
        if plan.is_empty() {
            self.read_first();
        } else {
            let step = self.launch(&plan);
            self.launched.push_back(step);
        }
        while self.launched.len() > (self.limits.stages - 1).max(1) {
            self.read_first();
        }
    }

    fn read_first(&mut self) {
        self.launched.pop_front().into_iter().for_each(|step| self.read(step));
    }

    /// Steps until nothing is left.
    pub(super) fn drain(&mut self, took: Duration) {
        let before = self.steps;
        while !self.live.is_empty() || !self.launched.is_empty() {
            assert!(self.steps < before + 2_000_000, "it comes to an end");
            self.step(took);
        }
    }

    fn launch(&mut self, plan: &StepPlan) -> Launched {
        let pipelined = self.limits.stages > 1;
        // One that breaks off ends the whole pipeline.
        let broken = std::mem::take(&mut self.breaks) && !pipelined;
        let sampled = if broken { self.device.break_off(plan) } else { self.device.run(plan) };
        let by_host =
            sampled.keys().any(|name| self.live.get(name).is_some_and(|l| l.script.sampled_by_host));
        let awaits = |name: &SequenceId| !by_host && !pipelined && sampled.contains_key(name);
        for (name, live) in self.live.iter_mut().filter(|(name, _)| awaits(name)) {
            live.launched = live.launched.max(live.output.len()) + 1;
            if live.launched < live.script.max_new_tokens {
                self.scheduler.append(*name, Token::Awaited);
            }
        }
        plan.spans.iter().for_each(|span| self.account(span));
        let end = |span: &Span| (span.sequence, span.start + span.tokens.len());
        Launched { sampled, computed: plan.spans.iter().map(end).collect(), by_host, broken }
    }

    fn account(&mut self, span: &Span) {
        let Some(live) = self.live.get_mut(&span.sequence) else { return };
        let end = (span.start + span.tokens.len()).min(live.script.prompt.len());
        let new = end.saturating_sub(live.reached) as u64;
        live.reached = live.reached.max(end);
        *self.served.entry(live.script.client).or_default() += new + 2 * u64::from(span.samples > 0);
    }

    fn read(&mut self, step: Launched) {
        if step.broken {
            for (sequence, _) in step.computed {
                if self.live.contains_key(&sequence) {
                    self.scheduler.remove(sequence);
                    self.end(sequence, End::Failed);
                }
            }
            return;
        }
        for (sequence, tokens) in step.computed {
            self.scheduler.computed(sequence, tokens);
        }
        for (sequence, token) in step.sampled {
            let Some(live) = self.live.get_mut(&sequence) else { continue };
            live.output.push(token);
            if live.script.eos == Some(token) || live.output.len() == live.script.max_new_tokens {
                self.scheduler.remove(sequence);
                self.end(sequence, End::Finished);
            } else {
                self.scheduler.append(sequence, Token::Known(token));
            }
        }
    }

    fn end(&mut self, sequence: SequenceId, end: End) {
        let live = self.live.remove(&sequence).expect("a request ends once");
        let whole = live.script.output();
        match end {
            End::Finished => assert_eq!(live.output, whole, "{sequence:?} gets what it would get alone"),
            _ => assert_eq!(live.output, whole[..live.output.len()], "{sequence:?} gets a part of it"),
        }
        self.ended.insert(sequence, (live, end));
    }

    /// What must hold of every plan, before it runs.
    fn check(&mut self, plan: &StepPlan) {
        let decoding = plan.spans.iter().filter(|span| span.tokens.len() == 1).count();
        assert!(plan.len() <= self.limits.step_tokens.max(decoding), "{} tokens in a step", plan.len());
        assert!(self.scheduler.running() <= self.limits.max_sequences);
        let (mut names, mut written) = (BTreeSet::new(), BTreeSet::new());
        for span in &plan.spans {
            assert!(names.insert(span.sequence), "a sequence has one span a step");
            let first = span.start / crate::blocks::BLOCK_TOKENS;
            let last = (span.start + span.tokens.len() - 1) / crate::blocks::BLOCK_TOKENS;
            for block in &span.blocks[first..=last] {
                assert!(written.insert(*block), "two sequences write {block:?}");
            }
            let live = self.live.get_mut(&span.sequence).expect("what has ended is not planned");
            if live.first_planned.replace(live.first_planned.unwrap_or(self.now)).is_none() {
                self.shared += span.start;
            }
        }
        for span in &plan.spans {
            let before = span.start / crate::blocks::BLOCK_TOKENS;
            assert!(
                span.blocks[..before].iter().all(|b| !written.contains(b)),
                "what is read is not written"
            );
        }
        let stateful = self.scheduler.store().has_states();
        assert!(plan.spans.iter().all(|span| span.state.is_some() == stateful));
        self.check_contents(plan, self.launched.front().filter(|step| step.broken));
        self.scheduler.check();
    }

    /// What is read from the pool is the sequence's own; a copied block is complete only once the step runs, and
    /// a sequence whose step broke off does not know it yet.
    fn check_contents(&self, plan: &StepPlan, broken: Option<&Launched>) {
        let lost = |name| broken.is_some_and(|step| step.computed.iter().any(|(member, _)| *member == name));
        for span in plan.spans.iter().filter(|span| plan.copies.is_empty() && !lost(span.sequence)) {
            let live = &self.live[&span.sequence];
            let known: Vec<u32> = live.script.prompt.iter().chain(&live.output).copied().collect();
            assert!(self.device.holds(span, &known), "{:?} reads the keys of another", span.sequence);
        }
    }
}

impl Script {
    /// What it gets alone.
    pub(super) fn output(&self) -> Vec<u32> {
        let mut state = self.prompt.iter().fold(0, |before, token| history(before, *token));
        let mut output = Vec::new();
        while output.len() < self.max_new_tokens {
            let token = sample(state);
            output.push(token);
            if self.eos == Some(token) {
                break;
            }
            state = history(state, token);
        }
        output
    }
}
