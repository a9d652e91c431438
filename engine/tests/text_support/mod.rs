//! Small tokenizers of the kinds that models have.

use mlxcel_engine::text::{TextAssets, TextCodec};
use serde_json::{Map, Value, json};

/// What a tokenizer is and how it writes.
pub(crate) struct Sample {
    pub(crate) assets: TextAssets,
    pub(crate) vocab_size: u32,
}

impl Sample {
    pub(crate) fn codec(&self) -> TextCodec {
        TextCodec::new(&self.assets, self.vocab_size).expect("the sample is usable")
    }
}

/// Byte-level BPE with every byte, some merges and two special tokens; adds `<|begin|>`.
pub(crate) fn byte_level() -> Sample {
    let mut vocab = Map::new();
    for c in byte_characters() {
        push(&mut vocab, c.to_string());
    }
    let merges = ["h e", "l l", "he ll", "hell o", "\u{120} hello", "\u{c3} \u{a9}", "\u{120} \u{c3}"];
    for merge in merges {
        push(&mut vocab, merge.replace(' ', ""));
    }
    let begin = vocab.len();
    let added = json!([
        added(begin, "<|begin|>", true),
        added(begin + 1, "<|end|>", true),
        added(begin + 2, "<tool> x", false),
    ]);
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    sample(
        json!({
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": byte_level,
            "post_processor": begin_with("<|begin|>", begin),
            "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocab, "merges": merges }
        }),
        begin + 3,
        ["<|begin|>", "<|end|>"],
    )
}

/// SentencePiece-like BPE with byte fallback, as Llama 2 and Mistral have.
pub(crate) fn sentence_piece() -> Sample {
    let mut vocab = Map::new();
    ["<unk>", "<s>", "</s>"].iter().for_each(|token| push(&mut vocab, (*token).to_owned()));
    (0..=255).for_each(|byte: u8| push(&mut vocab, format!("<0x{byte:02X}>")));
    ["\u{2581}", "h", "i", "e", "é", "\u{2581}h", "\u{2581}hi"]
        .iter()
        .for_each(|token| push(&mut vocab, (*token).to_owned()));
    let size = vocab.len();
    sample(
        json!({
            "version": "1.0",
            "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": "\u{2581}" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }
            ] },
            "post_processor": begin_with("<s>", 1),
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 }
            ] },
            "model": {
                "type": "BPE", "vocab": vocab, "merges": ["\u{2581} h", "\u{2581}h i"],
                "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true
            }
        }),
        size,
        ["<s>", "</s>"],
    )
}

fn sample(tokenizer: Value, vocab_size: usize, [bos, eos]: [&str; 2]) -> Sample {
    let assets = TextAssets {
        source: "model/tokenizer.json".into(),
        tokenizer: tokenizer.to_string().into_bytes(),
        bos_token: Some(bos.into()),
        eos_token: Some(eos.into()),
        ..TextAssets::default()
    };
    Sample { assets, vocab_size: u32::try_from(vocab_size).expect("small") }
}

fn push(vocab: &mut Map<String, Value>, token: String) {
    let id = vocab.len();
    assert!(vocab.insert(token, json!(id)).is_none(), "tokens differ");
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special
    })
}

fn begin_with(token: &str, id: usize) -> Value {
    let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [special, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [special, { "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } }
    })
}

/// The characters byte-level BPE writes for the bytes 0 to 255.
fn byte_characters() -> Vec<char> {
    let mut next = 0x100;
    (0..=255_u8)
        .map(|byte| {
            if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
                char::from(byte)
            } else {
                next += 1;
                char::from_u32(next - 1).expect("below the surrogates")
            }
        })
        .collect()
}
