//! SentencePiece BPE tokenizers (`tokenizer.ggml.model` = `llama`).
//!
//! SentencePiece stores scores, Hugging Face merges: two neighbours merge when their
//! concatenation is a token, and the token with the higher score merges first.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::container::Refusal;
use super::tokenizer::{Kind, Parts, Vocabulary, assemble};

/// SentencePiece's stand-in for a space.
const SPACE: &str = "\u{2581}";

/// `tokenizer.json` of a SentencePiece vocabulary.
pub(super) fn tokenizer(vocabulary: &Vocabulary<'_>) -> Result<Value, Refusal> {
    let prefixed = vocabulary.flag("add_space_prefix")?.unwrap_or(true);
    if vocabulary.flag("remove_extra_whitespaces")?.unwrap_or(false) {
        let what = "sets tokenizer.ggml.remove_extra_whitespaces, which is not supported";
        return Err(Refusal::Unsupported(what.into()));
    }
    let unknown = vocabulary.kinds.iter().position(|kind| *kind == Kind::Unknown);
    let parts = Parts {
        normalizer: normalizer(prefixed),
        pre_tokenizer: Value::Null,
        decoder: decoder(prefixed),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|id| vocabulary.tokens[id]),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary.ids(),
            "merges": merges(vocabulary)?,
        }),
        default_bos: true,
    };
    Ok(assemble(vocabulary, parts)?)
}

fn normalizer(prefixed: bool) -> Value {
    let prepend = prefixed.then(|| json!({"type": "Prepend", "prepend": SPACE}));
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let steps: Vec<Value> = prepend.into_iter().chain([replace]).collect();
    json!({"type": "Sequence", "normalizers": steps})
}

fn decoder(prefixed: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// Every way to join two tokens into a third, best score first.
fn merges(vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, String> {
    let scores = vocabulary.scores()?;
    let ordinary = |id: &usize| vocabulary.kinds[*id] == Kind::Ordinary;
    let ids: HashMap<&str, usize> =
        (0..vocabulary.tokens.len()).filter(ordinary).map(|id| (vocabulary.tokens[id], id)).collect();
    let mut found = Vec::new();
    for (&token, &id) in &ids {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                found.push((id, left, right));
            }
        }
    }
    // Ties go to the earlier token, so that the order does not depend on hashing.
    found.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.cmp(b)));
    let text = |id: usize| vocabulary.tokens[id];
    Ok(found.into_iter().map(|(_, left, right)| json!([text(left), text(right)])).collect())
}
