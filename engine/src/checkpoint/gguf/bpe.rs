//! Byte-level BPE tokenizers (`tokenizer.ggml.model` = `gpt2`).
//!
//! llama.cpp names the splitting rule (`tokenizer.ggml.pre`) instead of storing it; the table
//! here says what each name means. An unknown name is refused, since a wrong rule would change
//! tokens silently.

use serde_json::{Value, json};

use super::container::Refusal;
use super::tokenizer::{Parts, Vocabulary, assemble};

/// How text is split before merging.
enum Split {
    /// GPT-2's own rule, built into the byte-level step.
    Gpt2,
    /// Single digits first, then GPT-2's rule.
    DigitsGpt2,
    /// These expressions in turn.
    Patterns(&'static [&'static str]),
}

struct Rule {
    /// Values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    split: Split,
    /// Unicode composition (NFC) before splitting.
    composes: bool,
    /// A word that is a token is not merged from pieces.
    whole_words: bool,
    /// A beginning-of-sequence token is added unless the file says otherwise.
    adds_bos: bool,
}

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const RULES: &[Rule] = &[
    Rule {
        names: &["gpt-2", "gpt2"],
        split: Split::Gpt2,
        composes: false,
        whole_words: false,
        adds_bos: false,
    },
    Rule {
        names: &["smollm", "starcoder", "refact", "command-r"],
        split: Split::DigitsGpt2,
        composes: false,
        whole_words: false,
        adds_bos: false,
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Split::Patterns(&[LLAMA3]),
        composes: false,
        whole_words: true,
        adds_bos: true,
    },
    Rule {
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Split::Patterns(&[QWEN2]),
        composes: true,
        whole_words: false,
        adds_bos: false,
    },
    Rule {
        names: &["tekken"],
        split: Split::Patterns(&[TEKKEN]),
        composes: false,
        whole_words: true,
        adds_bos: true,
    },
    Rule {
        names: &["default"],
        split: Split::Patterns(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        composes: false,
        whole_words: false,
        adds_bos: false,
    },
];

/// `tokenizer.json` of a byte-level BPE vocabulary.
pub(super) fn tokenizer(vocabulary: &Vocabulary<'_>) -> Result<Value, Refusal> {
    let name = vocabulary.text("pre")?.unwrap_or("default");
    let Some(rule) = RULES.iter().find(|rule| rule.names.contains(&name)) else {
        let known: Vec<&str> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
        return Err(Refusal::Unsupported(format!(
            "splits text by rule {name}, which is not supported; supported: {}",
            known.join(", ")
        )));
    };
    let parts = Parts {
        normalizer: if rule.composes { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre_tokenizer(&rule.split),
        decoder: byte_level(true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rule.whole_words,
            "vocab": vocabulary.ids(),
            "merges": merges(vocabulary)?,
        }),
        default_bos: rule.adds_bos,
    };
    Ok(assemble(vocabulary, parts)?)
}

fn merges(vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>, String> {
    // Byte-level symbols never hold a space, so the first one separates the two sides.
    let pair = |merge: &str| match merge.split_once(' ') {
        Some((left, right)) => Ok(json!([left, right])),
        None => Err(format!("tokenizer.ggml.merges has {merge:?}, expected two parts")),
    };
    vocabulary.texts("merges")?.into_iter().map(pair).collect()
}

fn pre_tokenizer(split: &Split) -> Value {
    let sequence = |mut steps: Vec<Value>, gpt2: bool| {
        steps.push(byte_level(gpt2));
        json!({"type": "Sequence", "pretokenizers": steps})
    };
    match split {
        Split::Gpt2 => byte_level(true),
        Split::DigitsGpt2 => sequence(vec![json!({"type": "Digits", "individual_digits": true})], true),
        Split::Patterns(patterns) => {
            sequence(patterns.iter().map(|pattern| isolate(pattern)).collect(), false)
        }
    }
}

fn isolate(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn byte_level(gpt2_split: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": gpt2_split})
}
