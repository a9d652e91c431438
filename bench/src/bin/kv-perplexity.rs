//! `kv-perplexity`: what storing keys and values in fewer bits costs, on a text, one JSON line a dtype.
//!
//! The text is cut into windows; in each, every token is predicted from all before it, over keys and values as they
//! are stored. Beside the perplexity stands how often the likeliest token is the one f32 finds, and how far the
//! logarithms of probabilities are from its. Any text will do that the model does not know by heart.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mlxcel_engine::{DeviceChoice, KvDtype, LoadOptions, Scored, Scorer};
use serde_json::json;

/// Measure the perplexity of a model on a text for each way to store keys and values.
#[derive(Debug, Parser)]
struct Args {
    /// A checkpoint directory or GGUF file.
    #[arg(short, long)]
    model: PathBuf,
    /// Text files, put together.
    #[arg(short, long, required = true)]
    text: Vec<PathBuf>,
    /// Tokens of a window.
    #[arg(long, default_value_t = 2048)]
    window: usize,
    /// Most windows.
    #[arg(long, default_value_t = 16)]
    windows: usize,
    /// Run on the CPU in a GPU build.
    #[arg(long)]
    cpu: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.window > 1, "a window must hold 2 tokens or more, got {}", args.window);
    let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("{}", path.display()));
    let text = args.text.iter().map(read).collect::<Result<Vec<_>>>()?.concat();
    let mut exact: Vec<Scored> = Vec::new();
    for dtype in KvDtype::ALL {
        let options = LoadOptions {
            device: if args.cpu { DeviceChoice::Cpu } else { DeviceChoice::Default },
            kv_dtype: Some(dtype),
            ..LoadOptions::default()
        };
        let scorer = Scorer::load(&args.model, &options, &mut |_| {})?;
        let tokens = scorer.tokens(&text)?;
        let windows: Vec<&[u32]> = tokens.chunks(args.window).take(args.windows).collect();
        let mut scores = Vec::new();
        for window in &windows {
            scores.extend(scorer.score(window)?);
        }
        ensure!(!scores.is_empty(), "the text has fewer than two tokens");
        if dtype == KvDtype::F32 {
            exact.clone_from(&scores);
        }
        println!("{}", line(dtype, scorer.kv_bytes_per_token(), &scores, &exact));
    }
    Ok(())
}

/// What is printed of a dtype; `exact` are the scores of f32.
fn line(dtype: KvDtype, bytes: u64, scores: &[Scored], exact: &[Scored]) -> serde_json::Value {
    let mean = |of: &dyn Fn(&Scored, &Scored) -> f64| {
        scores.iter().zip(exact).map(|(score, exact)| of(score, exact)).sum::<f64>() / scores.len() as f64
    };
    json!({
        "kv_dtype": dtype.name(),
        "kv_bytes_per_token": bytes,
        "tokens": scores.len(),
        "perplexity": (-mean(&|score, _| score.logprob)).exp(),
        "perplexity_ratio": mean(&|score, exact| exact.logprob - score.logprob).exp(),
        "mean_logprob_error": mean(&|score, exact| (score.logprob - exact.logprob).abs()),
        "same_likeliest": mean(&|score, exact| f64::from(u8::from(score.likeliest == exact.likeliest))),
    })
}
