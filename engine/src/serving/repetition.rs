//! Finds output that goes round in circles: that ends with the same run of tokens several times over.
//!
//! Takes a few operations a token for each length of run looked for. Decides nothing; the sequence ends.

use std::collections::VecDeque;

use crate::RepetitionLimit;

/// Watches one sequence's output.
#[derive(Debug)]
pub(super) struct RepetitionDetector {
    limit: RepetitionLimit,
    /// The latest tokens, the last first, at most as many as the longest run.
    latest: VecDeque<u32>,
    /// For each length of run, how many of the last tokens equal the token that many before them.
    matched: Vec<u32>,
}

impl RepetitionDetector {
    pub(super) fn new(limit: RepetitionLimit) -> Self {
        let lengths = (limit.max_pattern + 1 - limit.min_pattern) as usize;
        Self { limit, latest: VecDeque::new(), matched: vec![0; lengths] }
    }

    /// Takes the next token; true when the output goes round in circles with it.
    pub(super) fn push(&mut self, token: u32) -> bool {
        let RepetitionLimit { min_pattern, min_count, max_pattern } = self.limit;
        let mut circles = false;
        for (length, matched) in (min_pattern..).zip(&mut self.matched) {
            let same = self.latest.get(length as usize - 1) == Some(&token);
            *matched = if same { *matched + 1 } else { 0 };
            // The first time round matches nothing.
            circles |= u64::from(*matched) >= u64::from(length) * u64::from(min_count - 1);
        }
        self.latest.push_front(token);
        self.latest.truncate(max_pattern as usize);
        circles
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(min_pattern: u32, max_pattern: u32, min_count: u32) -> RepetitionLimit {
        RepetitionLimit { max_pattern, min_pattern, min_count }
    }

    /// Says the same by comparing runs.
    fn goes_in_circles(tokens: &[u32], limit: RepetitionLimit) -> bool {
        (limit.min_pattern..=limit.max_pattern).any(|length| {
            let span = (length * limit.min_count) as usize;
            tokens.len() >= span && {
                let mut runs = tokens[tokens.len() - span..].chunks(length as usize);
                let first = runs.next();
                runs.all(|run| Some(run) == first)
            }
        })
    }

    proptest! {
        #[test]
        fn circles_are_found_where_they_are(
            tokens in prop::collection::vec(0_u32..3, 0..60),
            min_pattern in 1_u32..4,
            more in 0_u32..4,
            min_count in 2_u32..5,
        ) {
            let limit = limit(min_pattern, min_pattern + more, min_count);
            let mut detector = RepetitionDetector::new(limit);
            for end in 1..=tokens.len() {
                let found = detector.push(tokens[end - 1]);
                prop_assert_eq!(found, goes_in_circles(&tokens[..end], limit), "after {:?}", &tokens[..end]);
            }
        }
    }
}
