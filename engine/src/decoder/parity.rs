//! Our logits beside mlx-lm's, for every checkpoint the generator under `parity/` writes.

#![allow(clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};

use mlxcel_mlx_bridge::{Array, Dtype};

use super::arithmetic::Arithmetic;
use super::build::Execution;
use super::description::{Activation, Decoder};
use super::host::HostArithmetic;
use super::inputs::StepInputs;
use super::model::{Model, StepOutput};
use super::weights::{LinearWeights, MatrixWeights, NormWeights, RopeWeights};
use crate::api::{DeviceChoice, Quantization};
use crate::blocks::{BlockStore, BlockTable, StateLimits};
use crate::checkpoint::{Checkpoint, WriteOptions, write_mlx_checkpoint};
use crate::device::Device;
use crate::families;
use crate::schedule::{SequenceId, Span, StepPlan, Token};
use crate::state::MixerCache;

/// Blocks of the caches: room for every prompt of a case.
pub(super) const BLOCKS: usize = 64;

pub(super) struct Case {
    pub(super) name: String,
    pub(super) model: PathBuf,
    pub(super) tolerance: f32,
    pub(super) prompts: Vec<Prompt>,
}

pub(super) struct Prompt {
    pub(super) ids: Vec<u32>,
    /// `[tokens][vocabulary]`.
    pub(super) logits: Vec<Vec<f32>>,
}

#[test]
fn cpu_kernels_give_mlx_lms_logits_token_by_token() {
    check_all(Execution::Host, one_by_one);
}

#[test]
fn cpu_kernels_give_mlx_lms_logits_for_ragged_prefill() {
    check_all(Execution::Host, ragged);
}

#[test]
fn mlx_graphs_give_mlx_lms_logits_for_ragged_prefill() {
    check_all(Execution::Graph, ragged);
}

#[test]
fn mlx_graphs_give_mlx_lms_logits_token_by_token() {
    check_all(Execution::Graph, one_by_one);
}

#[test]
fn cpu_blocks_give_what_their_parts_give_one_by_one() {
    let cpu = Device::choose(DeviceChoice::Cpu).expect("every host has a CPU");
    cpu.make_default().expect("the CPU can be used");
    for case in cases() {
        let mut model = load(&case.model, Execution::Host).expect("the case loads");
        let at_once = ragged(&model, &case.prompts);
        model.arithmetic = Box::new(InParts(HostArithmetic::default()));
        assert!(ragged(&model, &case.prompts) == at_once, "{}: other logits", case.name);
    }
}

#[test]
fn weights_made_mxfp4_while_loading_are_those_that_converting_makes() {
    let cpu = Device::choose(DeviceChoice::Cpu).expect("every host has a CPU");
    cpu.make_default().expect("the CPU can be used");
    let made = Some(Quantization::Mxfp4);
    let case = cases().into_iter().find(|case| case.name == "qwen3-untied").expect("there is such a case");
    let written = tempfile::tempdir().expect("a folder");
    let (checkpoint, description) = described(&case.model).expect("the case loads");
    let options = WriteOptions { quantize: made, ..WriteOptions::default() };
    write_mlx_checkpoint(&checkpoint, written.path(), &options, &mut |_| {}).expect("it is written");
    for execution in [Execution::Host, Execution::Graph] {
        let stored = load(written.path(), execution).expect("what was written loads");
        let description = description.clone();
        let loaded = Model::load(description, &checkpoint, execution, made, &mut |_| {}).expect("it loads");
        let logits = ragged(&stored, &case.prompts);
        assert!(ragged(&loaded, &case.prompts) == logits, "{execution:?}: other logits");
        let plain = load(&case.model, execution).expect("the case loads");
        assert!(ragged(&plain, &case.prompts) != logits, "{execution:?}: nothing was quantised");
    }
}

/// An arithmetic without blocks of its own.
struct InParts(HostArithmetic);

impl Arithmetic for InParts {
    fn embed(&self, ids: &Array, table: &MatrixWeights) -> mlxcel_mlx_bridge::Result<Array> {
        self.0.embed(ids, table)
    }
    fn linear(&self, x: &Array, weights: &LinearWeights) -> mlxcel_mlx_bridge::Result<Array> {
        self.0.linear(x, weights)
    }
    fn matrix(&self, x: &Array, weights: &MatrixWeights) -> mlxcel_mlx_bridge::Result<Array> {
        self.0.matrix(x, weights)
    }
    fn norm(&self, x: &Array, weights: &NormWeights) -> mlxcel_mlx_bridge::Result<Array> {
        self.0.norm(x, weights)
    }
    fn rope(&self, x: &Array, step: &StepInputs, rope: &RopeWeights) -> mlxcel_mlx_bridge::Result<Array> {
        self.0.rope(x, step, rope)
    }
    fn gated(&self, gate: &Array, up: &Array, how: Activation) -> mlxcel_mlx_bridge::Result<Array> {
        self.0.gated(gate, up, how)
    }
}

/// The books of the caches, with states whether a model has any or not.
pub(super) fn store() -> BlockStore {
    BlockStore::new(BLOCKS).with_states(StateLimits { slots: 2 * BLOCKS, interval: 1 })
}

/// Every prompt alone, a token a step: the logits after each.
fn one_by_one(model: &Model, prompts: &[Prompt]) -> Vec<(usize, usize, Vec<f32>)> {
    let (mut cache, mut blocks) = (model.cache(BLOCKS), store());
    let mut seen = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let mut table = BlockTable::default();
        for (at, &token) in prompt.ids.iter().enumerate() {
            let span = span(index, &[token], &mut table, &mut blocks);
            let rows = step(model, &mut cache, vec![span]);
            seen.extend(rows.into_iter().map(|row| (index, at, row)));
        }
        blocks.release(table);
    }
    seen
}

/// All prompts side by side, in chunks of different lengths, decode tokens among them.
fn ragged(model: &Model, prompts: &[Prompt]) -> Vec<(usize, usize, Vec<f32>)> {
    let (mut cache, mut blocks) = (model.cache(BLOCKS), store());
    let mut seen = Vec::new();
    for RaggedStep { spans, ends } in ragged_steps(prompts, &mut blocks) {
        let rows = step(model, &mut cache, spans);
        seen.extend(ends.into_iter().zip(rows).map(|((index, at), row)| (index, at, row)));
    }
    seen
}

/// The spans of a step, and of each which prompt it is of and the last token it computes.
pub(super) struct RaggedStep {
    pub(super) spans: Vec<Span>,
    pub(super) ends: Vec<(usize, usize)>,
}

/// Prompts side by side, in chunks of different lengths.
pub(super) fn ragged_steps(prompts: &[Prompt], blocks: &mut BlockStore) -> Vec<RaggedStep> {
    let mut done = vec![0; prompts.len()];
    let mut tables: Vec<BlockTable> = prompts.iter().map(|_| BlockTable::default()).collect();
    let mut steps = Vec::new();
    let mut round = 0;
    while prompts.iter().zip(&done).any(|(prompt, &at)| at < prompt.ids.len()) {
        let mut spans = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            let chunk = [1, 7, 3, 20][(round + index) % 4].min(prompt.ids.len() - done[index]);
            if chunk > 0 {
                let tokens = &prompt.ids[done[index]..done[index] + chunk];
                spans.push(span(index, tokens, &mut tables[index], blocks));
                done[index] += chunk;
            }
        }
        let ends = spans.iter().map(|s| (s.sequence.0 as usize, s.start + s.tokens.len() - 1)).collect();
        steps.push(RaggedStep { spans, ends });
        round += 1;
    }
    steps
}

/// The next tokens of a prompt, with room for them.
fn span(prompt: usize, tokens: &[u32], table: &mut BlockTable, blocks: &mut BlockStore) -> Span {
    let start = table.tokens();
    let copy = blocks.grow(table, tokens.len()).expect("there is room for every prompt");
    assert_eq!(copy, None, "prompts share nothing");
    let state = blocks.advance(table, tokens.len()).expect("there is a slot for every prompt");
    let tokens = tokens.iter().copied().map(Token::Known).collect();
    Span { sequence: SequenceId(prompt as u64), tokens, start, samples: 1, blocks: table.shared(), state }
}

fn step(model: &Model, cache: &mut MixerCache, spans: Vec<Span>) -> Vec<Vec<f32>> {
    let output = model.forward(StepPlan { spans, copies: Vec::new() }, None, cache).expect("the step runs");
    let StepOutput::Logits(logits) = output else { panic!("every span is sampled") };
    let width = model.description.vocab_size;
    let values: Vec<f32> =
        logits.astype(Dtype::Float32).and_then(|l| l.to_vec()).expect("the step evaluates");
    values.chunks(width).map(<[f32]>::to_vec).collect()
}

type Run = fn(&Model, &[Prompt]) -> Vec<(usize, usize, Vec<f32>)>;

fn check_all(execution: Execution, run: Run) {
    let cpu = Device::choose(DeviceChoice::Cpu).expect("every host has a CPU");
    cpu.make_default().expect("the CPU can be used");
    let cases = cases();
    assert!(cases.len() > 40, "the generator writes a case for every feature");
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case, execution, run).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(case: &Case, execution: Execution, run: Run) -> Result<(), String> {
    let model = load(&case.model, execution).map_err(|error| format!("{}: {error}", case.name))?;
    // In half precision a graph computes as mlx-lm does natively, with errors of several roundings.
    let tolerance = match (execution, model.dtype) {
        (Execution::Graph, Dtype::Float16 | Dtype::Bfloat16) => case.tolerance * 3.0,
        _ => case.tolerance,
    };
    let seen = run(&model, &case.prompts);
    let mut worst = 0.0f32;
    for (prompt, at, row) in &seen {
        for (ours, theirs) in row.iter().zip(&case.prompts[*prompt].logits[*at]) {
            let error = (ours - theirs).abs();
            worst = if error.is_nan() { f32::INFINITY } else { worst.max(error) };
        }
    }
    let ends = seen.iter().filter(|(prompt, at, _)| at + 1 == case.prompts[*prompt].ids.len()).count();
    assert_eq!(ends, case.prompts.len(), "every prompt was run to its end");
    if worst > tolerance {
        Err(format!("{}: off by {worst}, allowed {tolerance}", case.name))
    } else {
        Ok(())
    }
}

fn load(path: &Path, execution: Execution) -> Result<Model, String> {
    let (checkpoint, description) = described(path)?;
    Model::load(description, &checkpoint, execution, None, &mut |_| {}).map_err(|error| error.to_string())
}

pub(super) fn described(path: &Path) -> Result<(Checkpoint, Decoder), String> {
    let mut checkpoint = Checkpoint::open(path).map_err(|error| error.to_string())?;
    let description = families::describe(checkpoint.config()).map_err(|error| error.to_string())?;
    checkpoint.rename(&families::weight_name);
    Ok((checkpoint, description))
}

pub(super) fn cases() -> Vec<Case> {
    let dir = std::env::var_os("MLXCEL_PARITY_DIR")
        .map(PathBuf::from)
        .expect("MLXCEL_PARITY_DIR names what parity/generate.py wrote; `./x test` sets it");
    let manifest = std::fs::read(dir.join("manifest.json")).expect("the generator wrote a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("the manifest is JSON");
    let listed = manifest["cases"].as_array().expect("the manifest lists cases");
    listed.iter().map(|entry| case(&dir, entry)).collect()
}

fn case(dir: &Path, entry: &serde_json::Value) -> Case {
    let text = |key: &str| entry[key].as_str().expect("a text").to_owned();
    let reference = std::fs::read(dir.join(text("reference"))).expect("the reference exists");
    let reference = safetensors::SafeTensors::deserialize(&reference).expect("the reference is safetensors");
    let count = entry["prompts"].as_u64().expect("a count");
    let prompts = (0..count).map(|n| {
        let ids = reference.tensor(&format!("ids.{n}")).expect("ids");
        let logits = reference.tensor(&format!("logits.{n}")).expect("logits");
        let values: Vec<f32> = words(logits.data()).map(f32::from_le_bytes).collect();
        let width = logits.shape()[1];
        Prompt {
            ids: words(ids.data()).map(u32::from_le_bytes).collect(),
            logits: values.chunks(width).map(<[f32]>::to_vec).collect(),
        }
    });
    Case {
        name: text("name"),
        model: dir.join(text("model")),
        tolerance: entry["tolerance"].as_f64().expect("a number") as f32,
        prompts: prompts.collect(),
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.chunks_exact(4).map(|word| word.try_into().expect("four bytes"))
}
