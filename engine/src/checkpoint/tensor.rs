//! One tensor as it lies in a file: a name, a type, a shape and bytes.
//!
//! Holds bytes without interpreting them. The bytes stay valid for as long as any clone lives, so
//! that an array library can borrow them without a copy; whether to copy is its decision.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::error::CheckpointError;
use super::mapped::MappedFile;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum TensorDtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

impl TensorDtype {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// F16, BF16 or F32: the types weights are computed in.
    pub fn is_weight_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32)
    }
}

impl fmt::Display for TensorDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Bytes of a tensor, little-endian and row-major; cheap to clone.
#[derive(Clone)]
pub struct TensorBytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<MappedFile>),
    Owned(Arc<Vec<u8>>),
}

impl TensorBytes {
    /// A range of a mapped file; the range must lie inside it.
    pub(super) fn mapped(file: Arc<MappedFile>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= file.bytes().len(), "range inside the file");
        Self { owner: Owner::Mapped(file), range }
    }

    /// Some of them, without a copy; the range must lie inside.
    pub fn part(&self, part: Range<usize>) -> Self {
        assert!(part.start <= part.end && part.end <= self.range.len(), "a part of the bytes");
        let range = self.range.start + part.start..self.range.start + part.end;
        Self { owner: self.owner.clone(), range }
    }

    /// True when the first byte lies at a multiple of `alignment`.
    pub fn is_aligned_to(&self, alignment: usize) -> bool {
        self.as_ref().as_ptr().align_offset(alignment) == 0
    }
}

impl From<Vec<u8>> for TensorBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Owner::Owned(Arc::new(bytes)), range }
    }
}

impl AsRef<[u8]> for TensorBytes {
    fn as_ref(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Mapped(file) => file.bytes(),
            Owner::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.owner {
            Owner::Mapped(_) => "mapped",
            Owner::Owned(_) => "owned",
        };
        write!(f, "TensorBytes({kind}, {} bytes)", self.range.len())
    }
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Element type.
    pub dtype: TensorDtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// `shape` elements of `dtype`, row-major, little-endian.
    pub bytes: TensorBytes,
    /// The file it comes from, for messages.
    pub file: Arc<std::path::Path>,
}

impl Tensor {
    /// Refuses any other shape.
    pub fn expect_shape(&self, expected: &[usize]) -> Result<(), CheckpointError> {
        if self.shape == expected {
            return Ok(());
        }
        Err(CheckpointError::WrongShape {
            path: self.file.to_path_buf(),
            name: self.name.clone(),
            found: self.shape.clone(),
            expected: expected.to_vec(),
        })
    }

    /// Rows and columns of a matrix, or with one axis elements of a vector: whole rows without a copy, else only what
    /// is asked for is read. They must lie inside.
    pub fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let size = self.dtype.size_bytes();
        let width = self.shape.get(1).copied().unwrap_or(1);
        let shape = [rows.len(), columns.len()][..self.shape.len()].to_vec();
        let pitch = width * size;
        let all = self.bytes.part(rows.start * pitch..rows.end * pitch);
        let bytes = if columns == (0..width) {
            all
        } else {
            let mut part = Vec::with_capacity(rows.len() * columns.len() * size);
            for row in all.as_ref().chunks_exact(pitch) {
                part.extend_from_slice(&row[columns.start * size..columns.end * size]);
            }
            part.into()
        };
        Self { shape, bytes, ..self.clone() }
    }

    /// Refuses any type not in `expected`.
    pub fn expect_dtype(&self, expected: &[TensorDtype]) -> Result<(), CheckpointError> {
        if expected.contains(&self.dtype) {
            return Ok(());
        }
        let names: Vec<String> = expected.iter().map(ToString::to_string).collect();
        Err(CheckpointError::WrongDtype {
            path: self.file.to_path_buf(),
            name: self.name.clone(),
            found: self.dtype,
            expected: names.join(" or "),
        })
    }
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: TensorDtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of the whole tensor.
    pub fn size_bytes(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product::<u64>() * self.dtype.size_bytes() as u64
    }
}
