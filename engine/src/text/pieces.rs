//! The bytes each token stands for, worked out once from a tokenizer's decoder.
//!
//! Covers the decoders whose text is the concatenation of per-token bytes (byte-level BPE,
//! SentencePiece with byte fallback, Metaspace); others are refused by name. Knows no streams:
//! `Detokenizer` puts bytes together.

use serde_json::Value;
use tokenizers::Tokenizer;

/// Bytes of every token, plus the rule for the first character of a text.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// `ends[id]` is where the bytes of token `id` end; they begin where the previous ones end.
    ends: Vec<usize>,
    special: Vec<bool>,
    /// How many leading spaces a whole text loses.
    pub(super) strip_left: usize,
}

impl Pieces {
    /// `config` is the parsed `tokenizer.json` that `tokenizer` was made from.
    ///
    /// # Errors
    /// One line naming the decoder that is not supported.
    pub(super) fn new(tokenizer: &Tokenizer, config: &Value) -> Result<Self, String> {
        let decoder = Decoder::parse(config.get("decoder").unwrap_or(&Value::Null))?;
        let mut texts: Vec<Option<String>> = Vec::new();
        for (text, id) in tokenizer.get_vocab(true) {
            let id = id as usize;
            if texts.len() <= id {
                texts.resize(id + 1, None);
            }
            texts[id] = Some(text);
        }
        let mut pieces = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(texts.len()),
            special: vec![false; texts.len()],
            strip_left: decoder.strip_left,
        };
        for text in texts {
            if let Some(text) = text {
                decoder.append(&text, &mut pieces.bytes);
            }
            pieces.ends.push(pieces.bytes.len());
        }
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if let Some(special) = pieces.special.get_mut(id as usize) {
                *special = token.special;
            }
        }
        Ok(pieces)
    }

    /// A tokenizer's whose token `n` is the byte `n`.
    #[cfg(test)]
    pub(super) fn of_bytes() -> Self {
        Self {
            bytes: (0..=255).collect(),
            ends: (1..=256).collect(),
            special: vec![false; 256],
            strip_left: 0,
        }
    }

    /// The bytes of a token; none for an id the tokenizer does not have.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// One more than the highest id.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// A decoder of `tokenizer.json`, as steps on one token and a rule for the whole text.
#[derive(Default)]
struct Decoder {
    steps: Vec<Step>,
    fused: bool,
    strip_left: usize,
}

enum Step {
    Replace {
        pattern: String,
        content: String,
    },
    /// `<0x0A>` stands for that byte.
    ByteFallback,
    /// GPT-2's table of 256 printable characters.
    ByteLevel,
    /// Without a decoder, tokens are joined by a space.
    PrependSpace,
}

impl Decoder {
    fn parse(config: &Value) -> Result<Self, String> {
        let mut decoder = Self::default();
        if config.is_null() {
            decoder.steps.push(Step::PrependSpace);
            decoder.strip_left = 1;
        } else {
            decoder.add(config)?;
        }
        Ok(decoder)
    }

    fn add(&mut self, config: &Value) -> Result<(), String> {
        let kind = config.get("type").and_then(Value::as_str).unwrap_or("without a type");
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let refused = || Err(format!("its decoder ({config}) is not supported"));
        match kind {
            "Sequence" => {
                let list = config.get("decoders").and_then(Value::as_array);
                for inner in list.into_iter().flatten() {
                    self.add(inner)?;
                }
            }
            "ByteLevel" if !self.fused => self.steps.push(Step::ByteLevel),
            "ByteFallback" if !self.fused => self.steps.push(Step::ByteFallback),
            "Fuse" => self.fused = true,
            "Replace" if !self.fused => {
                let pattern = config.pointer("/pattern/String").and_then(Value::as_str);
                let (Some(pattern), Some(content)) = (pattern, text("content")) else {
                    return refused();
                };
                self.replace(pattern, content);
            }
            "Metaspace" if !self.fused => {
                self.replace(text("replacement").unwrap_or("\u{2581}"), " ");
                let never = text("prepend_scheme") == Some("never")
                    || config.get("add_prefix_space") == Some(&Value::Bool(false));
                self.strip_left = usize::from(!never);
            }
            "Strip" if self.fused && text("content") == Some(" ") => {
                let count = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0);
                if count("stop") != 0 {
                    return refused();
                }
                self.strip_left = count("start") as usize;
            }
            _ => return refused(),
        }
        Ok(())
    }

    fn replace(&mut self, pattern: &str, content: &str) {
        self.steps.push(Step::Replace { pattern: pattern.to_owned(), content: content.to_owned() });
    }

    fn append(&self, token: &str, out: &mut Vec<u8>) {
        let mut text = token.to_owned();
        for step in &self.steps {
            match step {
                Step::Replace { pattern, content } => text = text.replace(pattern, content),
                Step::PrependSpace => text.insert(0, ' '),
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        out.push(byte);
                        return;
                    }
                }
                Step::ByteLevel => {
                    if let Some(bytes) = text.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                        out.extend(bytes);
                        return;
                    }
                }
            }
        }
        out.extend(text.as_bytes());
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// The byte a character of byte-level BPE stands for: printable Latin-1 characters stand for
/// themselves, the 68 other bytes were given the characters from U+0100 on, in order
/// (GPT-2, `bytes_to_unicode`).
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|&byte| printable(byte)),
        code @ 0x100..=0x143 => (0..=u8::MAX).filter(|&byte| !printable(byte)).nth(code as usize - 0x100),
        _ => None,
    }
}
