//! Which node has computed how much of a prompt lately.
//!
//! A prompt is cut every 256 bytes. Each cut has a key, a hash chained over all before it, so that equal keys mean equal
//! beginnings: the turns of a conversation, prompts under one system prompt. What a node was sent counts as computed there
//! at once; the least recently sent is forgotten. Knows no tokens and no caches: bytes stand for tokens in proportion, and
//! how much of what it should have a node really had, `fleet` learns from its answers.

use std::collections::{HashMap, HashSet, VecDeque};

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
    /// Nodes by number; none where one is gone. Numbers are compared for every key, names only here.
    nodes: Vec<Option<NodeId>>,
}

#[derive(Debug)]
struct Known {
    nodes: Vec<u32>,
    /// The latest note.
    note: u64,
}

impl Prefixes {
    /// A prompt is sent to the node, which will have all of it.
    pub(crate) fn note(&mut self, cuts: &Cuts, node: &NodeId) {
        if cuts.keys.is_empty() {
            return;
        }
        let number = self.number(node);
        for key in &cuts.keys {
            self.notes += 1;
            let known = self.known.entry(*key).or_insert(Known { nodes: Vec::new(), note: 0 });
            known.note = self.notes;
            if !known.nodes.contains(&number) {
                known.nodes.push(number);
            }
            self.noted.push_back((*key, self.notes));
        }
        while self.noted.len() > MOST_NOTES {
            self.forget_oldest();
        }
    }

    /// What each node has of a prompt. Looks at its cuts once, and at each node that has any of them about once.
    pub(crate) fn overlaps(&self, cuts: &Cuts) -> Overlaps {
        let run: Vec<&Known> = cuts.keys.iter().map_while(|key| self.known.get(key)).collect();
        let mut seen = HashSet::new();
        let mut overlaps = Overlaps::new();
        for (at, known) in run.iter().enumerate().rev() {
            // Whoever has a cut has those before it, so that there are ever more.
            if known.nodes.len() <= seen.len() {
                continue;
            }
            let share = ((at + 1) * CUT_BYTES) as f64 / cuts.bytes as f64;
            for number in known.nodes.iter().filter(|number| seen.insert(**number)) {
                let node = self.nodes.get(*number as usize).and_then(Option::as_ref);
                overlaps.extend(node.map(|node| (node.clone(), share)));
            }
        }
        overlaps
    }

    /// The node is gone, with all that it had.
    pub(crate) fn lose(&mut self, node: &NodeId) {
        let Some(number) = self.nodes.iter().position(|it| it.as_ref() == Some(node)) else { return };
        self.nodes[number] = None;
        self.known.retain(|_, known| {
            known.nodes.retain(|it| *it as usize != number);
            !known.nodes.is_empty()
        });
    }

    fn number(&mut self, node: &NodeId) -> u32 {
        let number = self.nodes.iter().position(|it| it.as_ref() == Some(node)).unwrap_or_else(|| {
            // Whatever a number stood for before was forgotten with its node.
            let free = self.nodes.iter().position(Option::is_none).unwrap_or(self.nodes.len());
            self.nodes.resize(self.nodes.len().max(free + 1), None);
            self.nodes[free] = Some(node.clone());
            free
        });
        u32::try_from(number).unwrap_or(u32::MAX)
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
