//! Steps: plan, compute, sample, tell.
//!
//! Where tokens are chosen as part of the step's graph, the next step is planned and launched before anyone
//! reads them: the device never waits for the host. That is so on the CPU for every sequence, on NVIDIA GPUs where
//! nothing but filters and a draw is wanted of any, on other GPUs where all are greedy; else the logits are read and
//! the next step waits for the choice. In a pipeline each stage has a step of its own, of other sequences, and a step
//! waits for the choices of the one before that had its own.

use std::time::Instant;

use mlxcel_mlx_bridge::{Array, Dtype, Result, async_eval, eval};

use super::command::UnderWay;
use super::exporting::Taps;
use super::sampled::{StepChoices, choose, sample};
use super::sequence::Sequence;
use super::stream::Ending;
use super::thread::EngineThread;
use crate::decoder::{Drawn, Execution, SampledTokens, StepOutput};
use crate::event::GenerateError;
use crate::sampling::{Choice, Draw, RowChoice, SharedRow};
use crate::schedule::{SampledSpan, SequenceId, StepPlan, Token};
use crate::speculation::accepted;

/// A sequence of a step, and how many of its tokens are computed after it.
type Member = (SequenceId, usize);

/// A step that has been launched and not read.
pub(super) struct Launched {
    members: Vec<Member>,
    /// Dropped when it has been computed.
    under_way: UnderWay,
    /// Rows of a step that only decodes.
    decodes: Option<usize>,
    at: Instant,
    outcome: Outcome,
    /// What is given away when it is done.
    taps: Taps,
}

enum Outcome {
    /// Tokens chosen in the graph.
    Tokens(SampledTokens, Chosen),
    /// Logits `[rows, vocabulary]`, to be sampled here.
    Logits(Vec<SampledSpan>, Array),
    /// A step that only fills caches.
    Computed(Array),
}

/// By what tokens were chosen in the graph.
enum Chosen {
    /// They have the largest logits.
    Largest,
    /// The sequences' samplers, on the host's cores.
    ByHost(StepChoices),
    /// The device, as the sequences' samplers would have.
    ByDevice {
        /// The tokens, and for each row whether it has no usable logits.
        told: Array,
        logits: Array,
    },
}

/// Launches the next step if there is one, then reads what is done, or the first of what is under way. A step that
/// fails ends the requests that were in it.
pub(super) fn advance(engine: &mut EngineThread) {
    let (stages, chains) = (engine.executor.stages(), engine.executor.chains());
    let decides = |step: &Launched| !chains || matches!(step.outcome, Outcome::Logits(..));
    if stages == 1 && engine.launched.front().is_some_and(decides) {
        read_first(engine);
    }
    let launched = launch(engine);
    let idle = !matches!(launched, Ok(Some(_)));
    match launched {
        Ok(next) => engine.launched.extend(next),
        Err((members, error)) => fail(engine, &members, &error.to_string()),
    }
    if idle {
        read_first(engine);
    }
    // While the first step of a pipeline is read, every stage has another.
    while engine.launched.len() > (stages - 1).max(1) {
        read_first(engine);
    }
}

fn read_first(engine: &mut EngineThread) {
    if let Some(step) = engine.launched.pop_front() {
        read(engine, step);
    }
}

/// Waits for the steps that still run. Their arrays must not be dropped before: MLX writes to them.
pub(super) fn settle(engine: &mut EngineThread) {
    while !engine.launched.is_empty() {
        read_first(engine);
    }
}

type LaunchError = (Vec<Member>, mlxcel_mlx_bridge::Error);

fn launch(engine: &mut EngineThread) -> Result<Option<Launched>, LaunchError> {
    let begin = engine.recorder.begin();
    engine.guess();
    let plan = engine.scheduler.plan(engine.since_begin());
    if plan.is_empty() {
        return Ok(None);
    }
    let figures = [("tokens", plan.len() as u64), ("sequences", plan.spans.len() as u64)];
    engine.recorder.end("plan", begin, figures);
    let members: Vec<Member> = plan.spans.iter().map(|span| span.sequence).zip(plan.lengths()).collect();
    for span in &plan.spans {
        if let Some(sequence) = engine.sequences.get_mut(&span.sequence) {
            sequence.computes_from(span.start);
        }
    }
    let (at, begin) = (Instant::now(), engine.recorder.begin());
    let decodes = plan.spans.iter().all(|span| span.samples == span.tokens.len()).then(|| plan.len());
    let under_way = engine.state.step(plan.len());
    let taps = engine.tap(&plan);
    let outcome = compute(engine, plan);
    engine.recorder.end("build", begin, figures);
    match outcome {
        Ok(outcome) => Ok(Some(Launched { members, under_way, decodes, at, outcome, taps })),
        Err(error) => Err((members, error)),
    }
}

fn compute(engine: &mut EngineThread, plan: StepPlan) -> Result<Outcome> {
    let spans = plan.sampled();
    let previous = engine.launched.back().and_then(|step| match &step.outcome {
        Outcome::Tokens(tokens, _) => Some(tokens),
        _ => None,
    });
    let logits = match engine.executor.forward(plan, previous)? {
        StepOutput::Computed(hidden) | StepOutput::Hidden(hidden) => {
            async_eval(&[&hidden])?;
            return Ok(Outcome::Computed(hidden));
        }
        StepOutput::Logits(logits) => logits,
    };
    let sequence = |span: &SampledSpan| engine.sequences.get(&span.sequence);
    // A sequence that has ended since counts as greedy: no one reads its token.
    let greedy = spans.iter().all(|span| sequence(span).is_none_or(|s| s.plain_greedy));
    let (ids, chosen) = match engine.executor.execution() {
        _ if greedy => (logits.argmax(-1, false)?, Chosen::Largest),
        Execution::Host => {
            let (ids, choices) = sample(&logits, &spans, states(engine, &spans))?;
            (ids, Chosen::ByHost(choices))
        }
        Execution::Graph | Execution::Cuda => match draw(engine, &spans, &logits)? {
            Some(Drawn { ids, told }) => (ids, Chosen::ByDevice { told, logits }),
            None => {
                async_eval(&[&logits])?;
                return Ok(Outcome::Logits(spans, logits));
            }
        },
    };
    async_eval(&[&ids])?;
    let chains = engine.executor.chains();
    for span in &spans {
        let waits = !chains || engine.waits(span);
        let expects = engine.sequences.get_mut(&span.sequence).is_some_and(Sequence::expects_another);
        if expects && !waits {
            engine.scheduler.append(span.sequence, Token::Awaited);
        }
    }
    Ok(Outcome::Tokens(SampledTokens { spans, ids }, chosen))
}

/// Tokens that the device draws, where it can do so for every row of the step.
fn draw(engine: &EngineThread, spans: &[SampledSpan], logits: &Array) -> Result<Option<Drawn>> {
    let rows = |span: &SampledSpan| {
        let sequence = engine.sequences.get(&span.sequence);
        (0..span.rows()).map(move |row| sequence.map_or(Some(Draw::GREEDY), |it| it.draw(row)))
    };
    let draws: Option<Vec<Draw>> = spans.iter().flat_map(rows).collect();
    draws.map_or(Ok(None), |draws| engine.executor.draw(logits, &draws))
}

/// The sampling states of the spans' sequences; none of one that has ended.
fn states(engine: &EngineThread, spans: &[SampledSpan]) -> Vec<Option<SharedRow>> {
    let state =
        |span: &SampledSpan| engine.sequences.get(&span.sequence).map(|sequence| sequence.row.clone());
    spans.iter().map(state).collect()
}

fn read(engine: &mut EngineThread, step: Launched) {
    let (array, sampled) = match &step.outcome {
        Outcome::Computed(hidden) => (hidden, 0),
        Outcome::Tokens(tokens, _) => (&tokens.ids, tokens.spans.len()),
        Outcome::Logits(spans, logits) => (logits, spans.len()),
    };
    let begin = engine.recorder.begin();
    let done = eval(&[array]);
    engine.recorder.end("wait", begin, [("sequences", step.members.len() as u64)]);
    drop(step.under_way);
    engine.learn_cost(step.decodes, step.at);
    let begin = engine.recorder.begin();
    let done = done.and_then(|()| engine.give(&step.taps)).and_then(|()| {
        // What the step wrote is in the pool now, and others may share it.
        step.members.iter().for_each(|&(name, tokens)| engine.scheduler.computed(name, tokens));
        match &step.outcome {
            Outcome::Computed(_) => Ok(()),
            Outcome::Tokens(tokens, chosen) => read_tokens(engine, tokens, chosen),
            Outcome::Logits(spans, logits) => read_logits(engine, spans, logits),
        }
    });
    engine.recorder.end("read", begin, [("tokens", sampled as u64)]);
    if let Err(error) = done {
        fail(engine, &step.members, &error.to_string());
    }
}

fn read_tokens(engine: &mut EngineThread, tokens: &SampledTokens, chosen: &Chosen) -> Result<()> {
    let choices = match chosen {
        Chosen::Largest => valid(&tokens.spans, &tokens.ids.to_vec()?),
        Chosen::ByHost(choices) => choices.take(),
        Chosen::ByDevice { told, logits } => {
            let told: Vec<u32> = told.to_vec()?;
            let (ids, failed) = told.split_at(told.len() / 2);
            if failed.iter().any(|&failed| failed != 0) {
                // What is wrong, the host can say; what is not, it chooses alike.
                return read_logits(engine, &tokens.spans, logits);
            }
            let choices = valid(&tokens.spans, ids);
            for (span, choices) in tokens.spans.iter().zip(&choices) {
                if let Some(sequence) = engine.sequences.get(&span.sequence) {
                    sequence.drawn(choices);
                }
            }
            choices
        }
    };
    for (span, choices) in tokens.spans.iter().zip(choices) {
        deliver_span(engine, span, choices);
    }
    Ok(())
}

/// The choices of each span among `ids`, `[rows]`: up to the first that is not what was guessed.
fn valid(spans: &[SampledSpan], mut ids: &[u32]) -> Vec<Vec<RowChoice>> {
    let mut choices = Vec::with_capacity(spans.len());
    for span in spans {
        let (own, rest) = ids.split_at(span.rows());
        let valid = &own[..=accepted(&span.guesses, own)];
        choices.push(valid.iter().map(|&token| Ok(Choice { token, ranking: None })).collect());
        ids = rest;
    }
    choices
}

fn read_logits(engine: &mut EngineThread, spans: &[SampledSpan], logits: &Array) -> Result<()> {
    let values: Vec<f32> = logits.astype(Dtype::Float32)?.to_vec()?;
    let choices = choose(spans, &states(engine, spans), &values);
    for (span, choices) in spans.iter().zip(choices) {
        deliver_span(engine, span, choices);
    }
    Ok(())
}

/// Gives a sequence the tokens chosen for it: the guesses that were right, and the model's own next one.
fn deliver_span(engine: &mut EngineThread, span: &SampledSpan, choices: Vec<RowChoice>) {
    let kept = choices.len().saturating_sub(1);
    for choice in choices {
        deliver(engine, span.sequence, choice);
    }
    engine.scheduler.keep(span.sequence, kept);
    if let Some(guessing) = engine.sequences.get_mut(&span.sequence).and_then(|s| s.guessing.as_mut()) {
        guessing.record(span.guesses.len(), kept);
    }
}

/// Gives a token to its sequence, and to the scheduler where the sequence goes on. One that has ended since the
/// token's step was launched has no use for it; one that gave its blocks up since has.
fn deliver(engine: &mut EngineThread, name: SequenceId, choice: RowChoice) {
    engine.open_others(name);
    let Some(sequence) = engine.sequences.get_mut(&name) else { return };
    let choice = match choice {
        Ok(choice) => choice,
        Err(error) => return fail(engine, &[(name, 0)], &error.to_string()),
    };
    let token = choice.token;
    let (updates, ended) = sequence.push(choice);
    let now = Instant::now();
    for update in updates {
        engine.delivery.push(name, now, update);
    }
    match ended {
        true => engine.remove(name),
        false => engine.scheduler.append(name, Token::Known(token)),
    }
}

fn fail(engine: &mut EngineThread, members: &[Member], reason: &str) {
    for &(name, _) in members {
        let error = match engine.executor.failure() {
            Some(lost) => GenerateError::Lost(lost),
            None => GenerateError::Internal(format!("a step failed: {reason}")),
        };
        engine.end(name, Ending::Failed(error));
    }
}
