//! CUDA kernels of our own, where MLX's are slow: what few rows times quantised weights cost is reading
//! the weights once.
//!
//! The sources are in `kernels`, as templates over dtype, layout and shape of a block; this module says
//! which instance is launched for which arrays. What cannot take them (other layouts, head widths,
//! dtypes) runs on plain MLX operations, which are also the twins they are tested against.
//! Nothing here runs without a CUDA device of compute capability 8.0 or more.

mod arithmetic;
pub(crate) mod attention;
mod draw;
mod embedded;
mod library;
mod pointwise;
mod product;
mod rows;
mod tiles;
#[cfg(test)]
mod twins;

pub(crate) use arithmetic::CudaArithmetic;
pub(crate) use draw::{Drawn, draw};
pub(crate) use library::Kernels;
pub(crate) use tiles::TiledMatrix;
