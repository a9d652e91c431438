//! The tree of cached prefixes.
//!
//! A node is a full block; its place in the tree is the hash of its tokens chained to that of its parent, so one
//! map finds any child of any node. Tokens are kept and compared: equal hashes of different prefixes are a miss,
//! never a wrong prefix. Knows neither references nor age; `store` decides what enters and what leaves.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use super::{BLOCK_TOKENS, BlockId};

/// Chains the tokens of a block to the hash of what precedes it.
pub(super) type ChainHash = fn(u64, &[u32]) -> u64;

/// Cached blocks by the tokens they and their ancestors hold.
#[derive(Debug)]
pub(super) struct PrefixTree {
    by_hash: HashMap<u64, BlockId>,
    /// The node of each block that has one.
    nodes: Vec<Option<Node>>,
    hash: ChainHash,
}

#[derive(Debug)]
struct Node {
    hash: u64,
    parent: Option<BlockId>,
    children: usize,
    tokens: Box<[u32]>,
}

/// What became of a block offered to the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insertion {
    /// It is a node now.
    Inserted,
    /// This block already holds the same prefix.
    Present(BlockId),
    /// Another prefix has the same hash.
    Collision,
}

impl PrefixTree {
    /// An empty tree over `blocks` blocks.
    pub(super) fn new(blocks: usize, hash: ChainHash) -> Self {
        Self { by_hash: HashMap::new(), nodes: (0..blocks).map(|_| None).collect(), hash }
    }

    /// The child of `parent`, or of the root, that holds `tokens`.
    pub(super) fn child(&self, parent: Option<BlockId>, tokens: &[u32]) -> Option<BlockId> {
        let block = *self.by_hash.get(&self.chained(parent, tokens))?;
        self.holds(block, parent, tokens).then_some(block)
    }

    /// The nodes of `tokens`, as far as they are here: a block each.
    pub(super) fn path(&self, tokens: &[u32]) -> Vec<BlockId> {
        let mut path: Vec<BlockId> = Vec::new();
        for chunk in tokens.chunks_exact(BLOCK_TOKENS) {
            let Some(block) = self.child(path.last().copied(), chunk) else { break };
            path.push(block);
        }
        path
    }

    /// Makes `block` the child of `parent` that holds `tokens`, unless there is one.
    pub(super) fn insert(&mut self, parent: Option<BlockId>, tokens: &[u32], block: BlockId) -> Insertion {
        let hash = self.chained(parent, tokens);
        if let Some(&present) = self.by_hash.get(&hash) {
            let same = self.holds(present, parent, tokens);
            return if same { Insertion::Present(present) } else { Insertion::Collision };
        }
        self.by_hash.insert(hash, block);
        self.nodes[index(block)] = Some(Node { hash, parent, children: 0, tokens: tokens.into() });
        if let Some(parent) = parent.and_then(|parent| self.node_mut(parent)) {
            parent.children += 1;
        }
        Insertion::Inserted
    }

    /// Whether `block` is a node.
    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.nodes[index(block)].is_some()
    }

    /// Whether `block` is a node without children.
    pub(super) fn is_leaf(&self, block: BlockId) -> bool {
        self.nodes[index(block)].as_ref().is_some_and(|node| node.children == 0)
    }

    /// Takes a leaf out and returns its parent.
    pub(super) fn remove_leaf(&mut self, block: BlockId) -> Option<BlockId> {
        let node = self.nodes[index(block)].take()?;
        debug_assert_eq!(node.children, 0, "a node with children would leave them unreachable");
        self.by_hash.remove(&node.hash);
        if let Some(parent) = node.parent.and_then(|parent| self.node_mut(parent)) {
            parent.children -= 1;
        }
        node.parent
    }

    /// `root` and all below it, children before their parents. Looks at every node.
    pub(super) fn subtree(&self, root: BlockId) -> Vec<BlockId> {
        let mut children = HashMap::<BlockId, Vec<BlockId>>::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(parent) = node.as_ref().and_then(|node| node.parent) {
                children.entry(parent).or_default().push(BlockId(at as u32));
            }
        }
        let mut found = vec![root];
        let mut at = 0;
        while at < found.len() {
            found.extend(children.remove(&found[at]).unwrap_or_default());
            at += 1;
        }
        found.reverse();
        found
    }

    fn holds(&self, block: BlockId, parent: Option<BlockId>, tokens: &[u32]) -> bool {
        let node = self.nodes[index(block)].as_ref();
        node.is_some_and(|node| node.parent == parent && *node.tokens == *tokens)
    }

    fn chained(&self, parent: Option<BlockId>, tokens: &[u32]) -> u64 {
        let parent = parent.and_then(|parent| self.nodes[index(parent)].as_ref());
        (self.hash)(parent.map_or(0, |node| node.hash), tokens)
    }

    fn node_mut(&mut self, block: BlockId) -> Option<&mut Node> {
        self.nodes[index(block)].as_mut()
    }
}

/// SipHash of the parent's hash and the tokens.
pub(super) fn chain_hash(parent: u64, tokens: &[u32]) -> u64 {
    debug_assert_eq!(tokens.len(), BLOCK_TOKENS);
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(parent);
    hasher.write(bytemuck::cast_slice(tokens));
    hasher.finish()
}

/// A block's number as an index.
pub(super) fn index(block: BlockId) -> usize {
    block.0 as usize
}
