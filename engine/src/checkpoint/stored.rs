//! Where a tensor comes from: a range of a mapped file, or a GGUF tensor repacked on demand.
//!
//! Nothing is read or converted before it is asked for. What the tensor means is the caller's.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::gguf::{Part, Rows};
use super::mapped::MappedFile;
use super::tensor::{Tensor, TensorBytes, TensorDtype, TensorInfo};

/// A tensor that can be produced at any time.
#[derive(Clone)]
pub(super) enum Stored {
    /// It lies in the file as it is.
    Mapped { file: Arc<MappedFile>, range: Range<usize>, info: TensorInfo },
    /// It is made from rows of a GGUF tensor.
    Gguf(Rows, Part),
}

impl Stored {
    /// A tensor that lies in the file as it is; `range` must lie inside the file.
    pub(super) fn mapped(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        dtype: TensorDtype,
        shape: Vec<usize>,
    ) -> Self {
        Self::Mapped { file: file.clone(), range, info: TensorInfo { dtype, shape } }
    }

    pub(super) fn info(&self) -> TensorInfo {
        match self {
            Self::Mapped { info, .. } => info.clone(),
            Self::Gguf(rows, part) => rows.info(*part),
        }
    }

    /// As `info`, but certain of the type of scales, which must be read for it.
    pub(super) fn exact_info(&self) -> TensorInfo {
        match self {
            Self::Gguf(rows, part @ (Part::Scales | Part::Biases)) => {
                let TensorInfo { shape, .. } = rows.info(*part);
                TensorInfo { dtype: rows.produce(*part).0, shape }
            }
            _ => self.info(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.file().path()
    }

    /// The file that it lies in, and all its bytes.
    pub(super) fn file_bytes(&self) -> (&Path, &[u8]) {
        (self.path(), self.file().bytes())
    }

    fn file(&self) -> &Arc<MappedFile> {
        match self {
            Self::Mapped { file, .. } => file,
            Self::Gguf(rows, _) => rows.file(),
        }
    }

    pub(super) fn produce(&self, name: &str) -> Tensor {
        let (dtype, bytes) = match self {
            Self::Mapped { file, range, info } => {
                (info.dtype, TensorBytes::mapped(file.clone(), range.clone()))
            }
            Self::Gguf(rows, part) => rows.produce(*part),
        };
        Tensor {
            name: name.to_owned(),
            dtype,
            shape: self.info().shape,
            bytes,
            file: self.file().path().clone(),
        }
    }
}
