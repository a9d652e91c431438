//! GGUF files: what they become, and what is refused.

use half::f16;
use mlxcel_engine::Quantization;
use mlxcel_engine::checkpoint::{Checkpoint, Tensor, TensorDtype};
use mlxcel_engine::families;
use mlxcel_kernels::{Mxfp4, Weight, dequantize as dequantize_rows};
use serde_json::json;

use crate::gguf_file::{F16, GgmlTensor, GgufFile, MXFP4, Meta, Q4_0, Q4_1, Q6_K, Q8_0, counting, tiny};

pub(crate) fn open(file: &GgufFile) -> Checkpoint {
    let directory = file.write();
    Checkpoint::open(directory.path()).expect("the file is accepted")
}

fn refusal(file: &GgufFile) -> String {
    let directory = file.write();
    let text = Checkpoint::open(directory.path()).err().expect("the file is refused").to_string();
    assert!(text.contains("model.gguf") && !text.contains('\n'), "{text}");
    text
}

fn tensor(checkpoint: &Checkpoint, name: &str) -> Tensor {
    checkpoint.tensor(name).expect("the tensor exists")
}

fn f32s(tensor: &Tensor) -> Vec<f32> {
    let bytes = tensor.bytes.as_ref();
    match tensor.dtype {
        TensorDtype::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        TensorDtype::F16 => {
            bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        other => panic!("{other} is not a float"),
    }
}

fn words(tensor: &Tensor) -> Vec<u32> {
    let bytes = tensor.bytes.as_ref().chunks_exact(4);
    bytes.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// MLX's rule: weight i of a group is `scale * q + bias`, q being `bits` wide, lowest bits first.
fn dequantize(checkpoint: &Checkpoint, module: &str) -> Vec<f32> {
    let quantization = checkpoint.quantization().for_module(module).expect("quantised");
    let packed = tensor(checkpoint, &format!("{module}.weight"));
    assert_eq!(packed.dtype, TensorDtype::U32);
    let scales = f32s(&tensor(checkpoint, &format!("{module}.scales")));
    let biases = f32s(&tensor(checkpoint, &format!("{module}.biases")));
    let per_word = 32 / quantization.bits() as usize;
    let integers = words(&packed).into_iter().flat_map(|word| {
        (0..per_word)
            .map(move |i| word >> (i as u32 * quantization.bits()) & ((1 << quantization.bits()) - 1))
    });
    integers
        .enumerate()
        .map(|(i, q)| {
            let group = i / quantization.group_size() as usize;
            scales[group] * q as f32 + biases[group]
        })
        .collect()
}

/// A quantised `blk.0.ffn_up` of 32 rows, whose blocks are made by `block` from their number.
fn quantized(kind: u32, block: impl Fn(usize) -> Vec<u8>) -> GgufFile {
    let mut file = tiny();
    let bytes = (0..32).flat_map(block).collect();
    file.replace(GgmlTensor { name: "blk.0.ffn_up.weight".into(), shape: vec![32, 32], kind, bytes });
    file
}

const UP: &str = "model.layers.0.mlp.up_proj";

fn half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// Byte j of block n, any value.
fn noise(n: usize, j: usize) -> u8 {
    (n * 31 + j * 17 + 5) as u8
}

#[test]
fn a_file_describes_a_decoder() {
    let checkpoint = open(&tiny());
    let decoder = families::describe(checkpoint.config()).expect("a decoder");
    assert_eq!((decoder.layers.len(), decoder.vocab_size, decoder.max_context), (1, 4, 64));
    assert!(decoder.output.is_some_and(|output| output.tied), "no output tensor means a tied head");
    assert_eq!(checkpoint.config()["rms_norm_eps"], json!(1e-5));
    assert_eq!(checkpoint.config()["eos_token_id"], json!(0));
}

#[test]
fn an_output_tensor_is_the_head() {
    let mut file = tiny();
    file.replace(counting("output.weight", &[4, 32], 0.0));
    let checkpoint = open(&file);
    assert_eq!(checkpoint.config()["tie_word_embeddings"], json!(false));
    assert_eq!(tensor(&checkpoint, "lm_head.weight").shape, [4, 32]);
}

#[test]
fn q4_0_is_kept_exactly() {
    let scale = |n: usize| 0.01 * (n as f32 - 16.0);
    let file =
        quantized(Q4_0, |n| [half(scale(n)).to_vec(), (0..16).map(|j| noise(n, j)).collect()].concat());
    let expected = (0..32).flat_map(|n| {
        let d = f16::from_f32(scale(n)).to_f32();
        (0..32).map(move |i| {
            let q = if i < 16 { noise(n, i) & 15 } else { noise(n, i - 16) >> 4 };
            d * (f32::from(q) - 8.0)
        })
    });
    let checkpoint = open(&file);
    assert_eq!(dequantize(&checkpoint, UP), expected.collect::<Vec<_>>());
    assert_eq!(
        checkpoint.quantization().for_module(UP),
        Some(Quantization::Affine { bits: 4, group_size: 32 })
    );
    assert_eq!(tensor(&checkpoint, &format!("{UP}.weight")).shape, [32, 4]);
    assert_eq!(tensor(&checkpoint, &format!("{UP}.scales")).shape, [32, 1]);
}

#[test]
fn q4_1_is_kept_exactly() {
    let block = |n: usize| {
        let head = [half(0.02 * n as f32), half(-1.0 - n as f32)].concat();
        [head, (0..16).map(|j| noise(n, j)).collect()].concat()
    };
    let expected = (0..32).flat_map(|n| {
        let (d, m) = (f16::from_f32(0.02 * n as f32).to_f32(), -1.0 - n as f32);
        (0..32).map(move |i| {
            let q = if i < 16 { noise(n, i) & 15 } else { noise(n, i - 16) >> 4 };
            d * f32::from(q) + m
        })
    });
    assert_eq!(dequantize(&open(&quantized(Q4_1, block)), UP), expected.collect::<Vec<_>>());
}

pub(crate) fn q8_0(scale: f32) -> GgufFile {
    quantized(Q8_0, |n| [half(scale).to_vec(), (0..32).map(|j| noise(n, j)).collect()].concat())
}

fn q8_0_expected(scale: f32) -> Vec<f32> {
    let d = f16::from_f32(scale).to_f32();
    (0..32).flat_map(|n| (0..32).map(move |i| d * f32::from(noise(n, i) as i8))).collect()
}

#[test]
fn q8_0_is_kept_exactly() {
    let checkpoint = open(&q8_0(0.0123));
    assert_eq!(dequantize(&checkpoint, UP), q8_0_expected(0.0123));
    assert_eq!(tensor(&checkpoint, &format!("{UP}.biases")).dtype, TensorDtype::F16);
}

#[test]
fn mxfp4_is_kept_exactly() {
    let scale = |n: usize| (110 + n) as u8;
    let file = quantized(MXFP4, |n| [vec![scale(n)], (0..16).map(|j| noise(n, j)).collect()].concat());
    let checkpoint = open(&file);
    assert_eq!(checkpoint.quantization().for_module(UP), Some(Quantization::Mxfp4));
    assert_eq!(checkpoint.config()["quantization"], json!({"group_size": 32, "bits": 4, "mode": "mxfp4"}));
    let [packed, scales] = ["weight", "scales"].map(|part| tensor(&checkpoint, &format!("{UP}.{part}")));
    assert_eq!((packed.dtype, &packed.shape[..]), (TensorDtype::U32, &[32, 4][..]));
    assert_eq!((scales.dtype, &scales.shape[..]), (TensorDtype::U8, &[32, 1][..]));
    assert!(!checkpoint.contains(&format!("{UP}.biases")));
    let words: Vec<u32> = words(&packed);
    let weight = Weight::Mxfp4(Mxfp4 { packed: &words, scales: scales.bytes.as_ref() });
    let mut found = [0.0; 32 * 32];
    dequantize_rows(&weight, 32, 32, 0..32, &mut found).expect("a matrix");
    // GGML's table is of the doubled values, and its scale half of what the byte says.
    const DOUBLED: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];
    let expected = (0..32).flat_map(|n| {
        (0..32).map(move |i| {
            let code = if i < 16 { noise(n, i) & 15 } else { noise(n, i - 16) >> 4 };
            DOUBLED[usize::from(code)] * 2f32.powi(i32::from(scale(n)) - 128)
        })
    });
    assert_eq!(found.to_vec(), expected.collect::<Vec<_>>());
}

#[test]
fn scales_whose_biases_overflow_half_precision_become_f32() {
    let checkpoint = open(&q8_0(1000.0));
    assert_eq!(tensor(&checkpoint, &format!("{UP}.scales")).dtype, TensorDtype::F32);
    assert_eq!(tensor(&checkpoint, &format!("{UP}.biases")).dtype, TensorDtype::F32);
    assert_eq!(dequantize(&checkpoint, UP), q8_0_expected(1000.0));
}

#[test]
fn different_types_become_overrides() {
    let mut file = q8_0(1.0);
    let blocks = quantized(Q4_0, |n| [half(1.0).to_vec(), (0..16).map(|j| noise(n, j)).collect()].concat());
    for name in ["blk.0.ffn_gate.weight", "blk.0.ffn_down.weight"] {
        let up =
            blocks.tensors.iter().find(|tensor| tensor.name == "blk.0.ffn_up.weight").expect("made above");
        file.replace(GgmlTensor { name: name.into(), ..up.clone() });
    }
    let checkpoint = open(&file);
    let of = |module: &str| checkpoint.quantization().for_module(&format!("model.layers.0.mlp.{module}"));
    assert_eq!(of("gate_proj"), Some(Quantization::Affine { bits: 4, group_size: 32 }));
    assert_eq!(of("up_proj"), Some(Quantization::Affine { bits: 8, group_size: 32 }));
    assert_eq!(checkpoint.config()["quantization"]["bits"], json!(4));
    assert_eq!(checkpoint.config()["quantization"][UP], json!({"group_size": 32, "bits": 8}));
}

#[test]
fn llama_rows_return_to_two_halves_a_head() {
    let checkpoint = open(&tiny());
    let first = |name: &str| -> Vec<usize> {
        f32s(&tensor(&checkpoint, name)).iter().step_by(32).map(|&value| value as usize / 32).collect()
    };
    // Heads of eight rows: pairs (2i, 2i + 1) were neighbours in the file.
    let head = [0, 2, 4, 6, 1, 3, 5, 7];
    let expected: Vec<usize> = (0..4).flat_map(|h| head.map(|row| 8 * h + row)).collect();
    assert_eq!(first("model.layers.0.self_attn.q_proj.weight"), expected);
    assert_eq!(first("model.layers.0.self_attn.k_proj.weight"), expected[..16]);
    assert_eq!(first("model.layers.0.self_attn.v_proj.weight"), (0..16).collect::<Vec<_>>());
}

#[test]
fn llama_biases_return_with_their_rows() {
    let mut file = tiny();
    for (name, rows) in [("q", 32), ("k", 16), ("v", 16), ("output", 32)] {
        file.replace(counting(&format!("blk.0.attn_{name}.bias"), &[rows], 0.0));
    }
    let checkpoint = open(&file);
    assert_eq!(checkpoint.config()["attention_bias"], json!(true));
    let bias = f32s(&tensor(&checkpoint, "model.layers.0.self_attn.q_proj.bias"));
    assert_eq!(bias[..8], [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
}

fn tiny_qwen(architecture: &str) -> GgufFile {
    let mut file = tiny();
    for (key, _) in &mut file.meta {
        *key = key.replace("llama.", &format!("{architecture}."));
    }
    file.set("general.architecture", Meta::Text(architecture.into()));
    file
}

#[test]
fn qwen_rows_stay_as_they_are() {
    let checkpoint = open(&tiny_qwen("qwen2"));
    let rows = f32s(&tensor(&checkpoint, "model.layers.0.self_attn.q_proj.weight"));
    assert_eq!(rows, (0..32 * 32).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(checkpoint.config()["model_type"], json!("qwen2"));
}

#[test]
fn qwen3_head_norms_are_found() {
    let mut file = tiny_qwen("qwen3");
    file.set("qwen3.attention.key_length", Meta::U32(8));
    file.replace(counting("blk.0.attn_q_norm.weight", &[8], 0.0));
    let checkpoint = open(&file);
    assert_eq!(tensor(&checkpoint, "model.layers.0.self_attn.q_norm.weight").shape, [8]);
    families::describe(checkpoint.config()).expect("a decoder");
}

#[test]
fn floats_are_not_converted() {
    let mut file = tiny();
    let bytes: Vec<u8> = (0..32 * 32).flat_map(|i| half(i as f32)).collect();
    let name = "blk.0.ffn_up.weight".to_owned();
    file.replace(GgmlTensor { name, shape: vec![32, 32], kind: F16, bytes: bytes.clone() });
    let tensor = tensor(&open(&file), &format!("{UP}.weight"));
    assert_eq!((tensor.dtype, tensor.bytes.as_ref()), (TensorDtype::F16, bytes.as_slice()));
}

#[test]
fn version_2_is_read() {
    let file = GgufFile { version: 2, ..tiny() };
    assert!(open(&file).contains("model.norm.weight"));
}

#[test]
fn a_window_makes_llama_a_mistral() {
    let mut file = tiny();
    file.set("llama.attention.sliding_window", Meta::U32(16));
    let checkpoint = open(&file);
    assert_eq!(checkpoint.config()["model_type"], json!("mistral"));
    assert_eq!(checkpoint.config()["sliding_window"], json!(16));
}

#[test]
fn rotary_scaling_is_translated() {
    let mut linear = tiny();
    linear.set("llama.rope.scaling.type", Meta::Text("linear".into()));
    linear.set("llama.rope.scaling.factor", Meta::F32(4.0));
    assert_eq!(open(&linear).config()["rope_scaling"], json!({"rope_type": "linear", "factor": 4.0}));
    let mut yarn = tiny();
    yarn.set("llama.rope.scaling.type", Meta::Text("yarn".into()));
    yarn.set("llama.rope.scaling.factor", Meta::F32(2.0));
    yarn.set("llama.rope.scaling.original_context_length", Meta::U32(32));
    let expected = json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32});
    assert_eq!(open(&yarn).config()["rope_scaling"], expected);
}

/// Llama 3.1's factors for heads of eight and theta 500000, as its GGUF files hold them.
const LLAMA3_FACTORS: [f32; 4] = [1.0, 1.0, 2.6945297, 8.0];

fn with_rope_factors(factors: [f32; 4]) -> GgufFile {
    let mut file = tiny();
    file.set("llama.rope.freq_base", Meta::F32(500_000.0));
    let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    file.replace(GgmlTensor { name: "rope_freqs.weight".into(), shape: vec![4], kind: 0, bytes });
    file
}

#[test]
fn llama3_rotary_factors_become_their_rule() {
    let checkpoint = open(&with_rope_factors(LLAMA3_FACTORS));
    let expected = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(checkpoint.config()["rope_scaling"], expected);
    assert!(!checkpoint.contains("rope_freqs.weight"));
}

#[test]
fn other_rotary_factors_are_refused() {
    let text = refusal(&with_rope_factors([1.0, 1.5, 2.6945297, 8.0]));
    assert!(text.contains("do not follow Llama 3.1's rule"), "{text}");
}

#[test]
fn types_without_a_lossless_layout_are_refused_by_name() {
    let mut file = tiny();
    let name = "blk.0.ffn_down.weight".to_owned();
    file.replace(GgmlTensor { name, shape: vec![32, 256], kind: Q6_K, bytes: vec![0; 32 * 210] });
    let text = refusal(&file);
    assert!(
        text.contains("tensor blk.0.ffn_down.weight of type Q6_K, which has no lossless MLX layout"),
        "{text}"
    );
    assert!(text.contains("supported: Q4_0, Q4_1, Q8_0, MXFP4, F16, BF16, F32"), "{text}");
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() {
    let cases: [(&str, Meta, &str); 8] = [
        ("general.architecture", Meta::Text("gemma".into()), "architecture gemma"),
        ("llama.expert_count", Meta::U32(8), "llama.expert_count"),
        ("llama.rope.scaling.type", Meta::Text("longrope".into()), "rope scaling longrope"),
        ("llama.rope.dimension_count", Meta::U32(4), "llama.rope.dimension_count is 4"),
        (
            "llama.attention.head_count",
            Meta::I32s(vec![4]),
            "llama.attention.head_count differs between layers",
        ),
        ("llama.attention.head_count", Meta::U32(0), "no attention heads"),
        ("llama.attention.value_length", Meta::U32(9), "llama.attention.value_length is 9"),
        ("general.alignment", Meta::U32(3), "general.alignment must be a power of two"),
    ];
    for (key, value, expected) in cases {
        let mut file = tiny();
        file.set(key, value);
        if key == "llama.rope.scaling.type" {
            file.set("llama.rope.scaling.factor", Meta::F32(2.0));
        }
        let text = refusal(&file);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_missing_key_is_named() {
    for key in ["llama.block_count", "llama.embedding_length", "llama.attention.layer_norm_rms_epsilon"] {
        let text = refusal(tiny().unset(key));
        assert!(text.contains(&format!("it has no {key}")), "{text}");
    }
}

#[test]
fn a_part_of_a_split_model_says_how_to_merge() {
    let mut file = tiny();
    file.set("split.count", Meta::U32(3));
    let text = refusal(&file);
    assert!(text.contains("is one of 3 parts") && text.contains("llama-gguf-split --merge"), "{text}");
}

#[test]
fn an_unknown_tensor_is_refused_by_name() {
    let mut file = tiny();
    file.replace(counting("blk.0.attn_sinks.weight", &[4], 0.0));
    assert!(refusal(&file).contains("tensor blk.0.attn_sinks.weight"));
}

#[test]
fn a_file_that_is_not_gguf_says_so() {
    let directory = tempfile::tempdir().expect("temporary directory");
    crate::fixtures::write(directory.path(), "model.gguf", "<!doctype html>");
    let text = Checkpoint::open(directory.path().join("model.gguf")).err().expect("refused").to_string();
    assert!(text.contains("is not a GGUF file"), "{text}");
}

#[test]
fn several_files_in_a_directory_ask_for_one() {
    let directory = tiny().write();
    crate::fixtures::write(directory.path(), "other.gguf", "");
    let text = Checkpoint::open(directory.path()).err().expect("refused").to_string();
    assert!(text.contains("holds 2 .gguf files; name the one to use"), "{text}");
}
