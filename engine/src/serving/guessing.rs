//! One sequence's guesses: from what, how many, and whether the next step should wait for them.
//!
//! A step whose tokens are not known yet can be launched ahead, but nothing can be guessed behind an unknown token.
//! So a sequence gives up being launched ahead only while its own text repeats and guesses pay.

use crate::speculation::{AcceptanceRate, NgramIndex, StepCost, best_length};

/// What a sequence knows for guessing.
pub(super) struct Guessing {
    index: NgramIndex,
    rate: AcceptanceRate,
    /// Most tokens to guess.
    most: usize,
    /// The latest tokens occurred before.
    repeats: bool,
}

impl Guessing {
    /// For a sequence that begins with `prompt`.
    pub(super) fn new(prompt: &[u32], most: usize) -> Self {
        let index = NgramIndex::new(prompt);
        let repeats = !index.guess(1).is_empty();
        Self { index, rate: AcceptanceRate::default(), most, repeats }
    }

    /// Takes the next token of the sequence.
    pub(super) fn push(&mut self, token: u32) {
        self.index.extend(&[token]);
        self.repeats = !self.index.guess(1).is_empty();
    }

    /// Whether the step after next should wait for the next one's token, in steps of `rows` rows.
    pub(super) fn waits(&self, cost: &StepCost, rows: usize) -> bool {
        self.repeats && best_length(&self.rate, cost, rows, self.most) > 0
    }

    /// What may follow, at most `room` tokens.
    pub(super) fn guess(&self, cost: &StepCost, rows: usize, room: usize) -> Vec<u32> {
        let most = best_length(&self.rate, cost, rows, self.most.min(room));
        self.index.guess(most).to_vec()
    }

    /// Records that `kept` of `guessed` guesses were right.
    pub(super) fn record(&mut self, guessed: usize, kept: usize) {
        self.rate.record(guessed, kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_waits_for_guesses_only_where_its_text_repeats() {
        let cost = StepCost::default();
        let mut guessing = Guessing::new(&[1, 2, 3, 4], 4);
        assert!(!guessing.waits(&cost, 1));
        [1, 2].into_iter().for_each(|token| guessing.push(token));
        assert!(guessing.waits(&cost, 1));
        assert_eq!(guessing.guess(&cost, 1, 1), [3]);
        guessing.push(9);
        assert!(!guessing.waits(&cost, 1));
    }

    #[test]
    fn a_sequence_whose_guesses_are_wrong_stops_waiting() {
        let cost = StepCost::default();
        let mut guessing = Guessing::new(&[1, 2, 3, 1, 2], 4);
        (0..40).for_each(|_| guessing.record(2, 0));
        assert!(!guessing.waits(&cost, 1));
    }
}
