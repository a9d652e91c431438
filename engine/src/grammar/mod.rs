//! Grammars: which tokens may come next, so that an answer obeys a JSON schema, a regular expression or a
//! context-free grammar.
//!
//! Compiling, and working out the tokens allowed after each token, are `llguidance`'s; this decides on which
//! thread. Knows no logits but to forbid them, and no request.

mod compiler;
mod constraint;
mod masks;
mod vocabulary;

pub(crate) use compiler::{Compiled, GrammarCompiler, on_one_line};
pub(crate) use constraint::Constraint;
