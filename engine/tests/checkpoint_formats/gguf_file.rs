//! Small GGUF files written byte by byte.

/// A metadata value.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor: name, shape outermost first, GGML type, bytes.
#[derive(Clone)]
pub(crate) struct GgmlTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A file to be written.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) version: u32,
    pub(crate) meta: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<GgmlTensor>,
}

pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;
pub(crate) const Q4_0: u32 = 2;
pub(crate) const Q4_1: u32 = 3;
pub(crate) const Q8_0: u32 = 8;
pub(crate) const Q6_K: u32 = 14;
pub(crate) const MXFP4: u32 = 39;

impl GgufFile {
    pub(crate) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.meta.retain(|(known, _)| known != key);
        self.meta.push((key.to_owned(), value));
        self
    }

    pub(crate) fn unset(&mut self, key: &str) -> &mut Self {
        self.meta.retain(|(known, _)| known != key);
        self
    }

    pub(crate) fn replace(&mut self, tensor: GgmlTensor) -> &mut Self {
        self.tensors.retain(|known| known.name != tensor.name);
        self.tensors.push(tensor);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            text(&mut out, key);
            meta(&mut out, value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                out.extend((dim as u64).to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    pub(crate) fn write(&self) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("temporary directory");
        crate::fixtures::write(directory.path(), "model.gguf", self.bytes());
        directory
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn meta(out: &mut Vec<u8>, value: &Meta) {
    let array = |out: &mut Vec<u8>, kind: u32, count: usize| {
        out.extend(9_u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((count as u64).to_le_bytes());
    };
    match value {
        Meta::U32(value) => out.extend([4_u32.to_le_bytes(), value.to_le_bytes()].concat()),
        Meta::F32(value) => out.extend([6_u32.to_le_bytes(), value.to_le_bytes()].concat()),
        Meta::Bool(value) => {
            out.extend(7_u32.to_le_bytes());
            out.push(u8::from(*value));
        }
        Meta::Text(value) => {
            out.extend(8_u32.to_le_bytes());
            text(out, value);
        }
        Meta::Texts(values) => {
            array(out, 8, values.len());
            values.iter().for_each(|value| text(out, value));
        }
        Meta::I32s(values) => {
            array(out, 5, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Meta::F32s(values) => {
            array(out, 6, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}

/// An f32 tensor counting up from `first`.
pub(crate) fn counting(name: &str, shape: &[usize], first: f32) -> GgmlTensor {
    let count = shape.iter().product::<usize>();
    let bytes = (0..count).flat_map(|i| (first + i as f32).to_le_bytes()).collect();
    GgmlTensor { name: name.to_owned(), shape: shape.to_vec(), kind: F32, bytes }
}

/// One layer of Llama with two heads of eight, and a byte-level vocabulary of four tokens.
pub(crate) fn tiny() -> GgufFile {
    let mut file = GgufFile { version: 3, meta: Vec::new(), tensors: Vec::new() };
    let strings = |texts: &[&str]| Meta::Texts(texts.iter().map(|&text| text.to_owned()).collect());
    file.set("general.architecture", Meta::Text("llama".into()))
        .set("llama.block_count", Meta::U32(1))
        .set("llama.context_length", Meta::U32(64))
        .set("llama.embedding_length", Meta::U32(32))
        .set("llama.feed_forward_length", Meta::U32(32))
        .set("llama.attention.head_count", Meta::U32(4))
        .set("llama.attention.head_count_kv", Meta::U32(2))
        .set("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5))
        .set("llama.rope.freq_base", Meta::F32(10000.0))
        .set("tokenizer.ggml.model", Meta::Text("gpt2".into()))
        .set("tokenizer.ggml.pre", Meta::Text("smollm".into()))
        .set("tokenizer.ggml.tokens", strings(&["<end>", "a", "b", "ab"]))
        .set("tokenizer.ggml.token_type", Meta::I32s(vec![3, 1, 1, 1]))
        .set("tokenizer.ggml.merges", strings(&["a b"]))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(0));
    file.tensors = vec![
        counting("token_embd.weight", &[4, 32], 0.0),
        counting("output_norm.weight", &[32], 0.0),
        counting("blk.0.attn_norm.weight", &[32], 0.0),
        counting("blk.0.attn_q.weight", &[32, 32], 0.0),
        counting("blk.0.attn_k.weight", &[16, 32], 0.0),
        counting("blk.0.attn_v.weight", &[16, 32], 0.0),
        counting("blk.0.attn_output.weight", &[32, 32], 0.0),
        counting("blk.0.ffn_norm.weight", &[32], 0.0),
        counting("blk.0.ffn_gate.weight", &[32, 32], 0.0),
        counting("blk.0.ffn_up.weight", &[32, 32], 0.0),
        counting("blk.0.ffn_down.weight", &[32, 32], 0.0),
    ];
    file
}
