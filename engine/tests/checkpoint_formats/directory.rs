//! Directories of safetensors files.

use mlxcel_engine::Quantization;
use mlxcel_engine::checkpoint::{Checkpoint, CheckpointError, TensorDtype};
use serde_json::{Value, json};

use crate::fixtures::{Raw, floats, llama, model, safetensors, two_tensors, write};

fn refusal(path: &std::path::Path) -> String {
    let error = Checkpoint::open(path).err().expect("the checkpoint is refused");
    let text = error.to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[test]
fn tensors_come_back_with_type_shape_and_bytes() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a.weight", "b.weight"]);
    assert_eq!(checkpoint.total_bytes(), 28);
    let tensor = checkpoint.tensor("b.weight").expect("exists");
    assert_eq!((tensor.dtype, tensor.shape.as_slice()), (TensorDtype::F32, [3].as_slice()));
    assert_eq!(tensor.bytes.as_ref(), [5.0_f32, 6.0, 7.0].map(f32::to_le_bytes).concat());
}

#[test]
fn bytes_outlive_the_checkpoint() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    let bytes = checkpoint.tensor("a.weight").expect("exists").bytes;
    drop(checkpoint);
    assert_eq!(&bytes.as_ref()[..4], 1.0_f32.to_le_bytes());
}

#[test]
fn shards_are_found_through_the_index() {
    let directory = model(&llama(), &safetensors(&[], |_| {}));
    std::fs::remove_file(directory.path().join("model.safetensors")).expect("removed");
    write(directory.path(), "one.safetensors", safetensors(&two_tensors()[..1], |_| {}));
    write(directory.path(), "two.safetensors", safetensors(&two_tensors()[1..], |_| {}));
    write(directory.path(), "unrelated.safetensors", b"not even a header");
    let index = json!({"weight_map": {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}});
    write(directory.path(), "model.safetensors.index.json", index.to_string());
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    assert_eq!(checkpoint.names().count(), 2);
}

#[test]
fn an_index_that_names_a_missing_shard_says_which() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    let index = json!({"weight_map": {"a.weight": "model-00001-of-00002.safetensors"}});
    write(directory.path(), "model.safetensors.index.json", index.to_string());
    let text = refusal(directory.path());
    assert!(text.contains("has no model-00001-of-00002.safetensors"), "{text}");
}

#[test]
fn an_index_cannot_reach_outside_its_directory() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    let index = json!({"weight_map": {"a.weight": "../model.safetensors"}});
    write(directory.path(), "model.safetensors.index.json", index.to_string());
    let text = refusal(directory.path());
    assert!(text.contains("not in a file beside it"), "{text}");
}

#[test]
fn a_tensor_the_index_promises_must_be_in_its_shard() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    let index = json!({"weight_map": {"c.weight": "model.safetensors"}});
    write(directory.path(), "model.safetensors.index.json", index.to_string());
    let text = refusal(directory.path());
    assert!(text.contains("lists tensor c.weight"), "{text}");
}

#[test]
fn two_files_with_the_same_tensor_are_refused() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    write(directory.path(), "model-2.safetensors", safetensors(&two_tensors()[..1], |_| {}));
    let text = refusal(directory.path());
    assert!(text.contains("both hold tensor a.weight"), "{text}");
}

#[test]
fn every_truncation_is_reported_as_damage() {
    let whole = safetensors(&two_tensors(), |_| {});
    let directory = model(&llama(), &whole);
    for length in 0..whole.len() {
        write(directory.path(), "model.safetensors", &whole[..length]);
        let error = Checkpoint::open(directory.path()).err().expect("refused");
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{length} bytes: {error}");
    }
}

#[test]
fn damage_names_the_file_and_the_mend() {
    let whole = safetensors(&two_tensors(), |_| {});
    let directory = model(&llama(), &whole[..whole.len() - 1]);
    let text = refusal(directory.path());
    assert!(text.contains("model.safetensors is damaged") && text.contains("download"), "{text}");
}

#[test]
fn headers_that_lie_are_refused() {
    let lies: [fn(&mut Value); 5] = [
        |header| header["a.weight"]["data_offsets"] = json!([0, 4096]),
        |header| header["b.weight"]["data_offsets"] = json!([8, 20]),
        |header| header["a.weight"]["shape"] = json!([2, 3]),
        |header| header["a.weight"]["shape"] = json!([1_u64 << 62, 1_u64 << 62]),
        |header| header["a.weight"]["data_offsets"] = json!([16, 0]),
    ];
    for (index, lie) in lies.into_iter().enumerate() {
        let directory = model(&llama(), &safetensors(&two_tensors(), lie));
        let error = Checkpoint::open(directory.path()).err().expect("refused");
        assert!(matches!(error, CheckpointError::Damaged { .. }), "lie {index}: {error}");
    }
}

#[test]
fn a_header_longer_than_the_file_is_refused() {
    let mut file = safetensors(&two_tensors(), |_| {});
    file[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let directory = model(&llama(), &file);
    assert!(refusal(directory.path()).contains("is damaged"));
}

#[test]
fn types_no_weight_has_are_refused_by_name() {
    let tensor = Raw { name: "a.weight", dtype: "F8_E4M3", shape: vec![4], bytes: vec![0; 4] };
    let directory = model(&llama(), &safetensors(&[tensor], |_| {}));
    assert!(refusal(directory.path()).contains("tensor a.weight of type F8_E4M3"));
}

#[test]
fn a_directory_without_config_says_so() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    std::fs::remove_file(directory.path().join("config.json")).expect("removed");
    assert!(refusal(directory.path()).contains("has no config.json"));
}

#[test]
fn a_directory_without_weights_says_so() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    std::fs::remove_file(directory.path().join("model.safetensors")).expect("removed");
    assert!(refusal(directory.path()).contains("has no model.safetensors"));
}

#[test]
fn a_config_that_is_not_json_is_damage() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    write(directory.path(), "config.json", "{\"model_type\": ");
    assert!(refusal(directory.path()).contains("config.json is damaged: it is not JSON"));
}

#[test]
fn an_unreadable_config_names_the_file() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    std::fs::remove_file(directory.path().join("config.json")).expect("removed");
    // Works for root too, who can read files without permission.
    std::fs::create_dir(directory.path().join("config.json")).expect("created");
    assert!(refusal(directory.path()).contains("cannot read"));
}

#[test]
fn a_path_that_does_not_exist_says_what_to_give() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let text = refusal(&directory.path().join("absent"));
    assert!(text.starts_with("no model at") && text.contains(".gguf"), "{text}");
}

#[test]
fn a_missing_tensor_is_an_error_that_names_it() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    let error = checkpoint.tensor("c.weight").expect_err("refused");
    assert!(error.to_string().contains("has no tensor c.weight"), "{error}");
}

#[test]
fn an_unexpected_shape_or_type_is_an_error_that_names_both() {
    let directory = model(&llama(), &safetensors(&two_tensors(), |_| {}));
    let tensor = Checkpoint::open(directory.path()).expect("opens").tensor("a.weight").expect("exists");
    let shape = tensor.expect_shape(&[4, 1]).expect_err("refused").to_string();
    assert!(shape.contains("has shape [2, 2], expected [4, 1]"), "{shape}");
    let dtype = tensor.expect_dtype(&[TensorDtype::U32]).expect_err("refused").to_string();
    assert!(dtype.contains("has type F32, expected U32"), "{dtype}");
}

fn quantized(section: Value) -> tempfile::TempDir {
    let mut config = llama();
    config["quantization"] = section;
    let tensors = [
        floats("x.down.scales", &[1], &[1.0]),
        floats("x.up.scales", &[1], &[1.0]),
        floats("x.gate.weight", &[1], &[1.0]),
    ];
    model(&config, &safetensors(&tensors, |_| {}))
}

#[test]
fn modules_are_quantised_by_default_by_override_or_not_at_all() {
    let directory = quantized(json!({"bits": 4, "group_size": 64, "x.up": {"bits": 8, "group_size": 32}}));
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    let of = |path| checkpoint.quantization().for_module(path);
    assert_eq!(of("x.down"), Some(Quantization::Affine { bits: 4, group_size: 64 }));
    assert_eq!(of("x.up"), Some(Quantization::Affine { bits: 8, group_size: 32 }));
    assert_eq!(of("x.gate"), None);
}

#[test]
fn quantisation_follows_renamed_tensors() {
    let directory = quantized(json!({"bits": 4, "group_size": 64, "x.up": {"bits": 8, "group_size": 32}}));
    let mut checkpoint = Checkpoint::open(directory.path()).expect("opens");
    checkpoint.rename(&|name| name.strip_prefix("x.").map(|rest| format!("y.{rest}")));
    assert!(checkpoint.contains("y.up.scales"));
    assert_eq!(
        checkpoint.quantization().for_module("y.up"),
        Some(Quantization::Affine { bits: 8, group_size: 32 })
    );
    assert_eq!(checkpoint.quantization().for_module("x.up"), None);
}

#[test]
fn modules_are_mxfp4_by_default_or_by_override() {
    let affine = Quantization::Affine { bits: 8, group_size: 64 };
    let cases = [
        (
            json!({"bits": 4, "group_size": 32, "mode": "mxfp4", "x.up": {"bits": 8, "group_size": 64}}),
            affine,
        ),
        (json!({"mode": "mxfp4", "x.up": {"bits": 8, "group_size": 64, "mode": "affine"}}), affine),
        (json!({"mode": "mxfp4"}), Quantization::Mxfp4),
    ];
    for (section, up) in cases {
        let directory = quantized(section);
        let checkpoint = Checkpoint::open(directory.path()).expect("opens");
        let of = |path| checkpoint.quantization().for_module(path);
        assert_eq!((of("x.down"), of("x.up")), (Some(Quantization::Mxfp4), Some(up)));
    }
    let by_override =
        json!({"bits": 8, "group_size": 64, "x.up": {"bits": 4, "group_size": 32, "mode": "mxfp4"}});
    let directory = quantized(by_override.clone());
    let checkpoint = Checkpoint::open(directory.path()).expect("opens");
    let of = |path| checkpoint.quantization().for_module(path);
    assert_eq!((of("x.down"), of("x.up")), (Some(affine), Some(Quantization::Mxfp4)));
    let mut written = by_override;
    written["mode"] = json!("affine");
    assert_eq!(checkpoint.quantization().to_json(), Some(written));
}

#[test]
fn quantisation_of_another_kind_is_refused_by_name() {
    let cases = [
        (json!({"bits": 4, "group_size": 16, "mode": "nvfp4"}), "mode nvfp4"),
        (json!({"bits": 4, "group_size": 32, "mode": 4}), "mode that is no text"),
        (
            json!({"bits": 4, "group_size": 64, "mode": "mxfp4"}),
            "group_size 64 in quantization; supported: [32]",
        ),
        (json!({"bits": 8, "group_size": 32, "mode": "mxfp4"}), "bits 8 in quantization; supported: [4]"),
        (
            json!({"bits": 4, "group_size": 32, "x.up": {"bits": 8, "group_size": 32, "mode": "mxfp8"}}),
            "mode mxfp8 for x.up",
        ),
        (json!({"quant_method": "gptq", "bits": 4}), "method gptq"),
        (json!({"bits": 7, "group_size": 32}), "bits 7"),
        (json!({"bits": 4, "group_size": 48}), "group_size 48"),
        (json!({"bits": 4}), "no group_size"),
        (json!({"bits": 4, "group_size": 64, "x.up": false}), "x.up is not quantised, but"),
    ];
    for (section, expected) in cases {
        let text = refusal(quantized(section).path());
        assert!(text.contains("config.json") && text.contains(expected), "{text}");
    }
}

#[test]
fn scales_without_a_quantization_entry_are_refused() {
    assert!(refusal(quantized(Value::Null).path()).contains("has no quantization entry"));
}
