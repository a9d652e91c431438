//! Reading a conversation from the terminal: lines with history, and `/` commands.
//!
//! Turns lines into `Input`; what they do to the conversation is `commands::run`'s business.

use std::path::PathBuf;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// What a person entered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A message for the model.
    Message(String),
    /// `/clear`: forget the conversation.
    Clear,
    /// `/system TEXT`: replace the system message, and forget the conversation.
    System(String),
    /// `/stats`: speed of the last answer.
    Stats,
    /// `/help`.
    Help,
    /// A `/` command that does not exist.
    Unknown(String),
    /// An empty line.
    Nothing,
    /// `/quit`, Ctrl-D, or Ctrl-C on an empty line.
    Quit,
}

/// What `/help` prints.
pub(crate) const HELP: &str = "\
/clear         forget the conversation
/system TEXT   set the system message and forget the conversation
/stats         speed of the last answer
/quit          leave (also Ctrl-D); Ctrl-C stops an answer";

/// A line editor whose history outlives the process.
pub(crate) struct Repl {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl Repl {
    /// Opens the editor; without a readable history it starts with an empty one.
    pub(crate) fn open(history: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut editor = DefaultEditor::new()?;
        if let Some(path) = &history {
            // The first conversation has no history file yet.
            let _absent = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// Waits for the next line.
    pub(crate) fn next(&mut self) -> anyhow::Result<Input> {
        match self.editor.readline("> ") {
            Ok(line) => {
                if !line.trim().is_empty() {
                    self.editor.add_history_entry(line.as_str())?;
                }
                Ok(parse(&line))
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(Input::Quit),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the history for the next conversation.
    pub(crate) fn close(mut self) -> anyhow::Result<()> {
        if let Some(path) = &self.history {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            self.editor.save_history(path)?;
        }
        Ok(())
    }
}

/// A line as an input. A line that begins with `//` is a message that begins with `/`.
fn parse(line: &str) -> Input {
    let line = line.trim();
    let Some(command) = line.strip_prefix('/') else {
        return if line.is_empty() { Input::Nothing } else { Input::Message(line.to_owned()) };
    };
    if command.starts_with('/') {
        return Input::Message(command.to_owned());
    }
    let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    match (name, rest.trim()) {
        ("clear", "") => Input::Clear,
        ("system", text) if !text.is_empty() => Input::System(text.to_owned()),
        ("stats", "") => Input::Stats,
        ("help", "") => Input::Help,
        ("quit" | "exit" | "bye", "") => Input::Quit,
        _ => Input::Unknown(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slash_commands_are_told_from_messages() {
        assert_eq!(parse("  hello "), Input::Message("hello".into()));
        assert_eq!(parse("/system Be brief."), Input::System("Be brief.".into()));
        assert_eq!(parse("/clear"), Input::Clear);
        assert_eq!(parse("/quit"), Input::Quit);
        assert_eq!(parse("//etc is a path"), Input::Message("/etc is a path".into()));
        assert_eq!(parse("/system"), Input::Unknown("/system".into()));
        assert_eq!(parse("/nope 1"), Input::Unknown("/nope 1".into()));
        assert_eq!(parse("   "), Input::Nothing);
    }
}
