//! Prompts become tokens, tokens become text, and a wrong tokenizer is refused.

#[allow(dead_code, reason = "each test file uses part of it")]
mod text_support;

use mlxcel_engine::text::{DetokenizeOptions, PromptError, TextAssets, TextCodec, TextError};
use mlxcel_engine::{ChatPrompt, Prompt};
use serde_json::json;
use text_support::{byte_level, sentence_piece};

const PLAIN: DetokenizeOptions = DetokenizeOptions { skip_special: true, continues: false };

fn text(text: &str) -> Prompt {
    Prompt::Text(text.into())
}

#[test]
fn plain_text_begins_with_what_the_tokenizer_adds() {
    let codec = byte_level().codec();
    let begin = codec.token_id("<|begin|>").expect("a token");
    let hello = codec.token_id("hello").expect("a token");
    assert_eq!(codec.encode_prompt(&text("hello")), Ok(vec![begin, hello]));
}

#[test]
fn add_bos_overrules_the_tokenizer() {
    let mut sample = byte_level();
    sample.assets.add_bos = Some(false);
    let codec = sample.codec();
    let hello = codec.token_id("hello").expect("a token");
    let begin = codec.token_id("<|begin|>").expect("a token");
    assert_eq!(codec.encode_prompt(&text("hello")), Ok(vec![hello]));
    assert_eq!(codec.encode_prompt(&text("<|begin|>hello")), Ok(vec![begin, hello]));
    sample.assets.add_bos = Some(true);
    assert_eq!(sample.codec().encode_prompt(&text("hello")), Ok(vec![begin, hello]));
}

#[test]
fn add_bos_adds_where_the_tokenizer_does_not() {
    let mut sample = byte_level();
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&sample.assets.tokenizer).expect("JSON");
    tokenizer["post_processor"] = json!(null);
    sample.assets.tokenizer = tokenizer.to_string().into_bytes();
    let hello = sample.codec().token_id("hello").expect("a token");
    let begin = sample.codec().token_id("<|begin|>").expect("a token");
    assert_eq!(sample.codec().encode_prompt(&text("hello")), Ok(vec![hello]));
    sample.assets.add_bos = Some(true);
    assert_eq!(sample.codec().encode_prompt(&text("hello")), Ok(vec![begin, hello]));
}

#[test]
fn chat_is_encoded_as_the_template_writes_it() {
    let mut sample = byte_level();
    sample.assets.chat_template = Some("{{ messages[0].content }}{{ eos_token }}".into());
    let codec = sample.codec();
    let chat =
        ChatPrompt { messages: json!([{ "role": "user", "content": "hello" }]), ..ChatPrompt::default() };
    let expected = ["hello", "<|end|>"].map(|token| codec.token_id(token).expect("a token"));
    assert_eq!(codec.encode_prompt(&Prompt::Chat(chat)), Ok(expected.to_vec()));
}

#[test]
fn token_prompts_are_used_as_they_are() {
    let sample = byte_level();
    let codec = sample.codec();
    assert_eq!(codec.encode_prompt(&Prompt::Tokens(vec![5, 3])), Ok(vec![5, 3]));
    let vocab_size = sample.vocab_size;
    assert_eq!(
        codec.encode_prompt(&Prompt::Tokens(vec![5, vocab_size])),
        Err(PromptError::UnknownToken { id: vocab_size, vocab_size })
    );
}

#[test]
fn empty_prompts_are_refused() {
    let mut sample = byte_level();
    sample.assets.add_bos = Some(false);
    let codec = sample.codec();
    assert_eq!(codec.encode_prompt(&text("")), Err(PromptError::Empty));
    assert_eq!(codec.encode_prompt(&Prompt::Tokens(vec![])), Err(PromptError::Empty));
}

#[test]
fn truncation_written_in_the_tokenizer_is_not_obeyed() {
    let mut sample = byte_level();
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&sample.assets.tokenizer).expect("JSON");
    tokenizer["truncation"] = json!({
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    });
    sample.assets.tokenizer = tokenizer.to_string().into_bytes();
    let tokens = sample.codec().encode_prompt(&text("abcdefghij")).expect("usable");
    assert_eq!(tokens.len(), 11);
}

#[test]
fn generation_ends_at_every_end_token_known() {
    let mut sample = byte_level();
    sample.assets.eos_token_ids = vec![9, 4, 9];
    let codec = sample.codec();
    let end = codec.token_id("<|end|>").expect("a token");
    assert_eq!(codec.eos_token_ids(), [4, 9, end]);
    assert!(codec.is_eos(9) && codec.is_eos(end) && !codec.is_eos(5));
}

#[test]
fn text_survives_encoding_and_decoding() {
    for sample in [byte_level(), sentence_piece()] {
        let codec = sample.codec();
        for written in ["hello", "hi é hi", "日本語 🙂\n\ttabs", " two  spaces "] {
            let tokens = codec.encode(written, true).expect("usable");
            assert_eq!(codec.decode(&tokens, PLAIN), written);
        }
    }
}

#[test]
fn continued_text_keeps_its_leading_space() {
    let codec = sentence_piece().codec();
    let hi = codec.token_id("\u{2581}hi").expect("a token");
    let continued = DetokenizeOptions { continues: true, ..PLAIN };
    assert_eq!(codec.decode(&[hi, hi], PLAIN), "hi hi");
    assert_eq!(codec.decode(&[hi, hi], continued), " hi hi");
}

#[test]
fn tokenizer_of_a_larger_model_is_refused_with_file_and_mend() {
    let sample = byte_level();
    let highest_id = sample.vocab_size - 1;
    let error = TextCodec::new(&sample.assets, highest_id).expect_err("one id too many");
    assert_eq!(
        error.to_string(),
        format!(
            "model/tokenizer.json: token ids go up to {highest_id}, but the model embeds \
             {highest_id} tokens only; put the tokenizer of this very model beside its weights"
        )
    );
}

#[test]
fn unusable_tokenizers_are_refused_in_one_line() {
    let mut unknown_decoder: serde_json::Value =
        serde_json::from_slice(&byte_level().assets.tokenizer).expect("JSON");
    unknown_decoder["decoder"] = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    let cases = [
        (String::new(), "EOF"),
        ("{\"model\":".into(), "EOF"),
        ("[1, 2]".into(), "tokenizer"),
        (json!({ "model": { "type": "Nothing", "vocab": {} } }).to_string(), "tokenizer"),
        (json!({ "model": { "type": "WordLevel", "vocab": {}, "unk_token": "a" } }).to_string(), "no tokens"),
        (unknown_decoder.to_string(), "WordPiece"),
    ];
    for (tokenizer, reason) in cases {
        let assets = TextAssets {
            source: "model/tokenizer.json".into(),
            tokenizer: tokenizer.into_bytes(),
            ..TextAssets::default()
        };
        let error = TextCodec::new(&assets, 1000).expect_err("unusable");
        assert!(matches!(error, TextError::Tokenizer { .. }), "{error}");
        let line = error.to_string();
        assert!(line.starts_with("model/tokenizer.json: not a usable tokenizer: "), "{line}");
        assert!(line.contains(reason) && !line.contains('\n'), "{line}");
    }
}
