//! Guesses from the sequence's own text: what followed the same few tokens last time.
//!
//! Prompt lookup decoding (Saxena, 2023). Strong where output repeats its input: editing, quoting, code, JSON.

use std::collections::HashMap;

/// A sequence's tokens, and where each n-gram of them occurred last.
#[derive(Debug, Clone, Default)]
pub struct NgramIndex {
    tokens: Vec<u32>,
    /// By length from `SHORTEST`: where the token after the latest occurrence of an n-gram lies.
    after: [HashMap<u64, u32>; LONGEST - SHORTEST + 1],
    /// The same for n-grams whose following token is not known yet: those at the very end.
    open: [Option<u64>; LONGEST - SHORTEST + 1],
}

impl NgramIndex {
    /// An index of `tokens`.
    pub fn new(tokens: &[u32]) -> Self {
        let mut index = Self::default();
        index.extend(tokens);
        index
    }

    /// Appends tokens.
    pub fn extend(&mut self, tokens: &[u32]) {
        for &token in tokens {
            let at = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
            for (after, open) in self.after.iter_mut().zip(&mut self.open) {
                // What ended here until now is followed by this token.
                if let Some(ngram) = open.take() {
                    after.insert(ngram, at);
                }
            }
            self.tokens.push(token);
            for (length, open) in (SHORTEST..).zip(&mut self.open) {
                *open = self.tokens.len().checked_sub(length).map(|start| hash(&self.tokens[start..]));
            }
        }
    }

    /// At most `most` tokens that followed the longest suffix seen before; empty where none was.
    pub fn guess(&self, most: usize) -> &[u32] {
        let found = (0..self.after.len()).rev().find_map(|n| {
            let at = *self.after[n].get(&self.open[n]?)? as usize;
            // Different n-grams may have one hash.
            let same = self.tokens[..at].ends_with(&self.tokens[self.tokens.len() - (n + SHORTEST)..]);
            same.then_some(at)
        });
        let Some(at) = found else { return &[] };
        &self.tokens[at..self.tokens.len().min(at + most)]
    }

    /// Tokens indexed.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// FNV-1a over tokens.
fn hash(tokens: &[u32]) -> u64 {
    let step = |hash: u64, &token: &u32| (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3);
    tokens.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Shorter matches guess wrong too often to be worth a check.
const SHORTEST: usize = 2;

/// Longer matches guess no better.
const LONGEST: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_followed_the_same_tokens_last_is_guessed() {
        let index = NgramIndex::new(&[1, 2, 3, 4, 5, 9, 1, 2, 3]);
        assert_eq!(index.guess(3), [4, 5, 9]);
        assert_eq!(index.guess(1), [4]);
    }

    #[test]
    fn a_longer_match_goes_before_a_later_one() {
        let index = NgramIndex::new(&[7, 1, 2, 3, 8, 2, 3, 9, 7, 1, 2, 3]);
        assert_eq!(index.guess(1), [8]);
    }

    #[test]
    fn a_repetition_is_continued() {
        let index = NgramIndex::new(&[5, 6, 5, 6, 5, 6]);
        assert_eq!(index.guess(4), [5, 6]);
    }

    #[test]
    fn nothing_is_guessed_without_a_match() {
        assert!(NgramIndex::new(&[1, 2, 3]).guess(4).is_empty());
        assert!(NgramIndex::new(&[]).guess(4).is_empty());
        assert!(NgramIndex::new(&[1]).guess(4).is_empty());
    }

    proptest! {
        #[test]
        fn a_guess_is_what_followed_the_longest_earlier_occurrence(
            tokens in proptest::collection::vec(0u32..3, 0..60),
            most in 1usize..6,
        ) {
            let expected = (SHORTEST..=LONGEST).rev().find_map(|n| {
                let suffix = tokens.len().checked_sub(n).map(|start| &tokens[start..])?;
                (n..tokens.len()).rev().find(|&at| tokens[..at].ends_with(suffix))
            });
            let expected = expected.map_or(&[][..], |at| &tokens[at..tokens.len().min(at + most)]);
            let mut index = NgramIndex::default();
            tokens.chunks(7).for_each(|chunk| index.extend(chunk));
            prop_assert_eq!(index.guess(most), expected);
        }
    }
}
