//! Gives out tokens' log-probabilities together with the text they begin.
//!
//! Text is held back for unfinished characters and possible stop strings, and may be cut; what is told of its
//! tokens is held back and cut with it. Does not know how text is held back: it is told how much has come and
//! gone.

use std::collections::VecDeque;

use crate::TokenLogprobs;

/// What is known of tokens whose text has not been given out.
#[derive(Debug, Default)]
pub(crate) struct PendingScores {
    /// Each with the place in the text, in bytes, where its token begins.
    waiting: VecDeque<(usize, TokenLogprobs)>,
    received: usize,
    given: usize,
}

impl PendingScores {
    /// A token, and how many bytes of text it has completed.
    pub(crate) fn push(&mut self, scores: Option<TokenLogprobs>, text_bytes: usize) {
        self.waiting.extend(scores.map(|scores| (self.received, scores)));
        self.received += text_bytes;
    }

    /// What is known of the tokens that begin in the next `text_bytes` bytes, which are now given out.
    pub(crate) fn give(&mut self, text_bytes: usize) -> Vec<TokenLogprobs> {
        self.given += text_bytes;
        let count = self.waiting.partition_point(|&(begin, _)| begin < self.given);
        self.waiting.drain(..count).map(|(_, scores)| scores).collect()
    }

    /// Everything left, at the end of a text that was not cut.
    pub(crate) fn rest(&mut self) -> Vec<TokenLogprobs> {
        self.waiting.drain(..).map(|(_, scores)| scores).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScoredToken;

    fn scores(id: u32) -> Option<TokenLogprobs> {
        Some(TokenLogprobs { chosen: ScoredToken { id, bytes: Vec::new(), logprob: 0.0 }, top: Vec::new() })
    }

    fn ids(scores: &[TokenLogprobs]) -> Vec<u32> {
        scores.iter().map(|scores| scores.chosen.id).collect()
    }

    #[test]
    fn scores_come_with_the_first_byte_of_their_text() {
        let mut pending = PendingScores::default();
        pending.push(scores(1), 3);
        // Half a character, and its other half.
        pending.push(scores(2), 0);
        assert_eq!(ids(&pending.give(3)), [1]);
        pending.push(scores(3), 2);
        assert_eq!(ids(&pending.give(2)), [2, 3]);
    }

    #[test]
    fn scores_of_text_cut_off_are_never_given() {
        let mut pending = PendingScores::default();
        pending.push(scores(1), 4);
        pending.push(scores(2), 4);
        pending.push(scores(3), 4);
        assert_eq!(ids(&pending.give(5)), [1, 2]);
        assert_eq!(ids(&pending.rest()), [3], "unless the end is no cut");
    }
}
