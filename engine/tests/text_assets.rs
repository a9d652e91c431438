//! A model directory's text files become `TextAssets`, or an error that names the file.

use std::fs;
use std::path::Path;

use mlxcel_engine::text::{TextAssets, TextError};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with a `tokenizer.json` and these files.
fn model(files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "tokenizer.json", "{}");
    for (name, value) in files {
        write(dir.path(), name, &value.to_string());
    }
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    fs::write(path, text).expect("a file");
}

fn assets(files: &[(&str, Value)]) -> TextAssets {
    TextAssets::from_dir(model(files).path()).expect("usable files")
}

fn error(files: &[(&str, Value)]) -> TextError {
    TextAssets::from_dir(model(files).path()).expect_err("unusable files")
}

#[test]
fn tokenizer_alone_is_enough() {
    let dir = model(&[]);
    let assets = TextAssets::from_dir(dir.path()).expect("usable files");
    let expected = TextAssets {
        source: dir.path().join("tokenizer.json").display().to_string(),
        tokenizer: b"{}".to_vec(),
        ..TextAssets::default()
    };
    assert_eq!(assets, expected);
}

#[test]
fn tokens_are_strings_or_objects_and_config_wins_over_the_map() {
    let assets = assets(&[
        (
            "tokenizer_config.json",
            json!({ "bos_token": { "content": "<s>", "lstrip": false }, "eos_token": "</s>", "pad_token": null }),
        ),
        ("special_tokens_map.json", json!({ "eos_token": "<end>", "pad_token": "<pad>" })),
    ]);
    assert_eq!(assets.bos_token.as_deref(), Some("<s>"));
    assert_eq!(assets.eos_token.as_deref(), Some("</s>"));
    assert_eq!(assets.pad_token.as_deref(), Some("<pad>"));
    assert_eq!(assets.unk_token, None);
}

#[test]
fn chat_template_is_a_string_or_a_list_of_named_ones() {
    let one = assets(&[("tokenizer_config.json", json!({ "chat_template": "plain" }))]);
    assert_eq!((one.chat_template.as_deref(), one.tool_template), (Some("plain"), None));
    let named = assets(&[(
        "tokenizer_config.json",
        json!({ "chat_template": [
            { "name": "default", "template": "plain" },
            { "name": "tool_use", "template": "tools" },
            { "name": "rag", "template": "other" }
        ] }),
    )]);
    assert_eq!(named.chat_template.as_deref(), Some("plain"));
    assert_eq!(named.tool_template.as_deref(), Some("tools"));
}

#[test]
fn template_in_its_own_file_wins() {
    let config = ("tokenizer_config.json", json!({ "chat_template": "config" }));
    let processor = ("chat_template.json", json!({ "chat_template": "processor" }));
    let both = [config, processor];
    assert_eq!(assets(&both).chat_template.as_deref(), Some("processor"));
    let dir = model(&both);
    write(dir.path(), "chat_template.jinja", "{{ 'file' }}\n");
    write(dir.path(), "additional_chat_templates/tool_use.jinja", "tools");
    let assets = TextAssets::from_dir(dir.path()).expect("usable files");
    assert_eq!(assets.chat_template.as_deref(), Some("{{ 'file' }}\n"));
    assert_eq!(assets.tool_template.as_deref(), Some("tools"));
}

#[test]
fn generation_settings_say_what_ends_generation_before_the_model_does() {
    let generation = |ids: Value| ("generation_config.json", json!({ "eos_token_id": ids }));
    let config = ("config.json", json!({ "eos_token_id": 7 }));
    let cases = [
        (vec![generation(json!([5, 3, 5])), config.clone()], vec![3, 5]),
        (vec![generation(json!(4)), config.clone()], vec![4]),
        (vec![generation(json!(null)), config.clone()], vec![7]),
        (vec![config], vec![7]),
        (vec![("config.json", json!({ "text_config": { "eos_token_id": [9] } }))], vec![9]),
        (vec![], vec![]),
    ];
    for (files, expected) in cases {
        assert_eq!(assets(&files).eos_token_ids, expected, "{files:?}");
    }
}

#[test]
fn add_bos_token_counts_for_the_classes_that_obey_it() {
    let add_bos = |class: &str| {
        let config = json!({ "tokenizer_class": class, "add_bos_token": true });
        assets(&[("tokenizer_config.json", config)]).add_bos
    };
    assert_eq!(add_bos("LlamaTokenizer"), Some(true));
    assert_eq!(add_bos("GemmaTokenizerFast"), Some(true));
    assert_eq!(add_bos("Qwen2Tokenizer"), None);
}

#[test]
fn missing_tokenizer_names_the_file_and_the_mend() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tokenizer.json");
    let message = |dir: &Path| TextAssets::from_dir(dir).expect_err("missing").to_string();
    assert_eq!(
        message(dir.path()),
        format!("{}: no such file; fetch it from where the model came from", path.display())
    );
    write(dir.path(), "tokenizer.model", "");
    assert!(message(dir.path()).contains("convert tokenizer.model"));
}

#[test]
fn file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("tokenizer.json")).expect("a directory");
    let error = TextAssets::from_dir(dir.path()).expect_err("a directory is not a file");
    assert!(matches!(&error, TextError::Unreadable { path, .. } if path.ends_with("tokenizer.json")));
}

#[test]
fn malformed_settings_are_named_in_one_line() {
    let cases = [
        ("tokenizer_config.json", json!([]), "expected a map"),
        ("tokenizer_config.json", json!({ "bos_token": 1 }), "bos_token must be"),
        ("tokenizer_config.json", json!({ "chat_template": 1 }), "chat_template must be"),
        ("tokenizer_config.json", json!({ "chat_template": [{}] }), "chat_template must be"),
        ("generation_config.json", json!({ "eos_token_id": "x" }), "eos_token_id must be"),
        ("config.json", json!({ "eos_token_id": [-1] }), "eos_token_id must be"),
    ];
    for (name, value, reason) in cases {
        let line = error(&[(name, value)]).to_string();
        assert!(line.contains(&format!("{name}: ")) && line.contains(reason), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}
