//! One case: the same request several times, and the median of its rates.

use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Result, bail};
use mlxcel_engine::{
    AnswerOptions, Delta, Engine, Event, Finish, Limits, Prompt, Request, SamplingParams, Turn,
};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Tokens of each prompt.
    pub(crate) prompt: u32,
    /// Tokens each sequence generates.
    pub(crate) decode: u32,
    /// Sequences side by side.
    pub(crate) sequences: u32,
    pub(crate) draw: Draw,
}

/// How tokens are drawn; greedily at temperature 0.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Draw {
    /// Draw tokens at this temperature.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temperature: f32,
    /// Among so many most likely ones; 0 for all.
    #[arg(long, default_value_t = 0)]
    pub(crate) top_k: u32,
    /// Among the most likely ones that have this probability together.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f32,
}

/// Rates of one run, tokens a second over all sequences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) prefill_rate: f64,
    pub(crate) decode_rate: f64,
}

/// Runs `case` on each engine once to warm up and `runs` times for its median, the engines taking turns.
pub(crate) fn median_runs(engines: &[Box<dyn Engine>], case: Case, runs: usize) -> Result<Vec<Rates>> {
    let mut rates = vec![Vec::new(); engines.len()];
    for round in 0..=runs.max(1) {
        for (engine, rates) in engines.iter().zip(&mut rates) {
            let rate = run(engine.as_ref(), case, round)?;
            // The first warms up.
            rates.extend((round > 0).then_some(rate));
        }
    }
    let of = |rates: &Vec<Rates>, rate: fn(&Rates) -> f64| median(rates.iter().map(rate).collect());
    let medians = |rates: &Vec<Rates>| Rates {
        prefill_rate: of(rates, |rate| rate.prefill_rate),
        decode_rate: of(rates, |rate| rate.decode_rate),
    };
    Ok(rates.iter().map(medians).collect())
}

fn run(engine: &dyn Engine, case: Case, salt: usize) -> Result<Rates> {
    let (sender, events) = mpsc::channel();
    for sequence in 0..case.sequences {
        let sender = sender.clone();
        // The receiver lives until every request has ended.
        let sink = Box::new(move |event| drop(sender.send((sequence, Instant::now(), event))));
        engine.submit(request(case, sequence, salt), sink);
    }
    drop(sender);
    let mut finished: Vec<Finish> = Vec::new();
    let (mut tokens_after_all_began, mut all_began, mut last) = (0u32, None, Instant::now());
    let mut began = std::collections::BTreeSet::new();
    for (sequence, at, event) in events {
        match event {
            Event::Started { .. } => {}
            Event::Delta(Delta { token_ids, .. }) => {
                last = at;
                began.insert(sequence);
                if all_began.is_some() {
                    tokens_after_all_began += u32::try_from(token_ids.len())?;
                } else if began.len() == case.sequences as usize {
                    all_began = Some(at);
                }
            }
            Event::Finished(finish) => finished.push(finish),
            Event::Failed(error) => bail!("a request failed: {error}"),
        }
    }
    let prefill = finished.iter().map(|finish| finish.prefill.as_secs_f64()).fold(0.0, f64::max);
    let decode = all_began.map_or(0.0, |begun: Instant| last.duration_since(begun).as_secs_f64());
    Ok(Rates {
        prefill_rate: f64::from(case.prompt * case.sequences) / prefill,
        decode_rate: f64::from(tokens_after_all_began) / decode.max(f64::MIN_POSITIVE),
    })
}

/// A prompt no other run shares, of tokens every vocabulary here has.
fn request(case: Case, sequence: u32, salt: usize) -> Request {
    // Of its length too: the engine would not compute the beginning of a longer prompt again.
    let start = sequence.wrapping_mul(7919).wrapping_add(u32::try_from(salt).unwrap_or(0) * 104_729);
    let start = start.wrapping_add(case.prompt.wrapping_mul(13_007));
    let Draw { temperature, top_k, top_p } = case.draw;
    let token = |index: u32| 5 + start.wrapping_add(index.wrapping_mul(2_654_435_761)) % 30_000;
    Request {
        id: format!("{salt}-{sequence}"),
        prompt: Prompt::Tokens((0..case.prompt).map(token).collect()),
        sampling: SamplingParams {
            temperature,
            top_k,
            top_p,
            seed: Some(salt as u64),
            ..SamplingParams::default()
        },
        limits: Limits { max_tokens: Some(case.decode), ignore_eos: true, ..Limits::default() },
        turn: Turn::default(),
        answer: AnswerOptions::default(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
