//! What of an answer has been handed out: behind these tokens another node goes on.

use mlxcel_protocol::v1::{ChoiceDelta, FinishReason, ResumedChoice};

/// The tokens of every choice, so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    choices: Vec<Choice>,
}

#[derive(Debug, Clone, Default)]
struct Choice {
    token_ids: Vec<u32>,
    ended: bool,
}

impl Told {
    /// Notes more output. What a node that went on tells again of a choice that has ended is left out.
    pub(super) fn note(&mut self, deltas: Vec<ChoiceDelta>) -> Vec<ChoiceDelta> {
        deltas.into_iter().filter(|delta| self.note_one(delta)).collect()
    }

    fn note_one(&mut self, delta: &ChoiceDelta) -> bool {
        let at = delta.choice as usize;
        if self.choices.len() <= at {
            self.choices.resize(at + 1, Choice::default());
        }
        let choice = &mut self.choices[at];
        if choice.ended {
            return false;
        }
        choice.token_ids.extend(&delta.token_ids);
        choice.ended = delta.ended() != FinishReason::Unspecified;
        true
    }

    /// Whether anything has been handed out.
    pub(super) fn is_empty(&self) -> bool {
        self.choices.iter().all(|choice| choice.token_ids.is_empty())
    }

    /// What the node that goes on is told.
    pub(super) fn resumed(&self) -> Vec<ResumedChoice> {
        self.choices.iter().map(|choice| ResumedChoice { token_ids: choice.token_ids.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(choice: u32, token_ids: &[u32], ended: FinishReason) -> ChoiceDelta {
        ChoiceDelta { choice, token_ids: token_ids.to_vec(), ended: ended.into(), ..ChoiceDelta::default() }
    }

    #[test]
    fn choices_are_kept_apart_and_end_once() {
        let mut told = Told::default();
        assert!(told.is_empty());
        let goes_on = FinishReason::Unspecified;
        let first = vec![delta(2, &[5], goes_on), delta(0, &[1, 2], FinishReason::Length)];
        assert_eq!(told.note(first).len(), 2);
        let again = vec![delta(0, &[], FinishReason::Length), delta(2, &[6], goes_on)];
        assert_eq!(told.note(again), vec![delta(2, &[6], goes_on)]);
        let ids: Vec<Vec<u32>> = told.resumed().into_iter().map(|choice| choice.token_ids).collect();
        assert_eq!(ids, [vec![1, 2], vec![], vec![5, 6]]);
    }
}
