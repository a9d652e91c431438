//! The header of one safetensors file.
//!
//! The `safetensors` crate checks that offsets are in order, do not overlap, cover the file and
//! agree with shapes; this file turns its verdict into ranges of the mapping and one-line errors.

use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

use super::error::CheckpointError;
use super::mapped::MappedFile;
use super::stored::Stored;
use super::tensor::TensorDtype;

/// Every tensor of one safetensors file.
pub(super) fn read_header(file: &Arc<MappedFile>) -> Result<Vec<(String, Stored)>, CheckpointError> {
    let bytes = file.bytes();
    let (header_bytes, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| verdict(file, &error))?;
    let data_start = header_bytes + size_of::<u64>();
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let Some(dtype) = dtype_of(info.dtype) else {
            return Err(CheckpointError::unsupported(
                file.path(),
                format!(
                    "holds tensor {name} of type {:?}, which is not supported; convert it to bf16",
                    info.dtype
                ),
            ));
        };
        let (start, end) = info.data_offsets;
        let range = data_start + start..data_start + end;
        tensors.push((name, Stored::mapped(file, range, dtype, info.shape.clone())));
    }
    Ok(tensors)
}

fn verdict(file: &MappedFile, error: &SafeTensorError) -> CheckpointError {
    let length = file.bytes().len();
    let what = match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            format!("its header is longer than the file of {length} bytes")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("its tensors do not end where the file of {length} bytes ends")
        }
        other => other.to_string(),
    };
    CheckpointError::damaged(file.path(), what)
}

fn dtype_of(dtype: Dtype) -> Option<TensorDtype> {
    Some(match dtype {
        Dtype::BOOL => TensorDtype::Bool,
        Dtype::U8 => TensorDtype::U8,
        Dtype::I8 => TensorDtype::I8,
        Dtype::U16 => TensorDtype::U16,
        Dtype::I16 => TensorDtype::I16,
        Dtype::U32 => TensorDtype::U32,
        Dtype::I32 => TensorDtype::I32,
        Dtype::U64 => TensorDtype::U64,
        Dtype::I64 => TensorDtype::I64,
        Dtype::F16 => TensorDtype::F16,
        Dtype::BF16 => TensorDtype::BF16,
        Dtype::F32 => TensorDtype::F32,
        Dtype::F64 => TensorDtype::F64,
        _ => return None,
    })
}
