//! Where a tensor comes from: a range of a mapped file, or a GGUF tensor repacked on demand.
//!
//! Nothing is read or converted before it is asked for. What the tensor means is the caller's.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::mapped::MappedFile;
use super::tensor::{Tensor, TensorBytes, TensorDtype, TensorInfo};

/// A tensor that can be produced at any time.
#[derive(Clone)]
pub(super) struct Stored {
    file: Arc<MappedFile>,
    range: Range<usize>,
    info: TensorInfo,
}

impl Stored {
    /// A tensor that lies in the file as it is; `range` must lie inside the file.
    pub(super) fn mapped(
        file: &Arc<MappedFile>,
        range: Range<usize>,
        dtype: TensorDtype,
        shape: Vec<usize>,
    ) -> Self {
        Self {
            file: file.clone(),
            range,
            info: TensorInfo { dtype, shape },
        }
    }

    pub(super) fn info(&self) -> TensorInfo {
        self.info.clone()
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn produce(&self, name: &str) -> Tensor {
        Tensor {
            name: name.to_owned(),
            dtype: self.info.dtype,
            shape: self.info.shape.clone(),
            bytes: TensorBytes::mapped(self.file.clone(), self.range.clone()),
            file: self.file.path().clone(),
        }
    }
}
