//! Turns tokens into text as they come, whole characters only.
//!
//! Constant work and memory a token, however long the output. Does not know when generation ends
//! or what a stop string is: the engine loop pushes every token and flushes at the end.

use std::sync::Arc;

use super::pieces::Pieces;

/// How a [`Detokenizer`] treats special tokens and the first space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetokenizeOptions {
    /// Leave out special tokens such as `<|im_end|>`.
    pub skip_special: bool,
    /// The tokens continue a text already written, so a leading space is part of the answer.
    /// SentencePiece tokenizers otherwise drop the space before a text's first word.
    pub continues: bool,
}

/// Incremental detokenisation of one sequence.
///
/// The concatenation of everything `push` and `finish` return is the tokens' bytes decoded as
/// UTF-8 at once, each maximal invalid part replaced by U+FFFD (as `String::from_utf8_lossy`).
#[derive(Debug)]
pub struct Detokenizer {
    pieces: Arc<Pieces>,
    skip_special: bool,
    /// Special tokens that are text all the same.
    shown: Vec<u32>,
    strip_left: usize,
    /// The beginning of a character: at most 3 bytes between calls.
    incomplete: Vec<u8>,
}

impl Detokenizer {
    pub(super) fn new(pieces: Arc<Pieces>, options: DetokenizeOptions) -> Self {
        let strip_left = if options.continues { 0 } else { pieces.strip_left };
        let (shown, incomplete) = (Vec::new(), Vec::new());
        Self { pieces, skip_special: options.skip_special, shown, strip_left, incomplete }
    }

    /// Writes these special tokens as text.
    pub(super) fn showing(self, shown: Vec<u32>) -> Self {
        Self { shown, ..self }
    }

    /// One of a tokenizer whose token `n` is the byte `n`.
    #[cfg(test)]
    pub(crate) fn of_bytes() -> Self {
        Self::new(Arc::new(Pieces::of_bytes()), DetokenizeOptions { skip_special: true, continues: true })
    }

    /// Takes one token and returns the characters it completes; empty while there are none.
    /// An id the tokenizer does not have stands for nothing.
    pub fn push(&mut self, token: u32) -> String {
        if self.skip_special && self.pieces.is_special(token) && !self.shown.contains(&token) {
            return String::new();
        }
        self.incomplete.extend_from_slice(self.pieces.bytes(token));
        let text = complete(&mut self.incomplete);
        self.strip(text)
    }

    /// Ends the text: a character left incomplete becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.strip_left = 0;
        let text = String::from_utf8_lossy(&self.incomplete).into_owned();
        self.incomplete.clear();
        text
    }

    /// The bytes a token stands for, special ones included; none for an id the tokenizer does not have.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.pieces.bytes(token)
    }

    /// Whether the last token left a character incomplete.
    pub fn is_incomplete(&self) -> bool {
        !self.incomplete.is_empty()
    }

    fn strip(&mut self, mut text: String) -> String {
        if self.strip_left > 0 && !text.is_empty() {
            let spaces = text.bytes().take_while(|&byte| byte == b' ').count();
            let cut = spaces.min(self.strip_left);
            self.strip_left = if cut == text.len() { self.strip_left - cut } else { 0 };
            text.drain(..cut);
        }
        text
    }
}

/// Takes from `bytes` everything that more bytes cannot change.
fn complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    loop {
        match std::str::from_utf8(&bytes[done..]) {
            Ok(valid) => {
                text.push_str(valid);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let valid = done + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[done..valid]));
                let Some(invalid) = error.error_len() else {
                    bytes.drain(..valid);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                done = valid + invalid;
            }
        }
    }
}
