//! Which node has computed how much of a prompt lately.
//!
//! A prompt is cut every 256 bytes. Each cut has a key, a hash chained over all before it, so that equal keys mean equal
//! beginnings: the turns of a conversation, prompts under one system prompt. What a node was sent counts as computed there
//! at once; the least recently sent is forgotten. Knows no tokens and no caches: bytes stand for tokens in proportion, and
//! how much of what it should have a node really had, `fleet` learns from its answers.

use std::collections::{HashMap, VecDeque};

use super::fleet::NodeId;

/// The keys of a prompt's cuts, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cuts {
    keys: Vec<u64>,
    bytes: usize,
}

impl Cuts {
    /// Of a prompt for `model` that is `parts`, one behind the other.
    pub(crate) fn new(model: &str, parts: &[&[u8]]) -> Self {
        let mut key = chained(0, model.as_bytes());
        let mut keys = Vec::new();
        for part in parts {
            for cut in part.chunks_exact(CUT_BYTES) {
                key = chained(key, cut);
                keys.push(key);
            }
            // What is shorter parts what follows, and is no cut of its own.
            key = chained(key, part.chunks_exact(CUT_BYTES).remainder());
        }
        Self { keys, bytes: parts.iter().map(|part| part.len()).sum() }
    }
}

/// The part of a prompt that each node has, from 0 to 1; none for 0.
pub(crate) type Overlaps = HashMap<NodeId, f64>;

/// What all nodes have computed, as far as this router knows.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    known: HashMap<u64, Known>,
    /// Keys in the order in which they were noted; one that was noted again is there several times.
    noted: VecDeque<(u64, u64)>,
    notes: u64,
}

#[derive(Debug)]
struct Known {
    nodes: Vec<NodeId>,
    /// The latest note.
    note: u64,
}

impl Prefixes {
    /// A prompt is sent to the node, which will have all of it.
    pub(crate) fn note(&mut self, cuts: &Cuts, node: &NodeId) {
        for key in &cuts.keys {
            self.notes += 1;
            let known = self.known.entry(*key).or_insert(Known { nodes: Vec::new(), note: 0 });
            known.note = self.notes;
            if !known.nodes.contains(node) {
                known.nodes.push(node.clone());
            }
            self.noted.push_back((*key, self.notes));
        }
        while self.noted.len() > MOST_NOTES {
            self.forget_oldest();
        }
    }

    /// What each node has of a prompt. Looks at its cuts, not at the nodes.
    pub(crate) fn overlaps(&self, cuts: &Cuts) -> Overlaps {
        let mut overlaps = Overlaps::new();
        for (at, known) in cuts.keys.iter().map_while(|key| self.known.get(key)).enumerate() {
            let share = ((at + 1) * CUT_BYTES) as f64 / cuts.bytes as f64;
            for node in &known.nodes {
                overlaps.insert(node.clone(), share);
            }
        }
        overlaps
    }

    /// The node is gone, with all that it had.
    pub(crate) fn lose(&mut self, node: &NodeId) {
        self.known.retain(|_, known| {
            known.nodes.retain(|it| it != node);
            !known.nodes.is_empty()
        });
    }

    fn forget_oldest(&mut self) {
        let Some((key, note)) = self.noted.pop_front() else { return };
        if self.known.get(&key).is_some_and(|known| known.note == note) {
            self.known.remove(&key);
        }
    }
}

/// Mixes eight bytes at a time, each step a bijection of the state (as in MurmurHash's finaliser).
fn chained(key: u64, bytes: &[u8]) -> u64 {
    let mut hash = key ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for word in bytes.chunks(8) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        hash = (hash ^ u64::from_le_bytes(padded)).wrapping_mul(MULTIPLIER);
        hash ^= hash >> 32;
    }
    hash
}

/// About two blocks of a KV cache.
const CUT_BYTES: usize = 256;
/// Of 64 bytes each, with what they are kept in: 16 MiB, for 64 MiB of prompts.
const MOST_NOTES: usize = 1 << 18;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
