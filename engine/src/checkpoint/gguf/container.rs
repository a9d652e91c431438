//! The GGUF container, versions 2 and 3: header, metadata and the table of tensors.
//!
//! Checks every count, length and offset against the file before using it. It does not know
//! architectures or tokenizers; those read what it returns.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::ops::Range;

use super::block::BlockType;
use super::cursor::Cursor;
use super::metadata::{Metadata, read_pairs};

/// Why a container cannot be used.
pub(super) enum Refusal {
    /// The file contradicts itself or ends too early.
    Damaged(String),
    /// The file is sound, but not for us.
    Unsupported(String),
}

impl From<String> for Refusal {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

/// One row of the tensor table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) block: BlockType,
    /// Outermost first, as everywhere else in this crate; GGUF stores the reverse.
    pub(super) shape: Vec<usize>,
    /// Where the data lies in the file.
    pub(super) range: Range<usize>,
}

/// A parsed container.
pub(super) struct Container {
    pub(super) metadata: Metadata,
    pub(super) tensors: BTreeMap<String, Entry>,
}

struct RawEntry {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// Reads everything but the tensors' data.
pub(super) fn read_container(bytes: &[u8]) -> Result<Container, Refusal> {
    let mut cursor = Cursor::new(bytes);
    if cursor.take(4, "the magic number")? != b"GGUF" {
        return Err(Refusal::Unsupported("is not a GGUF file: it does not begin with GGUF".into()));
    }
    let version = cursor.u32("the version")?;
    if !matches!(version, 2 | 3) {
        let byte_order = if version.swap_bytes() <= 3 { " (big-endian)" } else { "" };
        return Err(Refusal::Unsupported(format!(
            "has GGUF version {version}{byte_order}, which is not supported; supported: 2, 3, little-endian"
        )));
    }
    let tensor_count = cursor.u64("the tensor count")?;
    let pair_count = cursor.u64("the metadata count")?;
    let metadata = Metadata::new(read_pairs(&mut cursor, pair_count)?);
    let mut raw = Vec::new();
    for _ in 0..tensor_count {
        raw.push(read_entry(&mut cursor)?);
    }
    let alignment = metadata.count("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Refusal::Damaged(format!("general.alignment must be a power of two, got {alignment}")));
    }
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    let tensors = place(raw, Layout { data_start, alignment, file: bytes.len() as u64 })?;
    Ok(Container { metadata, tensors })
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<RawEntry, String> {
    let name = cursor.text("a tensor name")?.to_owned();
    let rank = cursor.u32(&name)?;
    if !(1..=4).contains(&rank) {
        return Err(format!("tensor {name} has {rank} dimensions"));
    }
    let dims = (0..rank).map(|_| cursor.u64(&name)).collect::<Result<_, _>>()?;
    Ok(RawEntry { dims, kind: cursor.u32(&name)?, offset: cursor.u64(&name)?, name })
}

struct Layout {
    data_start: u64,
    alignment: u64,
    file: u64,
}

fn place(raw: Vec<RawEntry>, layout: Layout) -> Result<BTreeMap<String, Entry>, Refusal> {
    let mut tensors = BTreeMap::new();
    for RawEntry { name, dims, kind, offset } in raw {
        let block = BlockType::from_id(kind).map_err(|known| {
            Refusal::Unsupported(format!(
                "holds tensor {name} of type {known}, which has no lossless MLX layout; supported: {}",
                BlockType::SUPPORTED
            ))
        })?;
        let size = size_of(&dims, block)
            .ok_or_else(|| format!("tensor {name} of shape {dims:?} is not whole blocks of {block:?}"))?;
        if !offset.is_multiple_of(layout.alignment) {
            return Err(Refusal::Damaged(format!(
                "tensor {name} at {offset} is not aligned to {}",
                layout.alignment
            )));
        }
        let start = layout.data_start.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(size)).filter(|end| *end <= layout.file);
        let (Some(start), Some(end)) = (start, end) else {
            return Err(Refusal::Damaged(format!(
                "it ends before tensor {name} does (file of {} bytes)",
                layout.file
            )));
        };
        let shape = dims.iter().rev().map(|&dim| dim as usize).collect();
        // Inside a file of `usize` bytes.
        let entry = Entry { block, shape, range: start as usize..end as usize };
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(Refusal::Damaged(format!("tensor {name} appears twice")));
        }
    }
    refuse_overlap(&tensors)?;
    Ok(tensors)
}

/// Bytes of a tensor whose innermost dimension comes first; `None` when rows are not whole
/// blocks, a dimension is zero, or the product overflows.
fn size_of(dims: &[u64], block: BlockType) -> Option<u64> {
    let elements = dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim))?;
    let per_block = block.elements() as u64;
    if elements == 0 || dims.first()? % per_block != 0 {
        return None;
    }
    (elements / per_block).checked_mul(block.bytes() as u64)
}

fn refuse_overlap(tensors: &BTreeMap<String, Entry>) -> Result<(), Refusal> {
    let mut ranges: Vec<_> = tensors.iter().map(|(name, entry)| (entry.range.clone(), name)).collect();
    ranges.sort_by_key(|(range, _)| range.start);
    match ranges.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => Err(Refusal::Damaged(format!("tensors {} and {} overlap", pair[0].1, pair[1].1))),
        None => Ok(()),
    }
}
