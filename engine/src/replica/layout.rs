//! Which rank of a replica has which part of the model.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::decoder::Place;

/// How a model is divided: its stages, first to last. Ranks are numbered stage by stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    stages: Vec<StageLayout>,
}

/// Layers, and how many ranks share each of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageLayout {
    /// Which layers, from 0.
    pub layers: Range<usize>,
    /// How many ranks.
    pub ranks: usize,
}

/// Why stages are no division of a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Layers are missing, or held twice.
    #[error(
        "a stage must begin with layer {expected}, where the one before ends, and have layers; it has {found:?}"
    )]
    Layers {
        /// Where it should begin.
        expected: usize,
        /// What it has.
        found: Range<usize>,
    },
    /// Nobody computes a stage.
    #[error("a stage must have at least one rank")]
    NoRanks,
    /// There is nothing to divide.
    #[error("a replica must have at least one stage")]
    NoStages,
}

impl Layout {
    /// These stages.
    ///
    /// # Errors
    /// When they do not follow each other from layer 0 on.
    pub fn new(stages: Vec<StageLayout>) -> Result<Self, LayoutError> {
        let mut expected = 0;
        for StageLayout { layers, ranks } in &stages {
            if layers.start != expected || layers.is_empty() {
                return Err(LayoutError::Layers { expected, found: layers.clone() });
            }
            if *ranks == 0 {
                return Err(LayoutError::NoRanks);
            }
            expected = layers.end;
        }
        if stages.is_empty() { Err(LayoutError::NoStages) } else { Ok(Self { stages }) }
    }

    /// Its stages, first to last.
    #[must_use]
    pub fn stages(&self) -> &[StageLayout] {
        &self.stages
    }

    /// How many ranks it has.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.stages.iter().map(|stage| stage.ranks).sum()
    }

    /// The rank that leads: the first of the last stage.
    #[must_use]
    pub fn leader(&self) -> usize {
        self.ranks() - self.stages.last().map_or(0, |stage| stage.ranks)
    }

    /// The ranks of a stage.
    #[must_use]
    pub fn ranks_of(&self, stage: usize) -> Range<usize> {
        let first = self.stages[..stage].iter().map(|stage| stage.ranks).sum();
        first..first + self.stages[stage].ranks
    }

    /// The stage of a rank; none where the replica has no such rank.
    #[must_use]
    pub fn stage_of(&self, rank: usize) -> Option<usize> {
        (0..self.stages.len()).find(|stage| self.ranks_of(*stage).contains(&rank))
    }

    /// What a rank has of the model; none where the replica has no such rank.
    #[must_use]
    pub fn place(&self, rank: usize) -> Option<Place> {
        let stage = self.stage_of(rank)?;
        let StageLayout { layers, ranks } = self.stages[stage].clone();
        Some(Place { layers, rank: rank - self.ranks_of(stage).start, ranks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages(of: &[(Range<usize>, usize)]) -> Vec<StageLayout> {
        of.iter().map(|(layers, ranks)| StageLayout { layers: layers.clone(), ranks: *ranks }).collect()
    }

    #[test]
    fn ranks_are_numbered_stage_by_stage_and_the_last_stage_leads() {
        let layout = Layout::new(stages(&[(0..3, 2), (3..4, 1), (4..9, 3)])).expect("a layout");
        assert_eq!((layout.ranks(), layout.leader()), (6, 3));
        assert_eq!(layout.place(1), Some(Place { layers: 0..3, rank: 1, ranks: 2 }));
        assert_eq!(layout.place(5), Some(Place { layers: 4..9, rank: 2, ranks: 3 }));
        assert_eq!(layout.place(6), None);
    }

    #[test]
    fn gaps_overlaps_and_empty_stages_are_refused() {
        let refused = |of: &[(Range<usize>, usize)]| Layout::new(stages(of)).expect_err("no layout");
        assert_eq!(refused(&[]), LayoutError::NoStages);
        assert_eq!(refused(&[(0..2, 0)]), LayoutError::NoRanks);
        assert_eq!(refused(&[(0..2, 1), (3..4, 1)]), LayoutError::Layers { expected: 2, found: 3..4 });
        assert_eq!(refused(&[(0..2, 1), (1..4, 1)]), LayoutError::Layers { expected: 2, found: 1..4 });
        assert_eq!(refused(&[(0..2, 1), (2..2, 1)]), LayoutError::Layers { expected: 2, found: 2..2 });
    }
}
