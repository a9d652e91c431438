//! Checkpoints on disk and the configurations in them: what is read, and what is refused.

#![allow(clippy::expect_used, reason = "tests")]

mod convert;
mod directory;
mod families;
mod fixtures;
mod gguf;
mod gguf_damage;
mod gguf_file;
mod gguf_tokenizer;
mod smollm2;
