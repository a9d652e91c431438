//! The tokenizer in a GGUF file's metadata, as Hugging Face's `tokenizer.json`.
//!
//! Reads vocabulary, token kinds and settings; `bpe` and `sentencepiece` write the two models
//! llama.cpp's families use. Running a tokenizer is the text module's business.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::container::Refusal;
use super::metadata::Metadata;
use super::{bpe, sentencepiece};
use crate::text::TextAssets;

/// Control tokens that end a turn in the chat formats of the supported families. Converters name
/// only one of them in the metadata, and models may end with another.
const END_OF_TURN: &[&str] = &["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>"];

/// What a token is for, by llama.cpp's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    Unknown,
    Control,
    UserDefined,
}

/// A tokenizer's metadata, read and checked.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<&'a str>,
    pub(super) kinds: Vec<Kind>,
    metadata: &'a Metadata,
    file: &'a [u8],
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata, file: &'a [u8]) -> Result<Self, String> {
        let tokens = metadata.texts("tokenizer.ggml.tokens", file)?.unwrap_or_default();
        if tokens.is_empty() {
            return Err("it has no tokenizer.ggml.tokens".into());
        }
        let kind = |&number: &u32| match number {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            _ => Kind::Ordinary,
        };
        let kinds = match metadata.words("tokenizer.ggml.token_type", file)? {
            Some(kinds) => kinds.iter().map(kind).collect(),
            None => vec![Kind::Ordinary; tokens.len()],
        };
        if kinds.len() != tokens.len() {
            return Err(format!("it has {} tokens but {} token types", tokens.len(), kinds.len()));
        }
        Ok(Self { tokens, kinds, metadata, file })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<&'a str>, String> {
        let key = format!("tokenizer.ggml.{key}");
        self.metadata.texts(&key, self.file)?.ok_or_else(|| format!("it has no {key}"))
    }

    pub(super) fn scores(&self) -> Result<Vec<f32>, String> {
        let scores = self.metadata.words("tokenizer.ggml.scores", self.file)?;
        let scores = scores.ok_or("it has no tokenizer.ggml.scores")?;
        if scores.len() != self.tokens.len() {
            return Err(format!("it has {} tokens but {} scores", self.tokens.len(), scores.len()));
        }
        Ok(scores.into_iter().map(f32::from_bits).collect())
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.metadata.flag(&format!("tokenizer.ggml.{key}"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.metadata.text(&format!("tokenizer.ggml.{key}"))
    }

    /// The id under `key`, when it names a token of this vocabulary.
    pub(super) fn id(&self, key: &str) -> Result<Option<u32>, String> {
        let id = self.metadata.count(&format!("tokenizer.ggml.{key}"))?;
        // Converters write -1 (as u32) for "none".
        match id.filter(|&id| id != u64::from(u32::MAX)) {
            Some(id) if id < self.tokens.len() as u64 => Ok(Some(id as u32)),
            Some(id) => Err(format!("tokenizer.ggml.{key} {id} is beyond its {} tokens", self.tokens.len())),
            None => Ok(None),
        }
    }

    fn token(&self, key: &str) -> Result<Option<String>, String> {
        Ok(self.id(key)?.map(|id| self.tokens[id as usize].to_owned()))
    }

    /// The `vocab` object: token to id; of equal tokens the first counts.
    pub(super) fn ids(&self) -> serde_json::Map<String, Value> {
        let mut ids = serde_json::Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(*token).or_insert_with(|| json!(id));
        }
        ids
    }

    /// The `added_tokens` list: tokens matched in the text before the model sees it.
    pub(super) fn added_tokens(&self) -> Vec<Value> {
        let added = self.tokens.iter().zip(&self.kinds).enumerate();
        added
            .filter(|(_, (_, kind))| **kind != Kind::Ordinary)
            .map(|(id, (token, kind))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind != Kind::UserDefined,
                })
            })
            .collect()
    }

    /// The post-processor that puts `bos` before and `eos` after a text, where the file asks.
    pub(super) fn template(&self, default_bos: bool) -> Result<Option<Value>, String> {
        let wanted =
            |flag: Option<bool>, default: bool, id: Option<u32>| id.filter(|_| flag.unwrap_or(default));
        let bos = wanted(self.flag("add_bos_token")?, default_bos, self.id("bos_token_id")?);
        let eos = wanted(self.flag("add_eos_token")?, false, self.id("eos_token_id")?);
        if bos.is_none() && eos.is_none() {
            return Ok(None);
        }
        let special = |id: Option<u32>, kind: u32| {
            id.map(|id| json!({"SpecialToken": {"id": self.tokens[id as usize], "type_id": kind}}))
        };
        let sequence = |name: &str, kind: u32| {
            let text = Some(json!({"Sequence": {"id": name, "type_id": kind}}));
            [special(bos, kind), text, special(eos, kind)].into_iter().flatten().collect::<Vec<_>>()
        };
        let mut tokens = serde_json::Map::new();
        for id in [bos, eos].into_iter().flatten() {
            let token = self.tokens[id as usize];
            tokens.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
        }
        let pair = [sequence("A", 0), sequence("B", 1)].concat();
        Ok(Some(json!({
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        })))
    }

    fn end_ids(&self) -> Result<Vec<u32>, String> {
        let mut ids = BTreeSet::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.id(key)?);
        }
        let control = |id: &usize| self.kinds[*id] == Kind::Control;
        let named =
            (0..self.tokens.len()).filter(control).filter(|&id| END_OF_TURN.contains(&self.tokens[id]));
        ids.extend(named.map(|id| id as u32));
        Ok(ids.into_iter().collect())
    }
}

/// Everything the text module needs; `source` is the file's path for messages.
pub(super) fn text_assets(metadata: &Metadata, file: &[u8], source: String) -> Result<TextAssets, Refusal> {
    let vocabulary = Vocabulary::read(metadata, file)?;
    let model = vocabulary.text("model")?.ok_or("it has no tokenizer.ggml.model".to_owned())?;
    let tokenizer = match model {
        "gpt2" => bpe::tokenizer(&vocabulary)?,
        "llama" => sentencepiece::tokenizer(&vocabulary)?,
        other => {
            let what =
                format!("has a tokenizer of kind {other}, which is not supported; supported: gpt2, llama");
            return Err(Refusal::Unsupported(what));
        }
    };
    Ok(TextAssets {
        source,
        tokenizer: tokenizer.to_string().into_bytes(),
        chat_template: metadata.text("tokenizer.chat_template")?.map(str::to_owned),
        tool_template: metadata.text("tokenizer.chat_template.tool_use")?.map(str::to_owned),
        bos_token: vocabulary.token("bos_token_id")?,
        eos_token: vocabulary.token("eos_token_id")?,
        unk_token: vocabulary.token("unknown_token_id")?,
        pad_token: vocabulary.token("padding_token_id")?,
        eos_token_ids: vocabulary.end_ids()?,
        // The post-processor written above already says.
        add_bos: None,
    })
}

/// The parts of `tokenizer.json` that differ between models.
pub(super) struct Parts {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) decoder: Value,
    pub(super) model: Value,
    pub(super) default_bos: bool,
}

/// A whole `tokenizer.json`.
pub(super) fn assemble(vocabulary: &Vocabulary<'_>, parts: Parts) -> Result<Value, String> {
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": vocabulary.template(parts.default_bos)?,
        "decoder": parts.decoder,
        "model": parts.model,
    }))
}
