//! Writing new keys or values into a cache.
//!
//! Turns token-major rows into the head-major order attention reads. Owns no cache and no length: the caller
//! grows the one and counts the other.

use crate::error::{ShapeError, expect_len};

/// Sizes of a cache `[kv_heads, capacity, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Tokens there is room for.
    pub capacity: usize,
    /// Values of a head.
    pub head_dim: usize,
}

/// Copies `rows`, `[tokens, kv_heads, head_dim]`, into `cache` as its tokens `at..at + tokens`.
///
/// Called once for keys and once for values.
///
/// # Errors
/// [`ShapeError`] when a length disagrees or the cache has no room; it is then untouched.
pub fn append_kv(rows: &[f32], at: usize, shape: &CacheShape, cache: &mut [f32]) -> Result<(), ShapeError> {
    let CacheShape { kv_heads, capacity, head_dim } = *shape;
    expect_len("cache", cache.len(), &[kv_heads, capacity, head_dim])?;
    let width = kv_heads * head_dim;
    let tokens = rows.len() / width.max(1);
    expect_len("new rows", rows.len(), &[tokens, width])?;
    if at > capacity || tokens > capacity - at {
        let found = at.saturating_add(tokens);
        return Err(ShapeError::Bounds { what: "tokens of the cache", least: 0, most: capacity, found });
    }
    if width == 0 || tokens == 0 {
        return Ok(());
    }
    for (head, cache) in cache.chunks_exact_mut(capacity * head_dim).enumerate() {
        let lines = cache[at * head_dim..].chunks_exact_mut(head_dim);
        for (line, row) in lines.zip(rows.chunks_exact(width)) {
            line.copy_from_slice(&row[head * head_dim..(head + 1) * head_dim]);
        }
    }
    Ok(())
}
