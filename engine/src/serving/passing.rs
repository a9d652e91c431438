//! The engine's door for prefixes: orders to its thread, and what comes back.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use super::command::Command;
use super::exporting::Export;
use super::importing::Import;
use super::preparing::prepare;
use super::thread::{EngineHandle, GONE};
use crate::api::EventSink;
use crate::blocks::BLOCK_TOKENS;
use crate::event::{Event, GenerateError};
use crate::request::{AnswerOptions, Limits, Prompt, Request, SamplingParams, Turn};
use crate::transfer::{BlockSink, BlockSource, CacheDescription, ImportError, Prefix, PrefixDoor};

impl PrefixDoor for EngineHandle {
    fn description(&self) -> &CacheDescription {
        self.cache.as_ref().expect("the door is there where the cache can be described")
    }

    fn missing(&self, request: Request) -> Result<Prefix, GenerateError> {
        let (start, _) = prepare(request, Box::new(drop), self.codec()).map_err(|(error, _)| error)?;
        let mut tokens = start.prompt;
        let (reply, cached) = sync_channel(1);
        let asked = self.send(Command::Cached(tokens.clone(), reply)).ok();
        let cached = asked.and_then(|()| cached.recv().ok());
        let cached = cached.ok_or_else(|| GenerateError::Internal(GONE.to_owned()))?;
        // A token is left to compute.
        let blocks = cached..tokens.len().saturating_sub(1) / BLOCK_TOKENS;
        tokens.truncate(blocks.end * BLOCK_TOKENS);
        Ok(Prefix { tokens, blocks })
    }

    fn compute(&self, id: &str, prefix: Prefix, sink: Arc<dyn BlockSink>, mut events: EventSink) {
        let Prefix { tokens, blocks } = prefix;
        if blocks.is_empty() || blocks.end * BLOCK_TOKENS != tokens.len() {
            let rule = format!("blocks {blocks:?} are not the last ones of {} tokens", tokens.len());
            return events(Event::Failed(GenerateError::Invalid(rule)));
        }
        let request = Request {
            id: id.to_owned(),
            prompt: Prompt::Tokens(tokens),
            sampling: SamplingParams::default(),
            limits: Limits { max_tokens: Some(1), ignore_eos: true, ..Limits::default() },
            turn: Turn::default(),
            answer: AnswerOptions::default(),
        };
        match prepare(request, events, self.codec()) {
            Ok((mut start, _)) => {
                start.export = Some(Export { blocks, sink });
                self.begin(start);
            }
            Err((error, mut events)) => events(Event::Failed(error)),
        }
    }

    fn import(&self, prefix: Prefix, source: Arc<dyn BlockSource>) -> Result<usize, ImportError> {
        let whole = prefix.blocks.end * BLOCK_TOKENS == prefix.tokens.len();
        if !whole || prefix.blocks.start > prefix.blocks.end {
            let rule = format!("blocks {:?} are not the last ones of a prefix", prefix.blocks);
            return Err(ImportError::Failed(rule));
        }
        let gone = || ImportError::Failed(GONE.to_owned());
        let description = self.cache.clone().ok_or_else(gone)?;
        let (done, waiting) = sync_channel(1);
        let import = Import { prefix, source, description, done };
        self.send(Command::Import(import)).map_err(|_| gone())?;
        waiting.recv().map_err(|_| gone())?
    }
}
