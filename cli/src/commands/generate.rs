//! `mlxcel generate`: one prompt, its answer, and the speed.

use std::io::{Read, Write};

use anyhow::{Context, Result};
use mlxcel_engine::{AnswerOptions, ChatPrompt, FinishReason, Prompt, Request, SamplingParams, Turn};
use serde_json::json;

use super::generation::{Answer, computed, generate, rate, speed};
use super::loading::load_model;
use crate::args::{GenerateArgs, PromptArgs};

pub(crate) async fn run(args: GenerateArgs) -> Result<()> {
    let text = match args.prompt {
        Some(text) => text,
        None => read_standard_input()?,
    };
    let engine = load_model(&args.model, &args.trace).await?;
    let request = request(&text, &args.options, args.sampling.params());
    let quiet = args.json;
    let answer =
        generate(engine.as_ref(), request, &mut |piece| if quiet { Ok(()) } else { print_now(piece) })
            .await?;
    if args.json {
        println!("{}", as_json(&answer));
    } else {
        println!();
        eprintln!("{}", speed(&answer.finish));
    }
    answer.expect_whole()
}

/// A request for a single message, or for plain text without the chat template.
pub(crate) fn request(text: &str, options: &PromptArgs, sampling: SamplingParams) -> Request {
    let prompt = if options.no_chat_template {
        Prompt::Text(text.to_owned())
    } else {
        let system = options.system.iter().map(|text| json!({"role": "system", "content": text}));
        let user = json!({"role": "user", "content": text});
        let messages = system.chain([user]).collect();
        Prompt::Chat(ChatPrompt { messages, ..ChatPrompt::default() })
    };
    let (limits, turn, answer) = (options.limits(), Turn::default(), AnswerOptions::default());
    Request { id: "prompt".to_owned(), prompt, sampling, limits, turn, answer }
}

/// Writes a piece of an answer without waiting for the end of its line.
pub(crate) fn print_now(piece: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(piece.as_bytes())?;
    Ok(out.flush()?)
}

fn read_standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the prompt from standard input")?;
    // The end of the last line is the file's, not the prompt's.
    Ok(text
        .strip_suffix('\n')
        .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line))
        .to_owned())
}

fn as_json(answer: &Answer) -> serde_json::Value {
    let finish = &answer.finish;
    json!({
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": match finish.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::Repetition => "repetition",
            FinishReason::Cancelled => "cancelled",
        },
        "prompt_tokens": finish.prompt_tokens,
        "cached_tokens": finish.cached_tokens,
        "completion_tokens": finish.completion_tokens,
        "prefill_seconds": finish.prefill.as_secs_f64(),
        "decode_seconds": finish.decode.as_secs_f64(),
        "prefill_tokens_per_second": rate(computed(finish), finish.prefill),
        "decode_tokens_per_second": rate(finish.completion_tokens.saturating_sub(1), finish.decode),
    })
}
