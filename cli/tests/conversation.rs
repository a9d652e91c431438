//! `mlxcel run` fed through a pipe, and prompts from standard input.

#![allow(clippy::expect_used, reason = "tests")]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use support::{mlxcel, smollm2, succeed, text};
use tempfile::TempDir;

/// What a command said to a program, and to a person.
struct Said {
    out: Vec<String>,
    err: Vec<String>,
    state: TempDir,
}

/// Runs a command that must succeed, with these lines to read.
fn fed(command: &mut Command, lines: &[&str]) -> Said {
    let state = TempDir::new().expect("a directory");
    command.env("MLXCEL_STATE_DIR", state.path());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mlxcel starts");
    let mut input = child.stdin.take().expect("its input is piped");
    for line in lines {
        writeln!(input, "{line}").expect("it reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {err}", output.status);
    let split = |text: String| text.lines().map(str::to_owned).collect();
    Said { out: split(out), err: split(err), state }
}

/// A conversation of short answers.
fn conversation(lines: &[&str]) -> Said {
    fed(mlxcel().args(["run", "--device", "cpu", "-n", "12", "-m", &smollm2()]), lines)
}

/// The answer to a first message.
fn answer(message: &str) -> String {
    let mut command = mlxcel();
    command.args(["run", "--device", "cpu", "-n", "12", "-m", &smollm2(), "-p", message]);
    succeed(&mut command).trim_end().to_owned()
}

/// Tokens of the prompt in a line of `/stats`.
fn prompt_tokens(line: &str) -> u32 {
    let number = line.strip_prefix("prompt ").and_then(|rest| rest.split(' ').next());
    number.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no statistics: {line}"))
}

const CAPITAL: &str = "What is the capital of France?";

#[test]
fn answers_are_all_a_pipe_gets() {
    let said = conversation(&[CAPITAL]);
    assert_eq!(said.out, [answer(CAPITAL)]);
    assert_eq!(said.err, [""; 0]);
}

#[test]
fn a_conversation_grows_until_it_is_cleared() {
    let said = conversation(&[CAPITAL, "/stats", CAPITAL, "/stats", "/clear", CAPITAL, "/stats"]);
    let sizes: Vec<u32> = said.err.iter().map(|line| prompt_tokens(line)).collect();
    assert!(sizes[1] > sizes[0], "the second question comes with the first: {sizes:?}");
    assert_eq!(sizes[2], sizes[0]);
    assert_eq!(said.out[2], said.out[0]);
}

#[test]
fn a_system_message_begins_another_conversation() {
    let said = conversation(&[CAPITAL, "/system You are a pirate.", CAPITAL, "/stats"]);
    let mut command = mlxcel();
    command.args(["run", "--device", "cpu", "-n", "12", "-m", &smollm2()]);
    let alone = succeed(command.args(["--system", "You are a pirate.", "-p", CAPITAL]));
    assert_eq!(said.out[1], alone.trim_end());
}

#[test]
fn a_line_that_begins_with_two_slashes_is_a_message() {
    assert_eq!(conversation(&["//etc is what?"]).out.join("\n"), answer("/etc is what?"));
}

#[test]
fn commands_are_explained_and_unknown_ones_refused() {
    let said = conversation(&["/help", "/nope", "/stats", ""]);
    insta::assert_snapshot!(said.err.join("\n"), @r"
    /clear         forget the conversation
    /system TEXT   set the system message and forget the conversation
    /stats         speed of the last answer
    /quit          leave (also Ctrl-D); Ctrl-C stops an answer
    no such command: /nope; /help lists the commands
    no answer yet
    ");
    assert_eq!(said.out, [""; 0]);
}

#[test]
fn nothing_after_quit_is_read() {
    let said = conversation(&["/quit", CAPITAL]);
    assert_eq!((said.out, said.err), (vec![], vec![]));
}

#[test]
fn a_message_that_is_too_long_does_not_end_the_conversation() {
    let long = "word ".repeat(100);
    let mut command = mlxcel();
    command.args(["run", "--device", "cpu", "-n", "12", "-c", "64", "-m", &smollm2()]);
    let said = fed(&mut command, &[&long, CAPITAL]);
    assert_eq!(said.err.len(), 1);
    assert!(said.err[0].starts_with("error: the prompt has "), "{:?}", said.err);
    assert_eq!(said.out, [answer(CAPITAL)]);
}

#[test]
fn history_is_kept() {
    let said = conversation(&["/help", "/quit"]);
    let history = std::fs::read_to_string(said.state.path().join("history.txt")).expect("a history");
    assert!(history.lines().any(|line| line == "/help"), "{history}");
}

#[test]
fn a_prompt_can_be_piped() {
    let mut command = mlxcel();
    command.args(["generate", "--device", "cpu", "-n", "12", "-m", &smollm2()]);
    assert_eq!(fed(&mut command, &[CAPITAL]).out, [answer(CAPITAL)]);
}

/// Sends Ctrl-C once the program has begun to answer.
#[cfg(unix)]
fn interrupt(child: &mut std::process::Child) -> impl std::io::Read + use<> {
    use std::io::Read;
    let mut output = child.stdout.take().expect("its output is piped");
    output.read_exact(&mut [0]).expect("the answer begins");
    support::signal("INT", child.id());
    output
}

#[cfg(unix)]
#[test]
fn an_interrupted_prompt_is_a_failure() {
    let mut command = mlxcel();
    command.args([
        "generate",
        "--device",
        "cpu",
        "--ignore-eos",
        "-n",
        "5000",
        "-p",
        CAPITAL,
        "-m",
        &smollm2(),
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mlxcel starts");
    let _output = interrupt(&mut child);
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(text(&ended.stderr).lines().last(), Some("error: interrupted"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_answer_does_not_end_the_conversation() {
    use std::io::Read;
    let mut command = mlxcel();
    command.args(["run", "--device", "cpu", "--ignore-eos", "-n", "5000", "-m", &smollm2()]);
    let state = TempDir::new().expect("a directory");
    command.env("MLXCEL_STATE_DIR", state.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("mlxcel starts");
    let mut input = child.stdin.take().expect("its input is piped");
    writeln!(input, "{CAPITAL}").expect("it reads");
    let mut output = interrupt(&mut child);
    write!(input, "/stats\n/quit\n").expect("it reads");
    output.read_to_end(&mut Vec::new()).expect("it ends");
    let ended = child.wait_with_output().expect("it ends");
    assert!(ended.status.success());
    assert!(prompt_tokens(text(&ended.stderr).trim()) > 0);
}
