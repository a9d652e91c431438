//! Has MLX's CUDA library load where no NVIDIA driver is installed.
//!
//! The wheel's library names `libcuda.so.1` among what it needs, so that a program that links it does not even start
//! on a host without a driver: it could neither say so nor run on the CPU. The entry is taken out of the unpacked
//! copy; the bridge loads the driver itself, where there is one, before anything else (`cpp/device.cpp`). Follows the
//! ELF-64 specification; edits the dynamic section in place.

use std::fs;
use std::ops::Range;
use std::path::Path;

const DRIVER: &[u8] = b"libcuda.so.1\0";

/// Takes the driver out of what `library` needs.
pub(crate) fn make_optional(library: &Path) -> Result<(), String> {
    let failed = |what: &str, e: std::io::Error| format!("cannot {what} {}: {e}", library.display());
    let mut bytes = fs::read(library).map_err(|e| failed("read", e))?;
    edit(&mut bytes).ok_or_else(|| format!("{} is not a shared library as expected", library.display()))?;
    fs::write(library, bytes).map_err(|e| failed("write", e))
}

fn edit(bytes: &mut [u8]) -> Option<()> {
    let segments = Segments::read(bytes)?;
    let dynamic = segments.dynamic.clone();
    let entries: Vec<(u64, u64)> = bytes
        .get(dynamic.clone())?
        .chunks_exact(ENTRY)
        .map(|entry| (number(entry, 0, 8).unwrap_or(0), number(entry, 8, 8).unwrap_or(0)))
        .collect();
    let (_, names) = entries.iter().find(|(tag, _)| *tag == STRTAB)?;
    let names = segments.offset_of(*names)?;
    let is_driver = |(tag, name): &(u64, u64)| {
        let at = names + *name as usize;
        *tag == NEEDED && bytes.get(at..at + DRIVER.len()) == Some(DRIVER)
    };
    let kept: Vec<(u64, u64)> = entries.iter().filter(|entry| !is_driver(entry)).copied().collect();
    // What is left over at the end reads as the end.
    let kept = kept.into_iter().chain(std::iter::repeat((0, 0)));
    for (entry, (tag, value)) in bytes.get_mut(dynamic)?.chunks_exact_mut(ENTRY).zip(kept) {
        entry[..8].copy_from_slice(&tag.to_le_bytes());
        entry[8..].copy_from_slice(&value.to_le_bytes());
    }
    Some(())
}

/// Where a library's segments lie in its file.
struct Segments {
    /// Address, offset and size of each loaded one.
    loaded: Vec<(u64, u64, u64)>,
    dynamic: Range<usize>,
}

impl Segments {
    fn read(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let (table, count) = (number(bytes, 32, 8)? as usize, number(bytes, 56, 2)? as usize);
        let (mut loaded, mut dynamic) = (Vec::new(), None);
        for header in (0..count).map(|at| table + at * SEGMENT) {
            let field = |at: usize| number(bytes, header + at, 8);
            let (offset, address, size) = (field(8)?, field(16)?, field(32)?);
            match number(bytes, header, 4)? {
                LOAD => loaded.push((address, offset, size)),
                DYNAMIC => dynamic = Some(offset as usize..(offset + size) as usize),
                _ => {}
            }
        }
        Some(Self { loaded, dynamic: dynamic? })
    }

    fn offset_of(&self, address: u64) -> Option<usize> {
        let inside = |(start, _, size): &&(u64, u64, u64)| (*start..start + size).contains(&address);
        let (start, offset, _) = self.loaded.iter().find(inside)?;
        Some((address - start + offset) as usize)
    }
}

/// A little-endian number of `len` bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..len].copy_from_slice(bytes.get(at..at + len)?);
    Some(u64::from_le_bytes(wide))
}

const ENTRY: usize = 16;
const SEGMENT: usize = 56;
const LOAD: u64 = 1;
const DYNAMIC: u64 = 2;
const NEEDED: u64 = 1;
const STRTAB: u64 = 5;
