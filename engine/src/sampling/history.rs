//! The tokens a sequence has seen, and what penalties make of them.
//!
//! Keeps nothing that its penalties do not need. Repetition follows Keskar et al. (2019,
//! arXiv:1909.05858); frequency and presence follow OpenAI's API.

use std::collections::{HashMap, VecDeque};

use crate::SamplingParams;

#[derive(Debug, Clone)]
pub(super) struct History {
    repetition_penalty: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    window: usize,
    /// The latest tokens, prompt included, at most `window`.
    latest: VecDeque<u32>,
    /// How often each token is in `latest`.
    in_window: HashMap<u32, u32>,
    generated: HashMap<u32, u32>,
}

impl History {
    pub(super) fn new(params: &SamplingParams) -> Self {
        let repeats = params.repetition_penalty != 1.0;
        Self {
            repetition_penalty: params.repetition_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            window: if repeats { params.repetition_window as usize } else { 0 },
            latest: VecDeque::new(),
            in_window: HashMap::new(),
            generated: HashMap::new(),
        }
    }

    pub(super) fn is_neutral(&self) -> bool {
        self.window == 0 && !self.counts_generated()
    }

    pub(super) fn observe_prompt(&mut self, tokens: &[u32]) {
        for &token in &tokens[tokens.len().saturating_sub(self.window)..] {
            self.remember(token);
        }
    }

    pub(super) fn accept(&mut self, token: u32) {
        self.remember(token);
        if self.counts_generated() {
            *self.generated.entry(token).or_default() += 1;
        }
    }

    /// Each logit depends on its own token only, so the maps' order does not matter.
    pub(super) fn penalise(&self, logits: &mut [f32]) {
        for &token in self.in_window.keys() {
            if let Some(logit) = logits.get_mut(token as usize) {
                match *logit > 0.0 {
                    true => *logit /= self.repetition_penalty,
                    false => *logit *= self.repetition_penalty,
                }
            }
        }
        for (&token, &count) in &self.generated {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit -= self.frequency_penalty * count as f32 + self.presence_penalty;
            }
        }
    }

    fn counts_generated(&self) -> bool {
        self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    fn remember(&mut self, token: u32) {
        if self.window == 0 {
            return;
        }
        if self.latest.len() == self.window
            && let Some(oldest) = self.latest.pop_front()
            && let Some(count) = self.in_window.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.in_window.remove(&oldest);
            }
        }
        self.latest.push_back(token);
        *self.in_window.entry(token).or_default() += 1;
    }
}
