//! One request on a local engine, streamed to a callback, ended early by Ctrl-C.

use std::time::Duration;

use anyhow::Result;
use mlxcel_engine::{Delta, Engine, Event, Finish, FinishReason, Request};
use tokio::sync::mpsc;

/// What a request produced.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) finish: Finish,
}

impl Answer {
    /// An error where Ctrl-C ended it early, so that scripts stop too.
    pub(crate) fn expect_whole(&self) -> Result<()> {
        match self.finish.reason {
            FinishReason::Cancelled => anyhow::bail!("interrupted"),
            _ => Ok(()),
        }
    }
}

/// Runs `request` to its end, giving each piece of text to `on_text` as it comes.
pub(crate) async fn generate(
    engine: &dyn Engine,
    request: Request,
    on_text: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Answer> {
    let id = request.id.clone();
    let (sender, mut events) = mpsc::unbounded_channel();
    // The receiver outlives the request, so that a failed send cannot lose an event.
    engine.submit(request, Box::new(move |event| drop(sender.send(event))));
    let (mut text, mut token_ids) = (String::new(), Vec::new());
    // One listener throughout, asked first: a signal that comes while a piece of text is written is not lost.
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let event = tokio::select! {
            biased;
            interrupted = &mut interrupt => {
                interrupted?;
                engine.cancel(&id);
                interrupt.set(tokio::signal::ctrl_c());
                continue;
            }
            event = events.recv() => event,
        };
        match event {
            Some(Event::Started { .. }) => {}
            Some(Event::Delta(Delta { text: piece, token_ids: ids, .. })) => {
                on_text(&piece)?;
                text.push_str(&piece);
                token_ids.extend(ids);
            }
            Some(Event::Finished(finish)) => return Ok(Answer { text, token_ids, finish }),
            Some(Event::Failed(error)) => return Err(error.into()),
            None => anyhow::bail!("the engine ended before the request did"),
        }
    }
}

/// Tokens a second, for people; zero when no time passed.
pub(crate) fn rate(tokens: u32, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { f64::from(tokens) / elapsed.as_secs_f64() }
}

/// Tokens of the prompt that had to be computed: those the cache held take no time.
pub(crate) fn computed(finish: &Finish) -> u32 {
    finish.prompt_tokens.saturating_sub(finish.cached_tokens)
}

/// One line on speed.
pub(crate) fn speed(finish: &Finish) -> String {
    format!(
        "prompt {} tokens, {:.1} tok/s; output {} tokens, {:.1} tok/s",
        finish.prompt_tokens,
        rate(computed(finish), finish.prefill),
        finish.completion_tokens,
        rate(finish.completion_tokens.saturating_sub(1), finish.decode),
    )
}
