//! Keeps what an array's memory belongs to alive until MLX drops the array.

use std::any::Any;

/// Anything that owns memory; dropped on whichever thread lets go of the array last.
pub(crate) struct Owner(#[expect(dead_code, reason = "held for its drop only")] Box<dyn Any + Send + Sync>);

impl Owner {
    pub(crate) fn new(owner: impl Send + Sync + 'static) -> Box<Self> {
        Box::new(Self(Box::new(owner)))
    }
}
