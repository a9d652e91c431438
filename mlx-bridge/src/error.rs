//! What a failed MLX call says: the operation, the operands, the kind, and MLX's own message.
//!
//! Kinds come from the C++ exception's type where MLX throws a telling one, else from the
//! message: errors raised on a stream's thread arrive as text only.

use std::fmt::Write as _;

use crate::array::Array;

/// The result of every call that reaches MLX.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed MLX call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}{operands}: {message}")]
pub struct Error {
    /// The operation, by the name of its function.
    pub op: &'static str,
    /// What a caller may want to tell apart.
    pub kind: ErrorKind,
    /// The operands, such as ` of float32[2, 3], float32[4]`; empty when there are none.
    pub operands: String,
    /// What went wrong.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A shape, dtype, axis or value that the operation does not take.
    Argument,
    /// More memory than the device has or the limit allows.
    OutOfMemory,
    /// The device is missing or failed.
    Device,
    /// A host operation's kernel returned an error or panicked.
    Kernel,
    /// Anything else.
    Other,
}

impl Error {
    pub(crate) fn new(
        op: &'static str,
        kind: ErrorKind,
        operands: &[&Array],
        message: impl Into<String>,
    ) -> Self {
        Self { op, kind, operands: describe(operands), message: message.into() }
    }

    /// The error of an argument that whoever builds operation `op` refuses before MLX sees it.
    pub fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Self::new(op, ErrorKind::Argument, &[], message)
    }

    /// The first character of the text is the kind of the exception (cpp/bridge.h).
    pub(crate) fn from_exception(op: &'static str, operands: &[&Array], exception: &cxx::Exception) -> Self {
        let text = exception.what();
        let (class, message) = text.split_at_checked(1).unwrap_or(("R", text));
        let kind = match class {
            "M" => ErrorKind::OutOfMemory,
            "A" => ErrorKind::Argument,
            _ => kind_of(message),
        };
        Self::new(op, kind, operands, message)
    }
}

fn kind_of(message: &str) -> ErrorKind {
    let lower = message.to_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
    if lower.starts_with("host op `") {
        ErrorKind::Kernel
    } else if has(&[
        "unable to allocate",
        "out of memory",
        "outofmemory",
        "maximum allowed buffer size",
        "bad_alloc",
    ]) {
        ErrorKind::OutOfMemory
    } else if has(&DEVICE_WORDS) {
        ErrorKind::Device
    } else {
        ErrorKind::Other
    }
}

fn describe(operands: &[&Array]) -> String {
    let mut text = String::new();
    for (i, array) in operands.iter().enumerate() {
        let lead = if i == 0 { " of " } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{lead}{array:?}");
    }
    text
}

/// In messages of MLX's backends; failed driver calls are named, as in `cuGraphLaunch(...) failed`.
const DEVICE_WORDS: [&str; 9] =
    ["cuda", "cugraph", "cublas", "cudnn", "metal", "no device", "gpu", "command buffer", "nccl"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_arrive_as_text_only_keep_their_kind() {
        let kinds = [
            ("host op `linear`: panicked: CUDA", ErrorKind::Kernel),
            ("[malloc] Unable to allocate 17 bytes.", ErrorKind::OutOfMemory),
            ("cudaMalloc(&p, n) failed: out of memory", ErrorKind::OutOfMemory),
            ("cuGraphAddKernelNode(&node, graph_) failed: invalid argument", ErrorKind::Device),
            ("[METAL] Command buffer execution failed", ErrorKind::Device),
            ("something else", ErrorKind::Other),
        ];
        for (message, kind) in kinds {
            assert_eq!(kind_of(message), kind, "{message}");
        }
    }
}
