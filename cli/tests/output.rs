//! What commands print, to people and to programs.

#![allow(clippy::expect_used, reason = "tests")]

mod support;

use std::process::Output;

use insta::assert_snapshot;
use serde_json::Value;
use support::checkpoint::Tiny;
use support::{mlxcel, smollm2, succeed, text};
use tempfile::TempDir;

const COMMANDS: [&str; 13] = [
    "run", "generate", "serve", "node", "router", "link", "plan", "download", "list", "rm", "inspect",
    "arch", "convert",
];

fn json(output: &str) -> Value {
    serde_json::from_str(output).expect("the output is JSON")
}

/// Every key with the type of its value, one a line; arrays by their first element.
fn shape(value: &Value) -> String {
    let mut lines = Vec::new();
    describe("", value, &mut lines);
    lines.join("\n")
}

fn describe(path: &str, value: &Value, lines: &mut Vec<String>) {
    let kind = match value {
        Value::Object(map) => {
            return map.iter().for_each(|(key, value)| describe(&format!("{path}.{key}"), value, lines));
        }
        Value::Array(items) if !items.is_empty() => return describe(&format!("{path}[]"), &items[0], lines),
        Value::Array(_) => "empty array",
        Value::String(_) => "string",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    lines.push(format!("{path}: {kind}"));
}

#[test]
fn help() {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"mlxcel\.exe", "mlxcel");
    settings.bind(|| {
        assert_snapshot!("help", succeed(mlxcel().arg("--help")));
        for command in COMMANDS {
            assert_snapshot!(format!("help-{command}"), succeed(mlxcel().args([command, "--help"])));
        }
    });
}

#[test]
fn every_command_has_its_help_pinned() {
    let help = succeed(mlxcel().arg("--help"));
    let commands = help.split("Commands:\n").nth(1).expect("commands are listed");
    let names = commands.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next());
    assert_eq!(names.collect::<Vec<_>>(), COMMANDS);
}

#[test]
fn architectures() {
    assert_snapshot!(succeed(mlxcel().arg("arch")));
    let rows = json(&succeed(mlxcel().args(["arch", "--json"])));
    assert_snapshot!(shape(&rows), @r"
    [].model_type: string
    [].family: string
    [].models: string
    ");
}

#[test]
fn inspection_of_a_model() {
    let model = Tiny::new();
    let inspect = |flags: &[&str]| {
        let mut command = mlxcel();
        let path = model.path().display().to_string();
        command.args(["inspect", "--device", "cpu", "-m", &path]).args(flags);
        succeed(&mut command).replace(&path, "[MODEL]")
    };
    assert_snapshot!(shape(&json(&inspect(&["--json"]))), @r"
    .path: string
    .architecture: string
    .layers: integer
    .hidden_size: integer
    .vocab_size: integer
    .max_context: integer
    .tensors: integer
    .matrices[].mode: null
    .matrices[].bits: null
    .matrices[].group_size: null
    .matrices[].modules: integer
    .weight_bytes: integer
    .kv_bytes_per_token: integer
    .state_bytes: integer
    .context_tokens: integer
    .total_bytes: integer
    .fits: boolean
    .device.kind: string
    .device.index: integer
    .device.name: string
    .device.memory_bytes: integer
    .device.driver: string
    .device.mlx_version: string
    ");
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"device +.*", "device [DEVICE]");
    settings.bind(|| {
        assert_snapshot!(inspect(&["-c", "100"]), @r"
    model            [MODEL]
    architecture     llama
    layers           1
    hidden size      64
    vocabulary       64
    trained context  128 tokens
    matrices         float x 8
    weights          0.2 MiB
    KV cache         256 bytes a token
    KV cache, full   0.0 MiB for 100 tokens
    total            0.2 MiB
    device [DEVICE]
    fits             yes
    ")
    });
}

#[test]
fn stored_models() {
    let store = TempDir::new().expect("a directory");
    let list = |flags: &[&str]| {
        let mut command = mlxcel();
        command.env("MLXCEL_CACHE_DIR", store.path()).env("HF_HOME", store.path()).arg("list").args(flags);
        let Output { status, stdout, stderr } = command.output().expect("mlxcel runs");
        assert!(status.success());
        (text(&stdout), text(&stderr))
    };
    assert_eq!(list(&["--json"]), ("[]\n".to_owned(), String::new()));
    let (out, hint) = list(&[]);
    assert_eq!(out, "");
    assert_snapshot!(hint, @"no models yet; fetch one with `mlxcel download smollm2`");

    let commit = "0123456789012345678901234567890123456789";
    let repository = store.path().join("hub/models--owner--name");
    let snapshot = repository.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).expect("directories");
    std::fs::create_dir_all(repository.join("refs")).expect("directories");
    std::fs::write(repository.join("refs/main"), commit).expect("a file");
    let model = Tiny::new();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(model.file(name), snapshot.join(name)).expect("a copy");
    }
    let (out, _) = list(&["--json"]);
    let rows = json(&out);
    assert_snapshot!(shape(&rows), @r"
    [].name: string
    [].size_bytes: integer
    [].path: string
    ");
    assert_eq!(rows[0]["name"], "owner/name");
}

#[test]
fn generation_as_json() {
    let model = Tiny::new();
    let mut command = mlxcel();
    command.args(["generate", "--json", "--device", "cpu", "--no-chat-template", "-n", "4", "-p", "w1 w2"]);
    let Output { status, stdout, stderr } =
        command.arg("-m").arg(model.path()).output().expect("mlxcel runs");
    assert!(status.success());
    assert_eq!(text(&stderr), "", "no bars in a pipe");
    assert_snapshot!(shape(&json(&text(&stdout))), @r"
    .text: string
    .token_ids[]: integer
    .finish_reason: string
    .prompt_tokens: integer
    .cached_tokens: integer
    .completion_tokens: integer
    .prefill_seconds: float
    .decode_seconds: float
    .prefill_tokens_per_second: float
    .decode_tokens_per_second: float
    ");
}

#[test]
fn generation_reports_its_speed_apart_from_the_text() {
    let mut command = mlxcel();
    command.args(["generate", "--device", "cpu", "-n", "12", "-p", "What is the capital of France?", "-m"]);
    let output = command.arg(smollm2()).output().expect("mlxcel runs");
    assert_eq!(text(&output.stdout), "The capital of France is Paris.\n");
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d+\.\d tok/s", "[SPEED] tok/s");
    settings.bind(|| assert_snapshot!(text(&output.stderr), @"prompt 37 tokens, [SPEED] tok/s; output 8 tokens, [SPEED] tok/s"));
}

#[test]
fn a_converted_model_answers_as_its_source() {
    let out = TempDir::new().expect("a directory");
    let converted = out.path().join("mlx").display().to_string();
    let convert = mlxcel().args(["convert", "-m", &smollm2(), "-o", &converted]).output();
    let Output { status, stdout, stderr } = convert.expect("mlxcel runs");
    assert!(status.success(), "{}", text(&stderr));
    assert_eq!(text(&stdout).trim_end(), converted);
    assert_eq!(text(&stderr), "", "no bars in a pipe");

    let answer = |model: &str| {
        let mut command = mlxcel();
        command.args([
            "generate",
            "--json",
            "--device",
            "cpu",
            "-n",
            "24",
            "-p",
            "Name three colours.",
            "-m",
        ]);
        json(&succeed(command.arg(model)))
    };
    let (ours, theirs) = (answer(&converted), answer(&smollm2()));
    assert_eq!(ours["token_ids"], theirs["token_ids"]);
    assert_eq!(ours["text"], theirs["text"]);
}

/// The names of a trace's events, and the array itself.
fn trace_events(path: &std::path::Path) -> (std::collections::BTreeSet<String>, Value) {
    let events = json(&std::fs::read_to_string(path).expect("the trace was written"));
    let of = |event: &Value| event["name"].as_str().expect("every event has a name").to_owned();
    (events.as_array().expect("an array").iter().map(of).collect(), events)
}

#[test]
fn a_trace_shows_each_part_of_each_step() {
    let (tiny, dir) = (Tiny::new(), TempDir::new().expect("a directory"));
    let path = dir.path().join("trace.json");
    let mut command = mlxcel();
    command.args(["generate", "--device", "cpu", "--no-chat-template", "--ignore-eos", "-n", "4"]);
    succeed(command.args(["-p", "w1 w2", "-m"]).arg(tiny.path()).arg("--trace").arg(&path));
    let (names, events) = trace_events(&path);
    for name in ["plan", "build", "wait", "read", "detokenise", "load"] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let planned = events.as_array().into_iter().flatten().filter(|event| event["name"] == "plan");
    let tokens: u64 = planned.filter_map(|event| event["args"]["tokens"].as_u64()).sum();
    assert_eq!(tokens, 2 + 3, "two of the prompt, and every generated one but the last");
}

#[test]
#[cfg(unix)]
fn a_server_that_is_asked_to_end_leaves_a_whole_trace_of_its_worker() {
    let (tiny, dir) = (Tiny::new(), TempDir::new().expect("a directory"));
    let [path, state] = ["trace.json", "state"].map(|name| dir.path().join(name).display().to_string());
    let model = tiny.path().display().to_string();
    let mut server = support::Server::start(&[
        "serve",
        "-m",
        &model,
        "--port",
        "0",
        "--device",
        "cpu",
        "--state-dir",
        &state,
        "--trace",
        &path,
    ]);
    let address = support::http::address_in(&server.wait_for("http://"));
    let body = serde_json::json!({"model": model, "prompt": "w1 w2", "max_tokens": 3, "temperature": 0});
    let (status, answer) = support::http::json(&address, "POST", "/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    assert!(trace_events(std::path::Path::new(&path)).0.contains("wait"));
}

/// A description of two hosts, of which the first is faster.
fn two_hosts(dir: &TempDir) -> String {
    let path = dir.path().join("cluster.toml");
    let host = |name: &str, rate: u32| {
        format!(
            "[[host]]\nname = \"{name}\"\ndevice = [{{ memory_gb = 8, bandwidth_gb_s = {rate}, tflops = 10 }}]\n"
        )
    };
    std::fs::write(&path, host("fast", 200) + &host("slow", 50)).expect("it is written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_plan_names_the_devices_and_their_layers() {
    let dir = TempDir::new().expect("a directory");
    let cluster = two_hosts(&dir);
    let plan = json(&succeed(mlxcel().args(["plan", &smollm2(), "--cluster", &cluster, "--json"])));
    let stage = &plan["replicas"][0]["stages"][0];
    assert_eq!(stage["layers"], serde_json::json!({ "start": 0, "end": 30 }));
    assert_eq!(stage["ranks"][0]["host"], "fast");
    assert!(plan["tokens_per_second"].as_f64().is_some_and(|rate| rate > 100.0), "{plan}");
    let text = succeed(mlxcel().args(["plan", &smollm2(), "--cluster", &cluster]));
    assert!(text.contains("layers 1-30") && text.contains("fast:0"), "{text}");
}

#[test]
fn a_model_that_fits_nowhere_is_said_to_lack_memory() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("cluster.toml");
    let text =
        "[[host]]\nname = \"small\"\ndevice = [{ memory_gb = 0.05, bandwidth_gb_s = 10, tflops = 1 }]\n";
    std::fs::write(&path, text).expect("it is written");
    let output = mlxcel().args(["plan", &smollm2(), "--cluster"]).arg(&path).output().expect("mlxcel runs");
    assert_eq!(output.status.code(), Some(1));
    let said = support::text(&output.stderr);
    assert!(said.starts_with("error: the model needs ") && said.lines().count() == 1, "{said}");
}
