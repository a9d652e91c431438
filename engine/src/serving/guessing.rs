//! One sequence's guesses: from what, how many, and whether the next step should wait for them.
//!
//! A step whose tokens are not known yet can be launched ahead, but nothing can be guessed behind an unknown token.
//! So a sequence gives up being launched ahead only while guesses pay: while its own text repeats, or while a draft
//! model is right often enough for what it costs. Where the text repeats the draft is not asked: text costs nothing.

use std::ops::RangeInclusive;

use crate::speculation::{AcceptanceRate, NgramIndex, StepCost, best_drafted_length, best_length};

/// What a sequence knows for guessing.
pub(super) struct Guessing {
    lookup: Option<Lookup>,
    draft: Option<Draft>,
    /// Whose guesses are being checked.
    asked: Source,
}

/// Guesses from the sequence's own text.
struct Lookup {
    index: NgramIndex,
    rate: AcceptanceRate,
    /// Most tokens to guess.
    most: usize,
    /// The latest tokens occurred before.
    repeats: bool,
}

/// Guesses of a draft model.
struct Draft {
    rate: AcceptanceRate,
    /// Least and most tokens to guess.
    guesses: RangeInclusive<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Text,
    Model,
}

/// What a sequence wants to have checked behind its next token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guess {
    /// These tokens, perhaps none.
    Tokens(Vec<u32>),
    /// So many that a draft model is to guess.
    Drafted(usize),
}

/// The circumstances of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) cost: &'a StepCost,
    /// Rows that the step has without guesses.
    pub(super) rows: usize,
    /// What a step of the draft costs relative to one of the target.
    pub(super) draft_cost: f64,
}

impl Guessing {
    /// For a sequence that begins with `prompt`: at most so many tokens from its text, and so many of a draft model.
    pub(super) fn new(prompt: &[u32], lookup: usize, draft: Option<RangeInclusive<usize>>) -> Option<Self> {
        let lookup = (lookup > 0).then(|| Lookup::new(prompt, lookup));
        let draft = draft.map(|guesses| Draft { rate: AcceptanceRate::default(), guesses });
        (lookup.is_some() || draft.is_some()).then_some(Self { lookup, draft, asked: Source::Text })
    }

    /// The same without a draft model, if anything is left.
    pub(super) fn without_draft(self) -> Option<Self> {
        self.lookup.is_some().then_some(Self { draft: None, ..self })
    }

    /// Takes the next token of the sequence.
    pub(super) fn push(&mut self, token: u32) {
        if let Some(lookup) = &mut self.lookup {
            lookup.index.extend(&[token]);
            lookup.repeats = !lookup.index.guess(1).is_empty();
        }
    }

    /// Whether the step after next should wait for the next one's token.
    pub(super) fn waits(&self, now: Circumstances<'_>) -> bool {
        let text = self.lookup.as_ref().is_some_and(|lookup| lookup.waits(now));
        text || self.draft.as_ref().is_some_and(|draft| draft.guesses(now, usize::MAX) > 0)
    }

    /// What may follow, at most `room` tokens.
    pub(super) fn guess(&mut self, now: Circumstances<'_>, room: usize) -> Guess {
        let text = self.lookup.as_ref().map(|lookup| lookup.guess(now, room)).unwrap_or_default();
        if text.is_empty()
            && let Some(draft) = &self.draft
        {
            self.asked = Source::Model;
            return Guess::Drafted(draft.guesses(now, room));
        }
        self.asked = Source::Text;
        Guess::Tokens(text)
    }

    /// Records that `kept` of `guessed` guesses were right.
    pub(super) fn record(&mut self, guessed: usize, kept: usize) {
        let rate = match self.asked {
            Source::Text => self.lookup.as_mut().map(|lookup| &mut lookup.rate),
            Source::Model => self.draft.as_mut().map(|draft| &mut draft.rate),
        };
        if let Some(rate) = rate {
            rate.record(guessed, kept);
        }
    }
}

impl Lookup {
    fn new(prompt: &[u32], most: usize) -> Self {
        let index = NgramIndex::new(prompt);
        let repeats = !index.guess(1).is_empty();
        Self { index, rate: AcceptanceRate::default(), most, repeats }
    }

    fn waits(&self, now: Circumstances<'_>) -> bool {
        self.repeats && best_length(&self.rate, now.cost, now.rows, self.most) > 0
    }

    fn guess(&self, now: Circumstances<'_>, room: usize) -> Vec<u32> {
        let most = best_length(&self.rate, now.cost, now.rows, self.most.min(room));
        self.index.guess(most).to_vec()
    }
}

impl Draft {
    fn guesses(&self, now: Circumstances<'_>, room: usize) -> usize {
        // A step of the draft guesses for all sequences, who share what it costs.
        let share = now.draft_cost / now.rows.max(1) as f64;
        let (least, most) = (*self.guesses.start(), *self.guesses.end());
        let best = best_drafted_length(&self.rate, now.cost, now.rows, (most.min(room), share));
        best.max(least).min(most.min(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: StepCost = StepCost::UNKNOWN;

    fn alone(draft_cost: f64) -> Circumstances<'static> {
        Circumstances { cost: &COST, rows: 1, draft_cost }
    }

    fn with(prompt: &[u32], lookup: usize, draft: Option<RangeInclusive<usize>>) -> Guessing {
        Guessing::new(prompt, lookup, draft).expect("it may guess")
    }

    #[test]
    fn a_sequence_waits_for_guesses_only_where_its_text_repeats() {
        let mut guessing = with(&[1, 2, 3, 4], 4, None);
        assert!(!guessing.waits(alone(0.0)));
        [1, 2].into_iter().for_each(|token| guessing.push(token));
        assert!(guessing.waits(alone(0.0)));
        assert_eq!(guessing.guess(alone(0.0), 1), Guess::Tokens(vec![3]));
        guessing.push(9);
        assert!(!guessing.waits(alone(0.0)));
    }

    #[test]
    fn a_sequence_whose_guesses_are_wrong_stops_waiting() {
        for (lookup, draft) in [(4, None), (0, Some(0..=4))] {
            let mut guessing = with(&[1, 2, 3, 1, 2], lookup, draft);
            guessing.guess(alone(0.05), 8);
            (0..40).for_each(|_| guessing.record(2, 0));
            assert!(!guessing.waits(alone(0.05)));
        }
    }

    #[test]
    fn a_draft_is_asked_where_the_text_says_nothing_and_it_is_cheap_enough() {
        let mut guessing = with(&[1, 2, 3, 1, 2], 4, Some(0..=4));
        assert!(matches!(guessing.guess(alone(0.05), 8), Guess::Tokens(tokens) if tokens[0] == 3));
        guessing.push(9);
        assert!(guessing.waits(alone(0.05)));
        assert!(matches!(guessing.guess(alone(0.05), 8), Guess::Drafted(1..)));
        assert_eq!(guessing.guess(alone(3.0), 8), Guess::Drafted(0));
        assert!(!guessing.waits(alone(3.0)));
    }

    #[test]
    fn no_source_is_no_guessing() {
        assert!(Guessing::new(&[1, 2], 0, None).is_none());
    }

    #[test]
    fn a_draft_that_must_guess_does_so_at_any_cost() {
        let mut guessing = with(&[1, 2], 0, Some(2..=4));
        assert_eq!(guessing.guess(alone(50.0), 8), Guess::Drafted(2));
        assert_eq!(guessing.guess(alone(50.0), 1), Guess::Drafted(1));
    }
}
