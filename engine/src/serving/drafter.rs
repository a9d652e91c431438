//! A draft model: guesses ahead for all sequences that want it, one ragged step for each token.
//!
//! What it holds of each sequence is in its books (`speculation::drafting`); how many guesses pay, and what becomes of
//! them, is decided elsewhere. Guesses are the draft's greedy choices, chosen on its device and read together.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use mlxcel_mlx_bridge::{Array, Result, eval};

use crate::decoder::{Model, SampledTokens, StepOutput};
use crate::schedule::{SequenceId, Span, StepPlan, Token};
use crate::speculation::{CatchUp, DraftBooks};
use crate::state::MixerCache;

/// The draft model of an engine.
pub(super) struct Drafter {
    model: Model,
    cache: MixerCache,
    books: DraftBooks,
    limits: DraftLimits,
    /// Seconds that a step of the draft takes, of late.
    step_seconds: Option<f64>,
}

/// What a draft must keep to.
#[derive(Debug, Clone)]
pub(super) struct DraftLimits {
    /// Least and most guesses for a sequence.
    pub(super) guesses: RangeInclusive<usize>,
    /// Most tokens of one step.
    pub(super) step_tokens: usize,
    /// Positions that the draft knows.
    pub(super) context: usize,
    /// Tokens that the target knows: a draft may have more, which pad its vocabulary.
    pub(super) vocabulary: u32,
}

/// A sequence that wants guesses.
pub(super) struct Wanted {
    pub(super) sequence: SequenceId,
    /// All of its tokens, the next one to compute included.
    pub(super) tokens: Vec<u32>,
    pub(super) guesses: usize,
}

/// A sequence that is being guessed for.
struct Drafting<'a> {
    wanted: &'a Wanted,
    catch_up: CatchUp,
    guesses: Vec<u32>,
}

impl Drafter {
    pub(super) fn new(model: Model, blocks: usize, limits: DraftLimits) -> Self {
        let cache = model.cache(blocks);
        Self { model, cache, books: DraftBooks::new(blocks), limits, step_seconds: None }
    }

    /// Least and most guesses for a sequence.
    pub(super) fn guesses(&self) -> RangeInclusive<usize> {
        self.limits.guesses.clone()
    }

    /// What a step of the draft costs, in seconds, once that is known.
    pub(super) const fn step_seconds(&self) -> Option<f64> {
        self.step_seconds
    }

    /// Forgets sequences that have ended.
    pub(super) fn retain(&mut self, lives: impl Fn(SequenceId) -> bool) {
        self.books.retain(lives);
    }

    /// Guesses for each sequence, as many as it wants or fewer: none where the draft's pool has no room, or a long
    /// prompt has to be computed first, which this begins.
    pub(super) fn propose(&mut self, wanted: &[Wanted]) -> Result<BTreeMap<SequenceId, Vec<u32>>> {
        let mut drafting = self.catch_up(wanted)?;
        let begun = Instant::now();
        let mut steps = Vec::new();
        let most = drafting.iter().map(|one| one.wanted.guesses).max().unwrap_or(0);
        let mut computed = 0;
        for ahead in 0..most {
            let previous = steps.last();
            let plan = plan(&drafting, ahead);
            computed = computed.max(plan.len());
            steps.push(self.step(plan, previous)?);
        }
        let ids: Vec<&Array> = steps.iter().map(|step| &step.ids).collect();
        eval(&ids)?;
        // Steps that compute more than a token or two of each sequence are not what the next ones will be.
        if most > 0 && computed <= 2 * drafting.len() {
            self.learn(begun.elapsed().as_secs_f64() / most as f64);
        }
        for step in &steps {
            take(&mut drafting, &step.spans.iter().map(|span| span.sequence).collect::<Vec<_>>(), &step.ids)?;
        }
        Ok(self.finish(drafting))
    }

    /// Brings the books of each sequence up to its last token. Those for which that is more than fits into a step
    /// are computed here as far as it goes, and not guessed for.
    fn catch_up<'a>(&mut self, wanted: &'a [Wanted]) -> Result<Vec<Drafting<'a>>> {
        let mut drafting = Vec::new();
        let mut budget = self.limits.step_tokens;
        for wanted in wanted {
            let known = wanted.tokens.len();
            if wanted.guesses == 0 || known + wanted.guesses > self.limits.context {
                continue;
            }
            let caught_up = self.books.catch_up(wanted.sequence, &wanted.tokens, wanted.guesses);
            let Some(catch_up) = caught_up else { continue };
            let lacking = known - catch_up.start;
            if lacking <= budget {
                budget -= lacking;
                drafting.push(Drafting { wanted, catch_up, guesses: Vec::new() });
            } else if budget > 0 {
                self.compute_part(wanted, catch_up, budget)?;
                budget = 0;
            }
        }
        // A context that gave way to a later one of these has no blocks any more.
        drafting.retain(|one| self.books.holds(one.wanted.sequence, &one.catch_up));
        Ok(drafting)
    }

    fn compute_part(&mut self, wanted: &Wanted, catch_up: CatchUp, budget: usize) -> Result<()> {
        let tokens = &wanted.tokens[catch_up.start..catch_up.start + budget];
        let known = tokens.iter().copied().map(Token::Known).collect();
        let (sequence, start, blocks) = (wanted.sequence, catch_up.start, catch_up.blocks);
        let spans = vec![Span { sequence, tokens: known, start, samples: 0, blocks, state: None }];
        let plan = StepPlan { spans, copies: Vec::new() };
        if let StepOutput::Computed(hidden) = self.model.forward(plan, None, &mut self.cache)? {
            eval(&[&hidden])?;
        }
        self.books.computed(wanted.sequence, tokens);
        Ok(())
    }

    fn step(&mut self, plan: StepPlan, previous: Option<&SampledTokens>) -> Result<SampledTokens> {
        let spans = plan.sampled();
        let ids = match self.model.forward(plan, previous, &mut self.cache)? {
            StepOutput::Logits(logits) | StepOutput::Computed(logits) | StepOutput::Hidden(logits) => {
                logits.argmax(-1, false)?
            }
        };
        Ok(SampledTokens { spans, ids })
    }

    /// Notes what has been computed, and hands the guesses out.
    fn finish(&mut self, drafting: Vec<Drafting<'_>>) -> BTreeMap<SequenceId, Vec<u32>> {
        let mut proposed = BTreeMap::new();
        for Drafting { wanted, catch_up, mut guesses } in drafting {
            let mut computed = wanted.tokens[catch_up.start..].to_vec();
            // The last guess was chosen and not computed.
            computed.extend_from_slice(&guesses[..guesses.len().saturating_sub(1)]);
            self.books.computed(wanted.sequence, &computed);
            let known = guesses.iter().position(|guess| *guess >= self.limits.vocabulary);
            guesses.truncate(known.unwrap_or(guesses.len()));
            proposed.insert(wanted.sequence, guesses);
        }
        proposed
    }

    fn learn(&mut self, seconds: f64) {
        let known = self.step_seconds.unwrap_or(seconds);
        self.step_seconds = Some(known * 0.9 + seconds * 0.1);
    }
}

/// The step that chooses guess number `ahead` of every sequence that wants as many.
fn plan(drafting: &[Drafting<'_>], ahead: usize) -> StepPlan {
    let wanting = drafting.iter().filter(|one| one.wanted.guesses > ahead);
    let span = |one: &Drafting<'_>| {
        let known = &one.wanted.tokens[one.catch_up.start..];
        let (tokens, start) = match ahead {
            0 => (known.iter().copied().map(Token::Known).collect(), one.catch_up.start),
            _ => (vec![Token::Awaited], one.wanted.tokens.len() + ahead - 1),
        };
        let (sequence, blocks) = (one.wanted.sequence, one.catch_up.blocks.clone());
        Span { sequence, tokens, start, samples: 1, blocks, state: None }
    };
    StepPlan { spans: wanting.map(span).collect(), copies: Vec::new() }
}

/// Gives each sequence of a step the token chosen for it.
fn take(drafting: &mut [Drafting<'_>], sequences: &[SequenceId], ids: &Array) -> Result<()> {
    let ids: Vec<u32> = ids.to_vec()?;
    for (sequence, id) in sequences.iter().zip(ids) {
        let one = drafting.iter_mut().find(|one| one.wanted.sequence == *sequence);
        one.into_iter().for_each(|one| one.guesses.push(id));
    }
    Ok(())
}
