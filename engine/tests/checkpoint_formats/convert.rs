//! Checkpoints written as MLX model directories, and read back.

use std::path::Path;

use mlxcel_engine::Quantization;
use mlxcel_engine::checkpoint::{Checkpoint, TensorDtype, WriteError, WriteOptions, write_mlx_checkpoint};
use serde_json::{Value, json};

use crate::fixtures::{Raw, floats, llama, model, safetensors, write};
use crate::gguf_file::{GgmlTensor, Meta, Q4_1, Q8_0, tiny};

const FOUR_BITS: Quantization = Quantization::Affine { bits: 4, group_size: 32 };

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.37).sin()).collect()
}

/// A matrix whose rows are whole groups, one whose are not, and a norm.
fn source() -> tempfile::TempDir {
    let tensors: Vec<Raw> = vec![
        floats("model.layers.0.mlp.up_proj.weight", &[6, 64], &values(6 * 64)),
        floats("model.layers.0.mlp.odd.weight", &[4, 20], &values(80)),
        floats("model.norm.weight", &[64], &values(64)),
    ];
    let directory = model(&llama(), &safetensors(&tensors, |_| {}));
    write(directory.path(), "tokenizer.json", r#"{"version": "1.0"}"#);
    write(directory.path(), "generation_config.json", r#"{"eos_token_id": 7}"#);
    write(directory.path(), "README.md", "not part of a model");
    directory
}

/// The source, opened; the directory must outlive its use.
fn opened() -> (tempfile::TempDir, Checkpoint) {
    let directory = source();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    (directory, checkpoint)
}

fn convert(checkpoint: &Checkpoint, options: &WriteOptions) -> tempfile::TempDir {
    let parent = tempfile::tempdir().expect("temporary directory");
    let mut last = 0.0;
    let mut progress =
        |step: mlxcel_engine::LoadStep| last = step.done_bytes as f64 / step.total_bytes as f64;
    write_mlx_checkpoint(checkpoint, &parent.path().join("out"), options, &mut progress).expect("is written");
    assert_eq!(last, 1.0, "progress ends at all bytes");
    parent
}

fn reopen(parent: &tempfile::TempDir) -> Checkpoint {
    Checkpoint::open(parent.path().join("out")).expect("opens again")
}

fn assert_same_tensors(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.names().collect::<Vec<_>>(), b.names().collect::<Vec<_>>());
    for name in a.names() {
        let (a, b) = (a.tensor(name).expect("exists"), b.tensor(name).expect("exists"));
        assert_eq!((a.dtype, &a.shape, a.bytes.as_ref()), (b.dtype, &b.shape, b.bytes.as_ref()), "{name}");
    }
}

#[test]
fn tensors_and_text_files_survive_a_round_trip() {
    let (_source, checkpoint) = opened();
    let written = convert(&checkpoint, &WriteOptions::default());
    let copy = reopen(&written);
    assert_same_tensors(&checkpoint, &copy);
    assert_eq!(copy.config(), checkpoint.config());
    let exists = |name: &str| written.path().join("out").join(name).exists();
    assert!(exists("tokenizer.json") && exists("generation_config.json") && !exists("README.md"));
}

#[test]
fn tensors_lie_aligned_in_the_written_file() {
    let (_source, checkpoint) = opened();
    let copy =
        reopen(&convert(&checkpoint, &WriteOptions { quantize: Some(FOUR_BITS), ..Default::default() }));
    for name in copy.names() {
        let tensor = copy.tensor(name).expect("exists");
        assert!(tensor.bytes.is_aligned_to(tensor.dtype.size_bytes()), "{name}");
    }
}

#[test]
fn small_shards_make_an_index() {
    let (_source, checkpoint) = opened();
    let written = convert(&checkpoint, &WriteOptions { shard_bytes: 400, ..Default::default() });
    let index =
        std::fs::read_to_string(written.path().join("out/model.safetensors.index.json")).expect("an index");
    let index: Value = serde_json::from_str(&index).expect("JSON");
    assert_eq!(index["weight_map"]["model.norm.weight"], json!("model-00003-of-00003.safetensors"));
    assert_same_tensors(&checkpoint, &reopen(&written));
}

#[test]
fn matrices_of_whole_groups_are_quantised_by_mlx_rule() {
    let (_source, checkpoint) = opened();
    let copy =
        reopen(&convert(&checkpoint, &WriteOptions { quantize: Some(FOUR_BITS), ..Default::default() }));
    let module = "model.layers.0.mlp.up_proj";
    assert_eq!(copy.config()["quantization"], json!({"group_size": 32, "bits": 4, "mode": "affine"}));
    assert_eq!(copy.quantization().for_module(module), Some(FOUR_BITS));
    let expected = mlxcel_kernels::quantize(&values(6 * 64), 6, 64, 4, 32).expect("quantisable");
    let bytes =
        |part: &str| copy.tensor(&format!("{module}.{part}")).expect("exists").bytes.as_ref().to_vec();
    assert_eq!(
        bytes("weight"),
        expected.packed.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()
    );
    assert_eq!(
        bytes("scales"),
        expected.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<_>>()
    );
    assert_eq!(
        bytes("biases"),
        expected.biases.iter().flat_map(|bias| bias.to_le_bytes()).collect::<Vec<_>>()
    );
}

#[test]
fn matrices_become_mxfp4_by_mlx_rule() {
    let (_source, checkpoint) = opened();
    let options = WriteOptions { quantize: Some(Quantization::Mxfp4), ..Default::default() };
    let written = convert(&checkpoint, &options);
    let copy = reopen(&written);
    let module = "model.layers.0.mlp.up_proj";
    assert_eq!(copy.config()["quantization"], json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}));
    assert_eq!(copy.quantization().for_module(module), Some(Quantization::Mxfp4));
    let expected = mlxcel_kernels::quantize_mxfp4(&values(6 * 64), 6, 64).expect("quantisable");
    let tensor = |part: &str| copy.tensor(&format!("{module}.{part}")).expect("exists");
    let (packed, scales) = (tensor("weight"), tensor("scales"));
    let words: Vec<u8> = expected.packed.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!((packed.dtype, packed.bytes.as_ref()), (TensorDtype::U32, &words[..]));
    assert_eq!((scales.dtype, scales.bytes.as_ref()), (TensorDtype::U8, &expected.scales[..]));
    assert!(!copy.contains(&format!("{module}.biases")));
    let again = convert(&copy, &WriteOptions::default());
    assert_same_tensors(&copy, &reopen(&again));
}

#[test]
fn what_cannot_be_quantised_stays_as_it_is() {
    let (_source, checkpoint) = opened();
    let copy =
        reopen(&convert(&checkpoint, &WriteOptions { quantize: Some(FOUR_BITS), ..Default::default() }));
    for name in ["model.layers.0.mlp.odd.weight", "model.norm.weight"] {
        assert_eq!(copy.info(name), checkpoint.info(name));
    }
    assert_eq!(copy.quantization().for_module("model.layers.0.mlp.odd"), None);
}

#[test]
fn floats_are_written_in_the_type_asked_for() {
    let (_source, checkpoint) = opened();
    let options =
        WriteOptions { quantize: Some(FOUR_BITS), dtype: Some(TensorDtype::BF16), ..Default::default() };
    let copy = reopen(&convert(&checkpoint, &options));
    assert_eq!(copy.config()["torch_dtype"], json!("bfloat16"));
    let norm = copy.tensor("model.norm.weight").expect("exists");
    let expected: Vec<u8> =
        values(64).iter().flat_map(|&value| half::bf16::from_f32(value).to_le_bytes()).collect();
    assert_eq!((norm.dtype, norm.bytes.as_ref()), (TensorDtype::BF16, expected.as_slice()));
    let scales = copy.info("model.layers.0.mlp.up_proj.scales").expect("exists");
    assert_eq!(scales.dtype, TensorDtype::BF16);
}

#[test]
fn a_gguf_file_becomes_the_same_model() {
    let mut file = tiny();
    let block = |kind: u32, bytes: usize| GgmlTensor {
        name: String::new(),
        shape: vec![32, 32],
        kind,
        bytes: (0..32 * bytes).map(|i| (i * 7) as u8 & 0x3f).collect(),
    };
    file.replace(GgmlTensor { name: "blk.0.ffn_up.weight".into(), ..block(Q4_1, 20) });
    file.replace(GgmlTensor { name: "blk.0.ffn_down.weight".into(), ..block(Q8_0, 34) });
    file.set("tokenizer.chat_template", Meta::Text("{{ messages[0].content }}".into()));
    let directory = file.write();
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    let written = convert(&checkpoint, &WriteOptions::default());
    let copy = reopen(&written);
    assert_same_tensors(&checkpoint, &copy);
    for module in ["up_proj", "down_proj", "gate_proj"] {
        let module = format!("model.layers.0.mlp.{module}");
        assert_eq!(copy.quantization().for_module(&module), checkpoint.quantization().for_module(&module));
    }
    let (before, after) = (checkpoint.text_assets().expect("text"), copy.text_assets().expect("text"));
    assert_eq!(before.tokenizer, after.tokenizer);
    assert_eq!((before.chat_template, before.eos_token_ids), (after.chat_template, after.eos_token_ids));
}

fn refusal(source: &Path, target: &Path, options: &WriteOptions) -> WriteError {
    let checkpoint = Checkpoint::open(source).expect("opens");
    let error = write_mlx_checkpoint(&checkpoint, target, options, &mut |_| {}).expect_err("is refused");
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let (source, target) = (source(), tempfile::tempdir().expect("temporary directory"));
    write(target.path(), "precious.txt", "kept");
    let error = refusal(source.path(), target.path(), &WriteOptions::default());
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    assert_eq!(std::fs::read_dir(target.path()).expect("listed").count(), 1);
}

#[test]
fn quantised_weights_are_not_quantised_again() {
    let parent = {
        let (_source, checkpoint) = opened();
        convert(&checkpoint, &WriteOptions { quantize: Some(FOUR_BITS), ..Default::default() })
    };
    let options = WriteOptions { quantize: Some(FOUR_BITS), ..Default::default() };
    let error = refusal(&parent.path().join("out"), &parent.path().join("again"), &options);
    assert!(matches!(error, WriteError::AlreadyQuantized { .. }), "{error}");
}

#[test]
fn layouts_and_types_that_do_not_exist_are_refused() {
    let (source, parent) = (source(), tempfile::tempdir().expect("temporary directory"));
    let target = parent.path().join("out");
    let seven = WriteOptions {
        quantize: Some(Quantization::Affine { bits: 7, group_size: 32 }),
        ..Default::default()
    };
    assert!(matches!(refusal(source.path(), &target, &seven), WriteError::Quantization { bits: 7, .. }));
    let integers = WriteOptions { dtype: Some(TensorDtype::I32), ..Default::default() };
    assert!(matches!(refusal(source.path(), &target, &integers), WriteError::Dtype { .. }));
}

#[test]
fn a_source_without_tokenizer_is_refused_and_nothing_is_left() {
    let (source, parent) = (source(), tempfile::tempdir().expect("temporary directory"));
    std::fs::remove_file(source.path().join("tokenizer.json")).expect("removed");
    refusal(source.path(), &parent.path().join("out"), &WriteOptions::default());
    assert_eq!(std::fs::read_dir(parent.path()).expect("listed").count(), 0);
}
