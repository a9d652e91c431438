//! The toy's tokens: what a prompt is made of and which token follows.
//!
//! Knows nothing of requests or time.

use crate::{ChatPrompt, GenerateError, Prompt};

/// Ends an answer.
pub(super) const END: u32 = 256;

/// Ids below this exist.
pub(super) const VOCAB_SIZE: u32 = END + 1 + WORDS.len() as u32;

/// The tokens of a prompt.
pub(super) fn encode(prompt: &Prompt) -> Result<Vec<u32>, GenerateError> {
    let invalid = |message: String| Err(GenerateError::Invalid(message));
    let tokens = match prompt {
        Prompt::Text(text) => bytes(text),
        Prompt::Chat(chat) => bytes(&conversation(chat)?),
        Prompt::Tokens(tokens) => match tokens.iter().find(|&&id| id >= VOCAB_SIZE) {
            Some(id) => return invalid(format!("token ids must be below {VOCAB_SIZE}, got {id}")),
            None => tokens.clone(),
        },
    };
    if tokens.is_empty() {
        return invalid("the prompt must have at least one token, got none".into());
    }
    Ok(tokens)
}

/// The text of tokens, bytes that are not UTF-8 replaced.
pub(super) fn decode(tokens: &[u32]) -> String {
    let mut text = Vec::new();
    for &token in tokens {
        match u8::try_from(token) {
            Ok(byte) => text.push(byte),
            Err(_) => text.extend(word(token).bytes()),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The text of a generated token.
pub(super) fn word(token: u32) -> &'static str {
    token.checked_sub(END + 1).and_then(|index| WORDS.get(index as usize)).copied().unwrap_or_default()
}

/// All tokens so far, folded into a number (FNV-1a over token ids).
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory(u64);

impl Memory {
    pub(super) fn of(tokens: &[u32]) -> Self {
        tokens.iter().fold(Self(0xcbf2_9ce4_8422_2325), |memory, &token| memory.and(token))
    }

    pub(super) fn and(self, token: u32) -> Self {
        Self((self.0 ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3))
    }

    /// The word that follows.
    pub(super) fn next(self) -> u32 {
        // The low bits of FNV are weak.
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        END + 1 + (mixed % WORDS.len() as u64) as u32
    }
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn conversation(chat: &ChatPrompt) -> Result<String, GenerateError> {
    let messages = chat.messages.as_array().map(Vec::as_slice).unwrap_or_default();
    if messages.is_empty() {
        let message = "messages must be a list of at least one message".to_owned();
        return Err(GenerateError::Invalid(message));
    }
    let line = |message: &serde_json::Value| {
        let content = &message["content"];
        let content = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        format!("{}: {content}\n", message["role"].as_str().unwrap_or_default())
    };
    Ok(messages.iter().map(line).collect())
}

/// Some are longer than ASCII, so that whoever cuts text between bytes is found out.
const WORDS: [&str; 32] = [
    "apple ", "birch ", "café ", "daisy ", "ember ", "fjörd ", "grove ", "harbour ", "island ", "jasmine ",
    "kelp ", "lagoon ", "meadow ", "naïve ", "orchid ", "pebble ", "quartz ", "river ", "shore ", "tundra ",
    "umbra ", "valley ", "willow ", "xylem ", "yarrow ", "zephyr ", "山 ", "海 ", "🌊 ", "🌲 ", "and ",
    "the ",
];
