//! Small model directories written byte by byte.

use std::path::Path;

use serde_json::{Value, json};

/// A tensor to write: name, safetensors type, shape, bytes.
pub(crate) struct Raw {
    pub(crate) name: &'static str,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// An f32 tensor.
pub(crate) fn floats(name: &'static str, shape: &[usize], values: &[f32]) -> Raw {
    assert_eq!(shape.iter().product::<usize>(), values.len());
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Raw { name, dtype: "F32", shape: shape.to_vec(), bytes }
}

/// A safetensors file, with a chance to change its header.
pub(crate) fn safetensors(tensors: &[Raw], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.to_owned(), entry);
    }
    let mut header = Value::Object(header);
    edit(&mut header);
    let header = header.to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    file
}

/// Two small tensors.
pub(crate) fn two_tensors() -> Vec<Raw> {
    vec![floats("a.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), floats("b.weight", &[3], &[5.0, 6.0, 7.0])]
}

pub(crate) fn write(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(directory.join(name), bytes).expect("test file is written");
}

/// A directory with config.json and one safetensors file.
pub(crate) fn model(config: &Value, file: &[u8]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temporary directory");
    write(directory.path(), "config.json", config.to_string());
    write(directory.path(), "model.safetensors", file);
    directory
}

/// A small Llama configuration.
pub(crate) fn llama() -> Value {
    json!({
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 32,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128,
    })
}
