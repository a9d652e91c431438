//! One model's text: prompts to tokens, tokens to text, and which tokens end it.
//!
//! Holds the tokenizer and the chat template. Knows nothing of the model behind them but the
//! size of its vocabulary; the engine loop decides what to encode and when to stop.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::detokenizer::{DetokenizeOptions, Detokenizer};
use super::error::one_line;
use super::markup::Markup;
use super::pieces::Pieces;
use super::template::{ChatTemplates, SpecialTokens};
use super::{PromptError, TextAssets, TextError};
use crate::{ChatPrompt, Prompt};

/// Encodes and decodes the text of one model. Cheap to share between threads behind an `Arc`.
#[derive(Debug)]
pub struct TextCodec {
    tokenizer: Tokenizer,
    pieces: Arc<Pieces>,
    templates: ChatTemplates,
    vocab_size: u32,
    bos: Option<u32>,
    add_bos: Option<bool>,
    eos: Vec<u32>,
    markup: Markup,
}

impl TextCodec {
    /// Prepares a tokenizer for a model with `vocab_size` rows of embeddings.
    ///
    /// A chat template that does not parse is an error of chat requests, not of loading: the
    /// model still answers plain text.
    ///
    /// # Errors
    /// The tokenizer does not parse, has a decoder that is not supported, or has ids that the
    /// model does not embed.
    pub fn new(assets: &TextAssets, vocab_size: u32) -> Result<Self, TextError> {
        let unusable = |reason: String| TextError::Tokenizer { from: assets.source.clone(), reason };
        let config: Value =
            serde_json::from_slice(&assets.tokenizer).map_err(|error| unusable(error.to_string()))?;
        let mut tokenizer = Tokenizer::from_bytes(&assets.tokenizer)
            .map_err(|error| unusable(one_line(&error.to_string())))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| unusable(one_line(&error.to_string())))?;
        let pieces = Pieces::new(&tokenizer, &config).map_err(unusable)?;
        match u32::try_from(pieces.len()).unwrap_or(u32::MAX).checked_sub(1) {
            None => return Err(unusable("it has no tokens".into())),
            Some(highest_id) if highest_id >= vocab_size => {
                let from = assets.source.clone();
                return Err(TextError::Vocabulary { from, highest_id, vocab_size });
            }
            Some(_) => {}
        }
        let id_of = |token: &Option<String>| tokenizer.token_to_id(token.as_deref()?);
        let mut eos = assets.eos_token_ids.clone();
        eos.extend(id_of(&assets.eos_token));
        eos.sort_unstable();
        eos.dedup();
        Ok(Self {
            bos: id_of(&assets.bos_token),
            templates: ChatTemplates::new(assets, SpecialTokens::of(assets)),
            tokenizer,
            pieces: Arc::new(pieces),
            vocab_size,
            add_bos: assets.add_bos,
            eos,
            markup: Markup::of_template(
                assets.tool_template.as_deref().or(assets.chat_template.as_deref()).unwrap_or_default(),
            ),
        })
    }

    /// The tokens of a prompt: a conversation through the chat template, plain text with the
    /// tokenizer's own special tokens, ids as they are.
    ///
    /// # Errors
    /// See [`PromptError`].
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, PromptError> {
        let tokens = match prompt {
            Prompt::Chat(chat) => self.encode(&self.render_chat(chat)?, false)?,
            Prompt::Text(text) => self.encode(text, true)?,
            Prompt::Tokens(tokens) => {
                if let Some(&id) = tokens.iter().find(|&&id| id >= self.vocab_size) {
                    return Err(PromptError::UnknownToken { id, vocab_size: self.vocab_size });
                }
                tokens.clone()
            }
        };
        if tokens.is_empty() { Err(PromptError::Empty) } else { Ok(tokens) }
    }

    /// The tokens of a text. Special tokens written in the text are recognised; `add_special`
    /// adds those of the tokenizer's own template (usually the beginning of sequence).
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, PromptError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, add_special)
            .map_err(|error| PromptError::Tokenizer(one_line(&error.to_string())))?;
        let mut ids = encoding.get_ids().to_vec();
        if let (true, Some(bos), Some(wanted)) = (add_special, self.bos, self.add_bos) {
            // The mask is 1 for tokens added by the post-processor, 0 for those in the text.
            let added = ids.first() == Some(&bos) && encoding.get_special_tokens_mask().first() == Some(&1);
            match (wanted, added) {
                (true, false) => ids.insert(0, bos),
                (false, true) => drop(ids.remove(0)),
                _ => {}
            }
        }
        Ok(ids)
    }

    /// A conversation as the chat template writes it.
    ///
    /// # Errors
    /// There is no usable template, the conversation is malformed, or the template refuses it.
    pub fn render_chat(&self, chat: &ChatPrompt) -> Result<String, PromptError> {
        self.render_chat_at(chat, SystemTime::now())
    }

    /// `render_chat` with a given time for templates that write the date (in UTC, so that all
    /// nodes of a cluster write the same prompt).
    ///
    /// # Errors
    /// See [`TextCodec::render_chat`].
    pub fn render_chat_at(&self, chat: &ChatPrompt, now: SystemTime) -> Result<String, PromptError> {
        self.templates.render(chat, now)
    }

    /// The text of tokens, decoded at once: what a [`Detokenizer`] gives out piece by piece.
    pub fn decode(&self, tokens: &[u32], options: DetokenizeOptions) -> String {
        let mut detokenizer = self.detokenizer(options);
        let mut text: String = tokens.iter().map(|&token| detokenizer.push(token)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    /// Starts decoding a sequence token by token.
    pub fn detokenizer(&self, options: DetokenizeOptions) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.pieces), options)
    }

    /// Starts decoding a sequence in which these special tokens, too, are text.
    pub(crate) fn detokenizer_showing(&self, options: DetokenizeOptions, shown: Vec<u32>) -> Detokenizer {
        self.detokenizer(options).showing(shown)
    }

    /// The bytes a token stands for; none for an id the tokenizer does not have.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.pieces.bytes(token)
    }

    /// Whether a token is none of the text, such as `<|im_end|>`.
    pub fn is_special(&self, token: u32) -> bool {
        self.pieces.is_special(token)
    }

    /// How the model marks tool calls and reasoning, as far as its chat template shows it.
    pub(crate) fn markup(&self) -> Markup {
        self.markup
    }

    /// Whether the model has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.templates.is_present()
    }

    /// Whether a token ends generation.
    pub fn is_eos(&self, token: u32) -> bool {
        self.eos.binary_search(&token).is_ok()
    }

    /// The tokens that end generation, ascending: those of the generation settings and the
    /// tokenizer's own end-of-sequence token.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The id of a token by its text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Rows of the model's embedding; every id is below.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }
}
