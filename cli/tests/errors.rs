//! What goes wrong is one line that names the subject and the mend, and an exit code: 1, or 2 for
//! a command line that does not parse.

#![allow(clippy::expect_used, reason = "tests")]

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};

use insta::assert_snapshot;
use serde_json::json;
use support::checkpoint::{Tiny, tokenizer};
use support::{mlxcel, succeed, text};
use tempfile::TempDir;

/// Runs `mlxcel` and returns its only line of output, which says what went wrong.
fn failure(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.env("MLXCEL_LOG", "off").output().expect("mlxcel runs");
    let said = text(&stderr);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(text(&stdout), "", "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said.trim_end().to_owned()
}

/// Has the model answer, which must fail; the model's directory is called `[MODEL]`.
fn refusal(model: &Tiny) -> String {
    refusal_with(model, &[])
}

fn refusal_with(model: &Tiny, flags: &[&str]) -> String {
    let path = model.path().display().to_string();
    let said = failure(asking(model).args(flags));
    said.replace(&path, "[MODEL]").replace('\\', "/")
}

fn asking(model: &Tiny) -> Command {
    let mut command = mlxcel();
    command.args(["generate", "--device", "cpu", "--no-chat-template", "-n", "3", "-p", "w1 w2 w3", "-m"]);
    command.arg(model.path());
    command
}

/// Runs `mlxcel` with arguments that do not parse; what it says before it explains its usage.
fn misuse(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = mlxcel().args(args).output().expect("mlxcel runs");
    let said = text(&stderr);
    assert_eq!((status.code(), text(&stdout).as_str()), (Some(2), ""), "{said}");
    let lines = said.lines().take_while(|line| !line.is_empty()).map(str::trim);
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_sound_model_answers() {
    let answer = succeed(asking(&Tiny::new()).arg("--json"));
    assert!(answer.contains(r#""completion_tokens":3"#), "{answer}");
}

#[test]
fn a_draft_model_changes_nothing_but_the_way() {
    let model = Tiny::new();
    let drafted = ["--draft-min", "3", "--draft-max", "3", "--draft-quantize", "4", "--draft-model"];
    let expected = succeed(&mut asking(&model));
    assert_eq!(succeed(asking(&model).args(drafted).arg(model.path())), expected);
}

#[test]
fn truncated_weights() {
    let model = Tiny::new();
    model.truncate("model.safetensors", 100);
    assert_snapshot!(refusal(&model), @"error: [MODEL]/model.safetensors is damaged: its tensors do not end where the file of 165604 bytes ends; download or convert the model again");
}

#[test]
fn weights_cut_inside_their_header() {
    let model = Tiny::new();
    let length = std::fs::metadata(model.file("model.safetensors")).expect("a file").len();
    model.truncate("model.safetensors", length - 40);
    assert_snapshot!(refusal(&model), @"error: [MODEL]/model.safetensors is damaged: its header is longer than the file of 40 bytes; download or convert the model again");
}

#[test]
fn no_weights() {
    let model = Tiny::new();
    model.remove("model.safetensors");
    assert_snapshot!(refusal(&model), @"error: [MODEL] has no model.safetensors; it holds no weights; download the model again");
}

#[test]
fn weights_of_another_model() {
    let model = Tiny::new();
    model.configure(|config| config["intermediate_size"] = json!(256));
    assert_snapshot!(refusal(&model), @"error: tensor model.layers.0.mlp.gate_proj.weight in [MODEL]/model.safetensors has shape [128, 64], expected [256, 64]; the weights do not belong to this configuration");
}

#[test]
fn fewer_weights_than_layers() {
    let model = Tiny::new();
    model.configure(|config| config["num_hidden_layers"] = json!(2));
    assert_snapshot!(refusal(&model), @"error: [MODEL] has no tensor model.layers.1.input_layernorm.weight; the weights do not belong to this configuration, or a shard is missing");
}

#[test]
fn a_configuration_without_a_key() {
    let model = Tiny::new();
    model.configure(|config| drop(config.as_object_mut().expect("an object").remove("hidden_size")));
    assert_snapshot!(refusal(&model), @"error: [MODEL]: config.json has no hidden_size; the file is incomplete, download the model again");
}

#[test]
fn a_configuration_that_is_not_json() {
    let model = Tiny::new();
    model.write("config.json", "{\"model_type\": ");
    assert_snapshot!(refusal(&model), @"error: [MODEL]/config.json is damaged: it is not JSON (EOF while parsing a value at line 1 column 15); download or convert the model again");
}

#[test]
fn no_configuration() {
    let model = Tiny::new();
    model.remove("config.json");
    assert_snapshot!(refusal(&model), @"error: [MODEL] has no config.json; it is not a model directory");
}

#[test]
fn an_unknown_architecture() {
    let model = Tiny::new();
    model.configure(|config| config["model_type"] = json!("perceptron"));
    assert_snapshot!(refusal(&model), @r#"error: [MODEL]: unknown architecture "perceptron"; supported: llama, mistral, qwen2, qwen3, lfm2, iquestcoder, xverse"#);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model() {
    let model = Tiny::new();
    model.write("tokenizer.json", &tokenizer(100).to_string());
    assert_snapshot!(refusal(&model), @"error: [MODEL]/tokenizer.json: token ids go up to 99, but the model embeds 64 tokens only; put the tokenizer of this very model beside its weights");
}

#[test]
fn a_tokenizer_that_does_not_parse() {
    let model = Tiny::new();
    model.write("tokenizer.json", r#"{"model": {"type": "Unheard"}}"#);
    assert_snapshot!(refusal(&model), @"error: [MODEL]/tokenizer.json: not a usable tokenizer: data did not match any variant of untagged enum ModelUntagged at line 1 column 30; fetch the model's own tokenizer again");
}

#[test]
fn a_draft_model_with_other_tokens() {
    let (model, draft) = (Tiny::new(), Tiny::new());
    draft.write("tokenizer.json", &tokenizer(60).to_string().replace("w59", "v59"));
    let path = draft.path().display().to_string();
    let said = refusal_with(&model, &["--draft-model", &path]).replace(&path.replace('\\', "/"), "[DRAFT]");
    assert_snapshot!(said, @r#"error: [DRAFT] cannot draft: its token 59 is " v59", the model's is " w59"; a draft model must have the tokenizer of the model it drafts for"#);
}

#[test]
fn a_draft_model_without_a_model_to_draft_with() {
    assert_snapshot!(misuse(&["generate", "-p", "w1", "--draft-max", "4"]), @"error: the following required arguments were not provided: --draft-model <MODEL>");
    let model = Tiny::new();
    let path = model.path().display().to_string();
    let said = failure(mlxcel().args(["inspect", "-m", &path, "--draft-model", &path]));
    assert_snapshot!(said, @"error: inspect looks at one model; give the draft model to an inspect of its own");
}

#[test]
fn no_tokenizer() {
    let model = Tiny::new();
    model.remove("tokenizer.json");
    assert_snapshot!(refusal(&model), @"error: [MODEL]/tokenizer.json: no such file; fetch it from where the model came from");
}

#[test]
fn a_directory_without_a_model() {
    let model = Tiny::new();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        model.remove(name);
    }
    assert_snapshot!(refusal(&model), @"error: [MODEL] has no config.json; it is not a model directory");
}

#[cfg(unix)]
#[test]
fn a_configuration_that_cannot_be_read() {
    let model = Tiny::new();
    model.remove("config.json");
    // Even the superuser cannot read a directory as a file.
    std::fs::create_dir(model.file("config.json")).expect("a directory");
    assert_snapshot!(refusal(&model), @"error: cannot read [MODEL]/config.json: Is a directory (os error 21); it must be a file that this user may read");
}

#[test]
fn a_model_directory_that_does_not_exist() {
    assert_snapshot!(failure(mlxcel().args(["generate", "-p", "x", "-m", "./no/such/model"])), @"error: no such model path: ./no/such/model; check it, or give owner/name or an alias");
}

#[test]
fn a_file_that_is_no_model() {
    assert_snapshot!(failure(mlxcel().args(["generate", "-p", "x", "-m", "./Cargo.toml"])), @"error: ./Cargo.toml is not a model: expected a directory or a .gguf file");
}

#[test]
fn an_unknown_alias() {
    assert_snapshot!(failure(mlxcel().args(["generate", "-p", "x", "-m", "nobody"])), @"error: no model is called `nobody`; known: smollm2; or give owner/name or a path");
}

#[test]
fn a_gguf_file_with_an_unsupported_type() {
    let model = Tiny::new();
    std::fs::write(model.file("model.gguf"), gguf_of_type(Q2_K)).expect("files can be written");
    let path = model.file("model.gguf").display().to_string();
    let said = failure(mlxcel().args(["generate", "-p", "x", "-m", &path]));
    assert_snapshot!(said.replace(&path, "[FILE]"), @"error: [FILE] holds tensor token_embd.weight of type Q2_K, which has no lossless MLX layout; supported: Q4_0, Q4_1, Q8_0, MXFP4, F16, BF16, F32");
}

#[test]
fn a_truncated_gguf_file() {
    let model = Tiny::new();
    std::fs::write(model.file("model.gguf"), &gguf_of_type(Q2_K)[..60]).expect("files can be written");
    let path = model.file("model.gguf").display().to_string();
    let said = failure(mlxcel().args(["generate", "-p", "x", "-m", &path]));
    assert_snapshot!(said.replace(&path, "[FILE]"), @"error: [FILE] is damaged: it ends inside general.architecture (8 bytes wanted at 56, 4 left); download or convert the model again");
}

/// GGML's number of a type that has no lossless MLX layout.
const Q2_K: u32 = 10;

/// A GGUF file whose only tensor is of this type.
fn gguf_of_type(kind: u32) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    let string = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    string(&mut bytes, "general.architecture");
    bytes.extend(8_u32.to_le_bytes());
    string(&mut bytes, "llama");
    string(&mut bytes, "token_embd.weight");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(256_u64.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 84, 0);
    bytes
}

#[test]
fn a_context_longer_than_the_model_was_trained_for() {
    assert_snapshot!(refusal_with(&Tiny::new(), &["-c", "129"]), @"error: a context of 129 tokens was asked for, the model was trained for 128; ask for at most 128");
}

#[test]
fn a_prompt_longer_than_the_context() {
    assert_snapshot!(refusal_with(&Tiny::new(), &["-c", "3"]), @"error: the prompt has 3 tokens, the context holds 3 with at least one of output; shorten the prompt");
}

#[test]
fn an_empty_prompt() {
    let model = Tiny::new();
    let mut command = mlxcel();
    command.args(["generate", "--no-chat-template", "-p", "", "-m"]).arg(model.path());
    assert_snapshot!(failure(&mut command), @"error: the prompt must have at least one token, got none");
}

#[test]
fn a_chat_with_a_model_that_has_no_template() {
    let model = Tiny::new();
    let mut command = mlxcel();
    assert_snapshot!(failure(command.args(["generate", "-p", "w1", "-m"]).arg(model.path())), @"error: the model has no chat template; send the prompt as plain text");
}

#[test]
fn bits_that_do_not_exist() {
    assert_snapshot!(refusal_with(&Tiny::new(), &["--quantize", "7"]), @"error: cannot quantise to 7 bits in groups of 64; bits are 2, 3, 4, 5, 6 or 8, groups 32, 64 or 128");
}

#[test]
fn a_group_size_that_does_not_exist() {
    assert_snapshot!(refusal_with(&Tiny::new(), &["--quantize", "4", "--group-size", "48"]), @"error: cannot quantise to 4 bits in groups of 48; bits are 2, 3, 4, 5, 6 or 8, groups 32, 64 or 128");
}

#[test]
fn a_quantisation_that_is_neither_bits_nor_a_known_mode() {
    assert_snapshot!(misuse(&["generate", "--quantize", "nvfp4"]), @"error: invalid value 'nvfp4' for '--quantize <BITS>': it is a number of bits, or mxfp4");
}

#[test]
fn a_group_size_that_mxfp4_does_not_have() {
    assert_snapshot!(refusal_with(&Tiny::new(), &["--quantize", "mxfp4", "--group-size", "64"]), @"error: mxfp4 has groups of 32 weights, got --group-size 64; leave it out");
}

#[test]
fn sampling_that_makes_no_sense() {
    assert_snapshot!(refusal_with(&Tiny::new(), &["--top-p", "2"]), @"error: top_p must be above 0 and at most 1, got 2");
    assert_snapshot!(refusal_with(&Tiny::new(), &["--logit-bias", "64+1"]), @"error: logit_bias token ids must be below 64, got 64");
}

#[cfg(not(any(feature = "cuda", feature = "metal", target_os = "macos")))]
#[test]
fn a_gpu_for_a_build_without_one() {
    let model = Tiny::new();
    let mut command = mlxcel();
    command.args(["generate", "--device", "gpu", "-p", "x", "-m"]).arg(model.path());
    assert_snapshot!(failure(&mut command), @"error: this build of mlxcel has no GPU support; use a build with the cuda or metal feature, or --device cpu");
    let state = TempDir::new().expect("a directory");
    let mut node = mlxcel();
    node.args(["node", "--device", "gpu", "--no-mdns", "--state-dir"]).arg(state.path());
    assert_snapshot!(failure(&mut node), @"error: device 0 cannot be used: worker exited with code 1: error: this build of mlxcel has no GPU support; use a build with the cuda or metal feature, or --device cpu");
}

#[test]
fn converting_what_is_quantised_or_onto_what_exists() {
    let (model, out) = (Tiny::new(), TempDir::new().expect("a directory"));
    let converting = |from: &str, to: &str, flags: &[&str]| {
        let mut command = mlxcel();
        command.args(["convert", "-m", from, "-o", to]).args(flags);
        command
    };
    let from = model.path().display().to_string();
    let to = out.path().join("four").display().to_string();
    succeed(&mut converting(&from, &to, &["--quantize", "4"]));
    let again = out.path().join("eight").display().to_string();
    let said = failure(&mut converting(&to, &again, &["--quantize", "8"]));
    assert_snapshot!(said.replace(&to, "[FOUR]"), @"error: [FOUR] is already quantised; convert it without quantising, or from the original weights");
    let said = failure(&mut converting(&from, &to, &[]));
    assert_snapshot!(said.replace(&to, "[FOUR]"), @"error: [FOUR] already exists; remove it or choose another directory");
}

#[test]
fn removing_what_is_not_there() {
    let store = TempDir::new().expect("a directory");
    let mut command = mlxcel();
    command.env("MLXCEL_CACHE_DIR", store.path()).env("HF_HOME", store.path());
    assert_snapshot!(failure(command.args(["rm", "nobody"])), @"error: no stored model is called `nobody`; `mlxcel list` shows those there are");
}

/// Starts a server command on a port that is taken.
fn port_in_use(args: &[&str]) -> String {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("it has an address").port().to_string();
    let state = TempDir::new().expect("a directory");
    let mut command = mlxcel();
    command.args(args).args(["--host", "127.0.0.1", "--port", &port, "--state-dir"]).arg(state.path());
    failure(&mut command).replace(&port, "[PORT]")
}

/// The system's own words differ between systems.
fn with_filters(check: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r": [^:;]* \(os error \d+\)", ": [REASON]");
    settings.bind(check);
}

#[test]
fn a_port_in_use() {
    with_filters(|| {
        assert_snapshot!(port_in_use(&["router", "--no-mdns"]), @"error: cannot listen on 127.0.0.1:[PORT] for the HTTP API: [REASON]; stop the program that uses port [PORT], or choose another port");
        assert_snapshot!(port_in_use(&["node", "--no-mdns", "--device", "cpu"]), @"error: cannot listen on 127.0.0.1:[PORT]: [REASON]; stop what listens there, or give another port, 0 for any free one");
        let model = Tiny::new();
        let path = model.path().display().to_string();
        assert_snapshot!(port_in_use(&["serve", "--device", "cpu", "-m", &path]), @"error: cannot listen on 127.0.0.1:[PORT] for the HTTP API: [REASON]; stop the program that uses port [PORT], or choose another port");
    });
}

#[test]
fn a_state_directory_that_is_a_file() {
    let model = Tiny::new();
    let file = model.file("config.json").display().to_string();
    let said = failure(mlxcel().args(["router", "--port", "0", "--no-mdns", "--state-dir", &file]));
    with_filters(
        || assert_snapshot!(said.replace(&file, "[FILE]").replace('\\', "/"), @"error: cannot read identity key [FILE]/cluster/identity.key: [REASON]; give the user running mlxcel access to it"),
    );
}

#[test]
fn serving_a_damaged_model() {
    let (model, state) = (Tiny::new(), TempDir::new().expect("a directory"));
    model.truncate("model.safetensors", 100);
    let path = model.path().display().to_string();
    let mut command = mlxcel();
    command.args(["serve", "--device", "cpu", "--port", "0", "-m", &path, "--state-dir"]).arg(state.path());
    let said = failure(&mut command);
    assert_snapshot!(said.replace(&path, "[MODEL]").replace('\\', "/"), @"error: [MODEL]/model.safetensors is damaged: its tensors do not end where the file of 165604 bytes ends; download or convert the model again");
}

#[test]
fn cluster_flags_that_make_no_sense() {
    let state = TempDir::new().expect("a directory");
    let refusal = |args: &[&str]| {
        failure(mlxcel().args(args).args(["--port", "0", "--no-mdns", "--state-dir"]).arg(state.path()))
    };
    assert_snapshot!(refusal(&["router", "--join", "nowhere"]), @"error: a node to join must be given as host:port, got 'nowhere'");
    assert_snapshot!(refusal(&["node", "--join", "nowhere"]), @"error: an address to join must be host:port, got `nowhere`");
    assert_snapshot!(refusal(&["node", "--token", ""]), @"error: the token must not be empty; leave it out to be claimed by the first router");
    assert_snapshot!(refusal(&["router", "--api-key", ""]), @"error: the API key must not be empty; leave it out to serve without one");
    assert_snapshot!(refusal(&["node", "-m", "a", "-m", "b", "--alias", "c"]), @"error: --alias names one model, got 2; give one -m, or leave the alias out");
}

#[test]
fn command_lines_that_do_not_parse() {
    assert_snapshot!(misuse(&["generate", "--device", "tpu"]), @"error: invalid value 'tpu' for '--device <DEVICE>': a device is auto, cpu, gpu or gpu:N");
    assert_snapshot!(misuse(&["generate", "-n", "many"]), @"error: invalid value 'many' for '--max-tokens <N>': invalid digit found in string");
    assert_snapshot!(misuse(&["generate", "--logit-bias", "5"]), @"error: invalid value '5' for '--logit-bias <ID(+/-)BIAS>': a logit bias is ID+BIAS or ID-BIAS, such as 15043+1.5");
    assert_snapshot!(misuse(&["generate", "--group-size", "32"]), @"error: the following required arguments were not provided: --quantize <BITS>");
    assert_snapshot!(misuse(&["convert", "-m", "a", "-o", "b", "--dtype", "f8"]), @"error: invalid value 'f8' for '--dtype <DTYPE>': a dtype is f16, bf16 or f32");
    assert_snapshot!(misuse(&["serve", "--port", "99999"]), @"error: invalid value '99999' for '--port <PORT>': 99999 is not in 0..=65535");
    assert_snapshot!(misuse(&["node", "--alias", "a"]), @"error: the following required arguments were not provided: --model <MODEL>");
    assert_snapshot!(misuse(&["frobnicate"]), @"error: unrecognized subcommand 'frobnicate'");
}
