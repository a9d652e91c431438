//! Tokenizers in GGUF metadata, as Hugging Face's library runs them.

use mlxcel_engine::checkpoint::Checkpoint;

use crate::gguf::open;
use crate::gguf_file::{GgufFile, Meta, counting, tiny};

fn tokenizer_refusal(change: impl FnOnce(&mut GgufFile)) -> String {
    let mut file = tiny();
    change(&mut file);
    open(&file).text_assets().expect_err("the tokenizer is refused").to_string()
}

#[test]
fn tokenizers_we_cannot_express_are_refused_by_name() {
    let text = |value: &str| Meta::Text(value.into());
    let unknown_rule = tokenizer_refusal(|file| _ = file.set("tokenizer.ggml.pre", text("jina-v2")));
    assert!(unknown_rule.contains("splits text by rule jina-v2"), "{unknown_rule}");
    let unknown_kind = tokenizer_refusal(|file| _ = file.set("tokenizer.ggml.model", text("t5")));
    assert!(unknown_kind.contains("tokenizer of kind t5"), "{unknown_kind}");
    let no_tokens = tokenizer_refusal(|file| _ = file.unset("tokenizer.ggml.tokens"));
    assert!(no_tokens.contains("it has no tokenizer.ggml.tokens"), "{no_tokens}");
    let far_id = tokenizer_refusal(|file| _ = file.set("tokenizer.ggml.eos_token_id", Meta::U32(4)));
    assert!(far_id.contains("eos_token_id 4 is beyond its 4 tokens"), "{far_id}");
}

fn encode(checkpoint: &Checkpoint, text: &str, special: bool) -> Vec<u32> {
    let assets = checkpoint.text_assets().expect("a tokenizer");
    let tokenizer = tokenizers::Tokenizer::from_bytes(&assets.tokenizer).expect("a valid tokenizer.json");
    tokenizer.encode(text, special).expect("encodes").get_ids().to_vec()
}

#[test]
fn every_splitting_rule_makes_a_working_tokenizer() {
    for rule in ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "default"] {
        let mut file = tiny();
        file.set("tokenizer.ggml.pre", Meta::Text(rule.into()));
        assert_eq!(encode(&open(&file), "ab<end>b", false), [3, 0, 2], "{rule}");
    }
}

#[test]
fn a_bos_token_is_added_when_the_file_says_so() {
    let mut file = tiny();
    file.set("tokenizer.ggml.bos_token_id", Meta::U32(0));
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    assert_eq!(encode(&open(&file), "ab", true), [0, 3]);
    assert_eq!(encode(&open(&file), "ab", false), [3]);
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert_eq!(encode(&open(&file), "ab", true), [3]);
}

fn sentencepiece() -> GgufFile {
    let mut file = tiny();
    let tokens = ["<unk>", "<s>", "<0xC3>", "<0xA9>", "\u{2581}", "a", "b", "ab", "\u{2581}a"];
    let scores = vec![0.0, 0.0, 0.0, 0.0, -5.0, -6.0, -7.0, -1.0, -2.0];
    file.set("tokenizer.ggml.model", Meta::Text("llama".into()))
        .set("tokenizer.ggml.tokens", Meta::Texts(tokens.map(str::to_owned).to_vec()))
        .set("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 6, 6, 1, 1, 1, 1, 1]))
        .set("tokenizer.ggml.scores", Meta::F32s(scores))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .unset("tokenizer.ggml.eos_token_id")
        .unset("tokenizer.ggml.merges");
    file.replace(counting("token_embd.weight", &[9, 32], 0.0));
    file
}

#[test]
fn sentencepiece_merges_the_best_score_first_and_falls_back_to_bytes() {
    let checkpoint = open(&sentencepiece());
    assert_eq!(encode(&checkpoint, "ab", true), [1, 4, 7]);
    assert_eq!(encode(&checkpoint, "a a", false), [8, 8]);
    assert_eq!(encode(&checkpoint, "\u{e9}", false), [4, 2, 3]);
}

#[test]
fn sentencepiece_text_survives_a_round_trip() {
    let assets = open(&sentencepiece()).text_assets().expect("a tokenizer");
    let tokenizer = tokenizers::Tokenizer::from_bytes(&assets.tokenizer).expect("a valid tokenizer.json");
    let encoding = tokenizer.encode("ab a\u{e9}", true).expect("encodes");
    assert_eq!(tokenizer.decode(encoding.get_ids(), true).expect("decodes"), "ab a\u{e9}");
}
