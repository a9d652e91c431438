"""Writes `mod.rs`: what MLX's `quantize` makes of a fixed matrix, on its CPU device.

Run with mlx 0.32.4: `python generate.py > mod.rs`.
"""

import mlx.core as mx
import numpy as np

mx.set_default_device(mx.cpu)


def matrix() -> np.ndarray:
    """Four rows of 128: uniform in -1..1, all positive, constant, and 0."""
    index = np.arange(256, dtype=np.uint64)
    mixed = ((index * 2654435761) % 2**32 >> 8).astype(np.float32) / np.float32(2**23) - np.float32(1)
    rows = mixed.reshape(2, 128).copy()
    rows[1] = np.abs(rows[1]) + np.float32(0.5)
    return np.concatenate([rows, np.full((1, 128), 0.3, np.float32), np.zeros((1, 128), np.float32)])


def numbers(array: mx.array) -> str:
    return ", ".join(hex(v) for v in np.array(array).view(np.uint32).flatten())


print("//! What MLX 0.32.4 makes of the matrix in `generate.py`; written by it.\n")
print('#![allow(dead_code, reason = "each test file uses some of it")]\n')
print("/// Bits, group size, packed words, and the bits of scales and biases.")
print("pub(crate) type Case<'a> = (u32, usize, &'a [u32], &'a [u32], &'a [u32]);\n")
print("/// Every layout.")
print("#[rustfmt::skip]")
print("pub(crate) const CASES: &[Case<'static>] = &[")
for bits in (2, 3, 4, 5, 6, 8):
    for group in (32, 64, 128):
        packed, scales, biases = mx.quantize(mx.array(matrix()), group_size=group, bits=bits)
        print(f"    ({bits}, {group}, &[{numbers(packed)}], &[{numbers(scales)}], &[{numbers(biases)}]),")
print("];")

packed, scales = mx.quantize(mx.array(matrix()), mode="mxfp4")
as_words = ", ".join(hex(v) for v in np.array(packed).flatten())
print("\n/// Packed words and scales of mode mxfp4.")
print("#[rustfmt::skip]")
print("pub(crate) const MXFP4: (&[u32], &[u8]) =")
print(f"    (&[{as_words}], &[{', '.join(str(v) for v in np.array(scales).flatten())}]);")
