//! Greedy choice and filtered draws.
//!
//! Every filter keeps a prefix of the tokens ordered by falling weight, then rising id, so only
//! the last token kept is looked for, by selection; nothing is sorted in full. Knows no penalties
//! and owns no random numbers.

use super::SamplingError;
use super::weight::{ONE, weight};

/// What is left of the parameters once penalties and bias are applied.
#[derive(Debug, Clone)]
pub(super) struct Filters {
    pub(super) temperature: f32,
    pub(super) top_k: usize,
    pub(super) top_p: f32,
    pub(super) min_p: f32,
}

/// Buffers reused from step to step.
#[derive(Debug, Clone, Default)]
pub(super) struct Chooser {
    /// What top-k keeps, rising; empty when it keeps all.
    ids: Vec<u32>,
    /// Weights of `ids`, or of all tokens.
    weights: Vec<u32>,
    keys: Vec<u64>,
}

impl Chooser {
    /// `random` is uniform over all `u64`.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        filters: &Filters,
        random: u64,
    ) -> Result<u32, SamplingError> {
        let largest = largest(logits)?;
        if filters.temperature == 0.0 {
            let first = logits.iter().position(|&logit| logit == largest);
            return Ok(first.map_or(0, |id| id as u32));
        }
        let temperature = filters.temperature;
        let relative = move |logit: f32| weight((logit - largest) / temperature);
        self.weights.clear();
        if (1..logits.len()).contains(&filters.top_k) {
            self.keep_most_likely(logits, filters.top_k);
            self.weights.extend(self.ids.iter().map(|&id| relative(logits[id as usize])));
        } else {
            self.ids.clear();
            self.weights.extend(logits.iter().map(|&logit| relative(logit)));
        }
        let cut = self.cut(filters);
        let index = self.draw(cut, random);
        Ok(self.ids.get(index).copied().unwrap_or(index as u32))
    }

    /// Leaves the `k` most likely tokens in `ids`.
    fn keep_most_likely(&mut self, logits: &[f32], k: usize) {
        let best = &mut self.keys;
        best.clear();
        let room = (2 * k).max(512);
        let mut floor = f32::NEG_INFINITY;
        for (chunk_index, chunk) in logits.chunks(LANES).enumerate() {
            // Equal to the floor is not enough: the tokens kept so far have lower ids.
            if !chunk.iter().fold(false, |any, &logit| any | (logit > floor)) {
                continue;
            }
            for (offset, &logit) in chunk.iter().enumerate() {
                if logit > floor {
                    best.push(key(ordered(logit), chunk_index * LANES + offset));
                }
            }
            if best.len() >= room {
                keep_largest(best, k);
                floor = logits[index_of(best[k - 1])];
            }
        }
        keep_largest(best, k);
        self.ids.clear();
        self.ids.extend(best.iter().map(|&key| index_of(key) as u32));
        self.ids.sort_unstable();
    }

    /// The smallest key that top-p and min-p keep.
    fn cut(&mut self, filters: &Filters) -> u64 {
        let least = least_weight(filters.min_p);
        let min_p_cut = key(least, u32::MAX as usize);
        if filters.top_p >= 1.0 {
            return min_p_cut;
        }
        let total: u64 = self.weights.iter().map(|&weight| u64::from(weight)).sum();
        // Tokens lighter than an even share of what top-p drops cannot be in its set: all of them
        // together weigh less than what it drops.
        let dropped = (1.0 - f64::from(filters.top_p)) * total as f64;
        self.collect_from(least.max((dropped / self.weights.len() as f64) as u32));
        let target = (f64::from(filters.top_p) * total as f64).ceil() as u64;
        let keys = self.keys.as_mut_slice();
        // The token that reaches the target is in low..high; all before low weigh `before`.
        let (mut low, mut high, mut before) = (0, keys.len(), 0);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            keys[low..high].select_nth_unstable_by(middle - low, |a, b| b.cmp(a));
            let half: u64 = keys[low..middle].iter().map(|&key| key >> 32).sum();
            if before + half >= target {
                high = middle;
            } else {
                before += half;
                low = middle;
            }
        }
        keys.get(low).map_or(min_p_cut, |&key| key.max(min_p_cut))
    }

    /// Collects the keys of all weights from `least` on.
    fn collect_from(&mut self, least: u32) {
        self.keys.clear();
        for (chunk_index, chunk) in self.weights.chunks(LANES).enumerate() {
            if !chunk.iter().fold(false, |any, &weight| any | (weight >= least)) {
                continue;
            }
            for (offset, &weight) in chunk.iter().enumerate() {
                if weight >= least {
                    self.keys.push(key(weight, chunk_index * LANES + offset));
                }
            }
        }
    }

    /// The index drawn among those with keys from `cut` on, walking them in order.
    fn draw(&self, cut: u64, random: u64) -> usize {
        // Of the weights equal to the cut's, those up to its index are kept.
        let least = (cut >> 32) as u32;
        let (head, tail) = self.weights.split_at(self.weights.len().min(index_of(cut) + 1));
        let total = mass(head, least) + mass(tail, least + 1);
        let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        for (part, start, least) in [(head, 0, least), (tail, head.len(), least + 1)] {
            for (chunk_index, chunk) in part.chunks(LANES).enumerate() {
                let here = mass(chunk, least);
                if left >= here {
                    left -= here;
                    continue;
                }
                for (offset, &weight) in chunk.iter().enumerate() {
                    let weight = if weight >= least { u64::from(weight) } else { 0 };
                    if left < weight {
                        return start + chunk_index * LANES + offset;
                    }
                    left -= weight;
                }
            }
        }
        unreachable!("the most likely token is always kept, and left < total")
    }
}

/// The least weight that min-p keeps.
pub(super) fn least_weight(min_p: f32) -> u32 {
    let least = (f64::from(min_p) * f64::from(ONE)).ceil() as u32;
    least.max(1)
}

/// The largest logit, once all are known to be usable.
fn largest(logits: &[f32]) -> Result<f32, SamplingError> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut usable = [true; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            // False for NaN as well.
            usable[lane] &= chunk[lane] < f32::INFINITY;
        }
    }
    let rest = chunks.remainder();
    let usable = usable.iter().all(|&usable| usable) && rest.iter().all(|&l| l < f32::INFINITY);
    if !usable {
        let bad = logits.iter().copied().enumerate().find(|&(_, l)| l.is_nan() || l == f32::INFINITY);
        let (id, value) = bad.unwrap_or((0, f32::NAN));
        return Err(SamplingError::NotANumber { id, value });
    }
    let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY { Err(SamplingError::NoToken) } else { Ok(largest) }
}

/// A `u32` that orders as the float does (sign and magnitude to two's complement).
fn ordered(value: f32) -> u32 {
    // Both zeros are the same logit.
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Orders by `rank`, then by falling index.
fn key(rank: u32, index: usize) -> u64 {
    u64::from(rank) << 32 | u64::from(!(index as u32))
}

fn index_of(key: u64) -> usize {
    !(key as u32) as usize
}

/// Leaves the `k` largest keys, the smallest of them last.
fn keep_largest(keys: &mut Vec<u64>, k: usize) {
    if keys.len() > k {
        keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
        keys.truncate(k);
    }
}

/// The sum of the weights from `least` on.
fn mass(weights: &[u32], least: u32) -> u64 {
    weights.iter().map(|&weight| u64::from(if weight >= least { weight } else { 0 })).sum()
}

const LANES: usize = 16;
