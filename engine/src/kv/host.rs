//! KV storage in host memory, attended by our CPU kernel.
//!
//! One f32 buffer a sequence, layer and side, laid out `[kv_heads, capacity, head_dim]` and grown by
//! doubling. Writes happen inside the attention primitive, on the stream that evaluates it, so that
//! steps see each other's keys in the order they were built.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlxcel_kernels::{CacheShape, SequenceKv};
use mlxcel_mlx_bridge::{Array, Dtype, HostInput, HostOutput, Result, host_op_single};

use super::{KvCache, not_open};
use crate::decoder::{Attention, StepInputs, length};
use crate::schedule::SequenceId;

/// Tokens a new sequence has room for before its first growth.
const FIRST_CAPACITY: usize = 128;

/// The KV cache of the CPU engine.
pub(crate) struct HostKv {
    layers: usize,
    sequences: HashMap<SequenceId, Arc<[Mutex<LayerKv>]>>,
}

/// Keys and values of one sequence in one layer.
#[derive(Default)]
struct LayerKv {
    keys: Vec<f32>,
    values: Vec<f32>,
    capacity: usize,
    length: usize,
}

/// One span of a step, with the storage it writes to.
struct BoundSpan {
    storage: Arc<[Mutex<LayerKv>]>,
    rows: std::ops::Range<usize>,
    start: usize,
}

impl HostKv {
    /// Storage for a decoder of `layers` layers.
    pub(crate) fn new(layers: usize) -> Self {
        Self { layers, sequences: HashMap::new() }
    }

    fn bind(&self, step: &StepInputs) -> Result<Vec<BoundSpan>> {
        let spans = step.plan.spans.iter().zip(step.plan.rows());
        spans
            .map(|(span, rows)| {
                let storage = self.sequences.get(&span.sequence).ok_or_else(|| not_open(span.sequence))?;
                Ok(BoundSpan { storage: Arc::clone(storage), rows, start: span.start })
            })
            .collect()
    }
}

impl KvCache for HostKv {
    fn open(&mut self, sequence: SequenceId) {
        let layers = (0..self.layers).map(|_| Mutex::new(LayerKv::default())).collect();
        self.sequences.insert(sequence, layers);
    }

    fn attend(
        &mut self,
        layer: usize,
        attention: &Attention,
        query_key_value: [&Array; 3],
        step: &StepInputs,
    ) -> Result<Array> {
        let spans = self.bind(step)?;
        let attention = attention.clone();
        let shape = [length(step.len), length(attention.heads), length(attention.head_dim)];
        let kernel = move |inputs: &[HostInput<'_>], output: &mut HostOutput<'_>| {
            let [query, key, value] = inputs else { return Err("attention takes q, k and v".to_owned()) };
            let mut held: Vec<_> = spans.iter().map(|span| lock(&span.storage[layer])).collect();
            for (span, kv) in spans.iter().zip(&mut held) {
                kv.append(span, &attention, [key.as_f32()?, value.as_f32()?])?;
            }
            attend(&attention, query.as_f32()?, &spans, &held, output.as_f32_mut()?)
        };
        host_op_single("attention", &query_key_value, &shape, Dtype::Float32, kernel)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    fn bytes(&self) -> u64 {
        let layers = self.sequences.values().flat_map(|layers| layers.iter());
        layers
            .map(|kv| {
                let kv = lock(kv);
                (kv.keys.len() + kv.values.len()) as u64 * 4
            })
            .sum()
    }
}

impl LayerKv {
    /// Appends the span's rows of keys and values, `[tokens, kv_heads, head_dim]`.
    fn append(
        &mut self,
        span: &BoundSpan,
        attention: &Attention,
        sides: [&[f32]; 2],
    ) -> std::result::Result<(), String> {
        if span.start == 0 {
            // The sequence begins, or begins again after it was preempted.
            self.length = 0;
        }
        if self.length != span.start {
            return Err(format!("a span starts at {}, its sequence has {} tokens", span.start, self.length));
        }
        let tokens = span.rows.len();
        self.reserve(self.length + tokens, attention);
        let shape = CacheShape {
            kv_heads: attention.kv_heads,
            capacity: self.capacity,
            head_dim: attention.head_dim,
        };
        let width = attention.kv_heads * attention.head_dim;
        for (side, store) in sides.into_iter().zip([&mut self.keys, &mut self.values]) {
            let rows = &side[span.rows.start * width..span.rows.end * width];
            mlxcel_kernels::append_kv(rows, self.length, &shape, store).map_err(|error| error.to_string())?;
        }
        self.length += tokens;
        Ok(())
    }

    fn reserve(&mut self, tokens: usize, attention: &Attention) {
        if tokens <= self.capacity {
            return;
        }
        let capacity = tokens.next_power_of_two().max(FIRST_CAPACITY);
        let (old, dim) = (self.capacity * attention.head_dim, attention.head_dim);
        for store in [&mut self.keys, &mut self.values] {
            let mut grown = vec![0.0; attention.kv_heads * capacity * dim];
            for head in 0..attention.kv_heads {
                let valid = self.length * dim;
                grown[head * capacity * dim..][..valid].copy_from_slice(&store[head * old..][..valid]);
            }
            *store = grown;
        }
        self.capacity = capacity;
    }
}

fn attend(
    attention: &Attention,
    query: &[f32],
    spans: &[BoundSpan],
    held: &[MutexGuard<'_, LayerKv>],
    out: &mut [f32],
) -> std::result::Result<(), String> {
    let sequences: Vec<SequenceKv<'_>> = spans
        .iter()
        .zip(held)
        .map(|(span, kv)| SequenceKv {
            queries: span.rows.clone(),
            keys: &kv.keys,
            values: &kv.values,
            capacity: kv.capacity,
            length: kv.length,
        })
        .collect();
    let shape = mlxcel_kernels::AttentionShape {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        scale: attention.scale,
        window: attention.window,
    };
    mlxcel_kernels::attention(query, &sequences, &shape, out).map_err(|error| error.to_string())
}

/// A poisoned lock means a kernel panicked; its step has failed and its sequences will be closed.
fn lock(kv: &Mutex<LayerKv>) -> MutexGuard<'_, LayerKv> {
    kv.lock().unwrap_or_else(PoisonError::into_inner)
}
