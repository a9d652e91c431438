//! Decoders: their description, and the forward pass written once over it.
//!
//! Knows neither requests nor scheduling; attention and its storage are behind `kv::KvCache`.

mod arithmetic;
mod build;
mod cuda;
mod description;
#[cfg(test)]
mod divided;
mod graph;
mod host;
mod inputs;
mod model;
#[cfg(test)]
mod parity;
mod portion;
mod residual;
mod sharded;
mod source;
mod weights;

pub(crate) use arithmetic::length;
pub(crate) use build::{Execution, Part, kv_bytes_per_token, state_bytes};
pub(crate) use cuda::{Drawn, Kernels as CudaKernels, attention as cuda_attention};
pub use description::{
    Activation, Attention, Cut, Decoder, FeedForward, Layer, Linear, Mixer, Norm, Output, Rope, Share,
    ShortConv,
};
pub(crate) use inputs::{SampledTokens, StepInputs};
pub(crate) use model::{Model, StepOutput};
pub use portion::{Grain, Place, PortionError};
pub use source::WeightError;
pub(crate) use weights::ShortConvWeights;
#[cfg(test)]
pub(crate) use weights::{LinearWeights, MatrixWeights};
