//! Checkpoints: weights, configuration and text files of a model on disk.
//!
//! A directory of safetensors and a GGUF file look the same from outside: tensors by name in
//! MLX's layout, a `config.json` value and a quantisation for each module. It does not know
//! what a tensor is for; `families` reads the configuration and `model` asks for the tensors.

mod convert;
mod directory;
mod error;
mod gguf;
mod header;
mod mapped;
mod quantization;
mod stored;
mod tensor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::text::TextAssets;
pub use convert::{WriteError, WriteOptions, write_mlx_checkpoint};
pub use error::CheckpointError;
pub use quantization::QuantizationConfig;
use stored::Stored;
pub use tensor::{Tensor, TensorBytes, TensorDtype, TensorInfo};

/// An opened checkpoint; tensors are read when they are asked for.
pub struct Checkpoint {
    path: PathBuf,
    config: Value,
    quantization: QuantizationConfig,
    tensors: BTreeMap<String, Stored>,
    text: TextSource,
}

enum TextSource {
    Directory,
    Gguf(gguf::GgufText),
}

impl Checkpoint {
    /// Opens a directory with config.json and safetensors files, a `.gguf` file, or a directory
    /// holding exactly one `.gguf` file and no safetensors.
    ///
    /// Only headers are read. Fails when a file is missing, truncated or contradicts itself.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(CheckpointError::NotFound { path: path.to_path_buf() });
            }
            Err(error) => return Err(CheckpointError::read(path, error)),
        };
        if !meta.is_dir() {
            return Self::open_gguf(path);
        }
        match directory::contents(path)? {
            directory::Contents::Gguf(file) => Self::open_gguf(&file),
            directory::Contents::Safetensors => Self::open_directory(path),
        }
    }

    fn open_directory(path: &Path) -> Result<Self, CheckpointError> {
        let config = directory::read_config(path)?;
        let tensors = directory::read_tensors(path)?;
        let names = tensors.keys().map(String::as_str);
        let quantization = QuantizationConfig::from_config(&config, &path.join("config.json"), names)?;
        Ok(Self { path: path.to_path_buf(), config, quantization, tensors, text: TextSource::Directory })
    }

    fn open_gguf(path: &Path) -> Result<Self, CheckpointError> {
        let gguf::Gguf { config, tensors, quantization, text } = gguf::open(path)?;
        let text = TextSource::Gguf(text);
        Ok(Self { path: path.to_path_buf(), config, quantization, tensors, text })
    }

    /// The directory or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json` as Hugging Face and MLX write it; for GGUF, its equivalent.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// How each module is quantised.
    pub fn quantization(&self) -> &QuantizationConfig {
        &self.quantization
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// True when the checkpoint has this tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Type and shape of a tensor without reading it. Scales and biases from GGUF are said to be
    /// F16, but come as F32 where F16 cannot hold them.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(Stored::info)
    }

    /// The same where `info` can only tell what is usual, at the cost of reading scales.
    fn exact_info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(Stored::exact_info)
    }

    /// The directory whose text files belong to this checkpoint; none for GGUF.
    fn text_directory(&self) -> Option<&Path> {
        match self.text {
            TextSource::Directory => Some(&self.path),
            TextSource::Gguf(_) => None,
        }
    }

    /// A tensor; from safetensors its bytes are the mapped file's, without a copy.
    pub fn tensor(&self, name: &str) -> Result<Tensor, CheckpointError> {
        match self.tensors.get(name) {
            Some(stored) => Ok(stored.produce(name)),
            None => Err(CheckpointError::MissingTensor { path: self.path.clone(), name: name.to_owned() }),
        }
    }

    /// Tokenizer, chat template and special tokens.
    pub fn text_assets(&self) -> Result<TextAssets, CheckpointError> {
        match &self.text {
            TextSource::Directory => Ok(TextAssets::from_dir(&self.path)?),
            TextSource::Gguf(text) => text.assets(),
        }
    }

    /// Bytes of all tensors as they will be handed out.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|stored| stored.info().size_bytes()).sum()
    }

    /// Gives bytes by which checkpoints can be told apart without reading them whole: each file's length, and samples from
    /// all over it.
    pub(crate) fn sample(&self, take: &mut dyn FnMut(&[u8])) {
        let mut files: BTreeMap<&Path, &[u8]> = BTreeMap::new();
        for stored in self.tensors.values() {
            let (path, bytes) = stored.file_bytes();
            files.insert(path, bytes);
        }
        for bytes in files.into_values() {
            take(&(bytes.len() as u64).to_le_bytes());
            let every = (bytes.len() / SAMPLES).max(SAMPLE_BYTES);
            bytes.chunks(every).for_each(|part| take(&part[..part.len().min(SAMPLE_BYTES)]));
        }
    }

    /// Renames every tensor; `None` drops it. When two names fall together, the one that was
    /// already spelled so wins.
    pub fn rename(&mut self, rename: &dyn Fn(&str) -> Option<String>) {
        let mut renamed: BTreeMap<String, Stored> = BTreeMap::new();
        for (name, stored) in std::mem::take(&mut self.tensors) {
            let Some(new) = rename(&name) else { continue };
            if new == name || !renamed.contains_key(&new) {
                renamed.insert(new, stored);
            }
        }
        self.tensors = renamed;
        self.quantization = std::mem::take(&mut self.quantization).renamed(rename);
    }
}

/// Samples of a file, and how long each is: a page fault each, and no tensor worth a name between two of them.
const SAMPLES: usize = 4096;
const SAMPLE_BYTES: usize = 256;
