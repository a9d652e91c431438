//! What will be written: every tensor's type, shape and place, before any is read.
//!
//! A safetensors header comes first in its file, so sizes must be known in advance. Pure: it
//! reads shapes and decides, and writes nothing.

use serde_json::{Map, Value, json};

use super::WriteOptions;
use crate::Quantization;
use crate::checkpoint::{Checkpoint, TensorDtype, TensorInfo};

/// A tensor's place in a file.
pub(super) struct Placed {
    pub(super) name: String,
    pub(super) info: TensorInfo,
    /// Index of the file.
    pub(super) shard: usize,
    /// From the start of the file's data.
    pub(super) offset: u64,
}

/// What becomes of one tensor of the source.
pub(super) struct Job {
    pub(super) source: String,
    pub(super) outcome: Outcome,
}

/// Indices are into `Plan::placed`.
pub(super) enum Outcome {
    /// Its bytes, in another float type where `placed` says so.
    Keep(usize),
    /// Packed codes, scales and, in affine layouts, biases.
    Quantize { quantization: Quantization, packed: usize, scales: usize, biases: Option<usize> },
}

/// Everything to be written.
pub(super) struct Plan {
    pub(super) placed: Vec<Placed>,
    pub(super) jobs: Vec<Job>,
    pub(super) shards: usize,
    /// Modules that will be quantised, the source's own included.
    pub(super) quantized: Vec<(String, Quantization)>,
}

/// Decides what becomes of every tensor.
pub(super) fn plan(checkpoint: &Checkpoint, options: &WriteOptions) -> Plan {
    let mut plan = Plan { placed: Vec::new(), jobs: Vec::new(), shards: 1, quantized: Vec::new() };
    for name in checkpoint.names() {
        let Some(info) = checkpoint.exact_info(name) else {
            continue;
        };
        let dtype =
            if info.dtype.is_weight_float() { options.dtype.unwrap_or(info.dtype) } else { info.dtype };
        let module = name.strip_suffix(".weight");
        if let Some((module, quantization)) = module.and_then(|module| {
            let own = checkpoint.quantization().for_module(module)?;
            Some((module, own))
        }) {
            plan.quantized.push((module.to_owned(), quantization));
        }
        let outcome = match (module, options.quantize.filter(|q| is_quantizable(&info, *q))) {
            (Some(module), Some(quantization)) => plan.quantize(module, &info, dtype, quantization),
            _ => Outcome::Keep(plan.place(name.to_owned(), TensorInfo { dtype, shape: info.shape })),
        };
        plan.jobs.push(Job { source: name.to_owned(), outcome });
    }
    plan.arrange(options.shard_bytes);
    plan
}

/// Matrices of floats whose rows are whole groups: linear layers and embeddings.
fn is_quantizable(info: &TensorInfo, quantization: Quantization) -> bool {
    let columns = info.shape.get(1).copied().unwrap_or(0);
    info.shape.len() == 2
        && columns > 0
        && info.dtype.is_weight_float()
        && columns.is_multiple_of(quantization.group_size() as usize)
}

impl Plan {
    pub(super) fn total_bytes(&self) -> u64 {
        self.placed.iter().map(|placed| placed.info.size_bytes()).sum()
    }

    fn place(&mut self, name: String, info: TensorInfo) -> usize {
        self.placed.push(Placed { name, info, shard: 0, offset: 0 });
        self.placed.len() - 1
    }

    fn quantize(
        &mut self,
        module: &str,
        info: &TensorInfo,
        dtype: TensorDtype,
        quantization: Quantization,
    ) -> Outcome {
        let (rows, columns) = (info.shape[0], info.shape[1]);
        let words = columns * quantization.bits() as usize / 32;
        let groups = columns / quantization.group_size() as usize;
        let packed = TensorInfo { dtype: TensorDtype::U32, shape: vec![rows, words] };
        let (dtype, biased) = match quantization {
            Quantization::Affine { .. } => (dtype, true),
            Quantization::Mxfp4 => (TensorDtype::U8, false),
        };
        let side = TensorInfo { dtype, shape: vec![rows, groups] };
        self.quantized.push((module.to_owned(), quantization));
        Outcome::Quantize {
            quantization,
            packed: self.place(format!("{module}.weight"), packed),
            scales: self.place(format!("{module}.scales"), side.clone()),
            biases: biased.then(|| self.place(format!("{module}.biases"), side)),
        }
    }

    /// Fills files in order of names; inside a file wider types come first, so that every
    /// tensor is aligned to its type.
    fn arrange(&mut self, shard_bytes: u64) {
        let (mut shard, mut filled) = (0, 0);
        for placed in &mut self.placed {
            let size = placed.info.size_bytes();
            if filled > 0 && filled + size > shard_bytes {
                (shard, filled) = (shard + 1, 0);
            }
            filled += size;
            placed.shard = shard;
        }
        self.shards = shard + 1;
        for shard in 0..self.shards {
            let mut members: Vec<&mut Placed> = self.placed.iter_mut().filter(|p| p.shard == shard).collect();
            members.sort_by(|a, b| {
                let width = |placed: &Placed| placed.info.dtype.size_bytes();
                width(b).cmp(&width(a)).then_with(|| a.name.cmp(&b.name))
            });
            let mut offset = 0;
            for placed in members {
                placed.offset = offset;
                offset += placed.info.size_bytes();
            }
        }
    }

    pub(super) fn file_name(&self, shard: usize) -> String {
        if self.shards == 1 {
            return "model.safetensors".into();
        }
        format!("model-{:05}-of-{:05}.safetensors", shard + 1, self.shards)
    }

    /// The bytes before a file's data: length and JSON, padded so that the data is aligned.
    pub(super) fn header(&self, shard: usize) -> Vec<u8> {
        let mut members: Vec<&Placed> = self.placed.iter().filter(|placed| placed.shard == shard).collect();
        members.sort_by_key(|placed| placed.offset);
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({"format": "mlx"}));
        for placed in members {
            let end = placed.offset + placed.info.size_bytes();
            let entry = json!({
                "dtype": name_of(placed.info.dtype),
                "shape": placed.info.shape,
                "data_offsets": [placed.offset, end],
            });
            header.insert(placed.name.clone(), entry);
        }
        let mut json = Value::Object(header).to_string().into_bytes();
        json.resize((json.len() + 8).next_multiple_of(64) - 8, b' ');
        [&(json.len() as u64).to_le_bytes()[..], &json].concat()
    }

    /// `model.safetensors.index.json`, when there is more than one file.
    pub(super) fn index(&self) -> Option<Value> {
        if self.shards == 1 {
            return None;
        }
        let mut names: Vec<&Placed> = self.placed.iter().collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        let map: Map<String, Value> =
            names.iter().map(|placed| (placed.name.clone(), json!(self.file_name(placed.shard)))).collect();
        Some(json!({"metadata": {"total_size": self.total_bytes()}, "weight_map": map}))
    }
}

/// Safetensors' names.
fn name_of(dtype: TensorDtype) -> String {
    match dtype {
        TensorDtype::Bool => "BOOL".into(),
        other => other.to_string(),
    }
}
