//! Decoders: their description, and the forward pass written once over it.

mod description;

pub use description::{
    Activation, Attention, Cut, Decoder, Embedding, FeedForward, Layer, Linear, Mixer, Norm, Rope,
};
