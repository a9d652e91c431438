//! Finds stop strings in text that arrives in pieces.
//!
//! Holds back what could be the beginning of a stop string and gives out the rest. Does not know
//! tokens: the engine loop feeds it what the detokenizer returns and ends the request on a match.

/// Cuts a stream before the first stop string.
///
/// The first match is the one that is complete first; of several complete at the same character,
/// the longest. The result does not depend on how the text is cut into pieces. Each byte costs
/// amortised constant time per stop string (Knuth, Morris and Pratt, 1977).
#[derive(Debug, Clone)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// Text received and not given out: a proper prefix of a stop string.
    held: String,
    matched: bool,
}

/// What to do with text received so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopStep {
    /// Text certain to come before any stop string.
    pub text: String,
    /// A stop string is complete; nothing more will be given out.
    pub stopped: bool,
}

impl StopMatcher {
    /// Watches for any of `stops`; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        let patterns = stops.iter().filter(|stop| !stop.is_empty()).map(|stop| Pattern::new(stop));
        Self { patterns: patterns.collect(), held: String::new(), matched: false }
    }

    /// Takes more text and returns what may be given out.
    pub fn push(&mut self, text: &str) -> StopStep {
        if self.matched {
            return StopStep { text: String::new(), stopped: true };
        }
        let begin = self.held.len();
        let mut buffer = std::mem::take(&mut self.held);
        buffer.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            let mut longest = 0;
            for pattern in &mut self.patterns {
                if pattern.advance(byte) {
                    longest = longest.max(pattern.text.len());
                }
            }
            if longest > 0 {
                self.matched = true;
                buffer.truncate(begin + offset + 1 - longest);
                return StopStep { text: buffer, stopped: true };
            }
        }
        let hold = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        self.held = buffer.split_off(buffer.len() - hold);
        StopStep { text: buffer, stopped: false }
    }

    /// Ends the text: returns what was held back, which no stop string claimed.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    text: Vec<u8>,
    /// `borders[i]`: length of the longest proper prefix of `text[..=i]` that is also its suffix.
    borders: Vec<usize>,
    /// How many bytes of `text` the stream ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut borders = vec![0; text.len()];
        let mut length = 0;
        for i in 1..text.len() {
            while length > 0 && text[i] != text[length] {
                length = borders[length - 1];
            }
            length += usize::from(text[i] == text[length]);
            borders[i] = length;
        }
        Self { text, borders, matched: 0 }
    }

    /// Takes one byte; true when the stream now ends with the pattern.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }
}
