//! Operations as methods of [`Array`](crate::Array), one file an idea.
//!
//! Names and meanings are MLX's. Each builds a node and computes nothing; a wrong shape or dtype
//! is refused at once, with the operands in the error. Axes count from the end when negative.

mod elementwise;
mod index;
mod linear;
mod order;
pub(crate) mod quantized;
mod reduce;
mod shape;
