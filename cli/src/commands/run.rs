//! `mlxcel run`: a conversation in the terminal, or one answer with `-p`.

use std::io::IsTerminal;

use anyhow::Result;
use mlxcel_cluster_config::paths::state_dir;
use mlxcel_engine::{AnswerOptions, ChatPrompt, Engine, Finish, Prompt, Request, Turn};
use serde_json::{Value, json};

use super::generate::{print_now, request};
use super::generation::{generate, speed};
use super::loading::load_model;
use crate::args::RunArgs;
use crate::terminal::{HELP, Input, Repl};

pub(crate) async fn run(args: RunArgs) -> Result<()> {
    let engine = load_model(&args.model, &args.trace).await?;
    if let Some(text) = &args.prompt {
        let request = request(text, &args.options, args.sampling.params());
        let answer = generate(engine.as_ref(), request, &mut print_now).await?;
        println!();
        return answer.expect_whole();
    }
    let mut repl = Repl::open(state_dir().ok().map(|dir| dir.join("history.txt")))?;
    if std::io::stdin().is_terminal() {
        eprintln!("{} is ready; /help lists the commands", args.model.model);
    }
    let mut conversation = Conversation::new(args);
    loop {
        let input = tokio::task::block_in_place(|| repl.next())?;
        if matches!(input, Input::Quit) {
            return repl.close();
        }
        conversation.act(input, engine.as_ref()).await?;
    }
}

/// The messages so far.
struct Conversation {
    args: RunArgs,
    messages: Vec<Value>,
    turns: usize,
    last: Option<Finish>,
}

impl Conversation {
    fn new(args: RunArgs) -> Self {
        let mut new = Self { args, messages: Vec::new(), turns: 0, last: None };
        new.clear();
        new
    }

    async fn act(&mut self, input: Input, engine: &dyn Engine) -> Result<()> {
        match input {
            Input::Message(text) => self.ask(text, engine).await?,
            Input::Clear => self.clear(),
            Input::System(text) => {
                self.args.options.system = Some(text);
                self.clear();
            }
            Input::Stats => match &self.last {
                Some(finish) => eprintln!("{}", speed(finish)),
                None => eprintln!("no answer yet"),
            },
            Input::Help => eprintln!("{HELP}"),
            Input::Unknown(line) => eprintln!("no such command: {line}; /help lists the commands"),
            Input::Nothing | Input::Quit => {}
        }
        Ok(())
    }

    fn clear(&mut self) {
        let system = self.args.options.system.iter();
        self.messages = system.map(|text| json!({"role": "system", "content": text})).collect();
    }

    async fn ask(&mut self, text: String, engine: &dyn Engine) -> Result<()> {
        self.turns += 1;
        let request = self.request(&text);
        let answer = match generate(engine, request, &mut print_now).await {
            Ok(answer) => answer,
            // The conversation goes on: a message that is too long, say, can be shortened.
            Err(error) => {
                eprintln!("error: {error:#}");
                return Ok(());
            }
        };
        println!();
        self.messages.push(json!({"role": "user", "content": text}));
        self.messages.push(json!({"role": "assistant", "content": answer.text}));
        self.last = Some(answer.finish);
        Ok(())
    }

    fn request(&self, text: &str) -> Request {
        let prompt = if self.args.options.no_chat_template {
            Prompt::Text(text.to_owned())
        } else {
            let mut messages = self.messages.clone();
            messages.push(json!({"role": "user", "content": text}));
            Prompt::Chat(ChatPrompt { messages: messages.into(), ..ChatPrompt::default() })
        };
        Request {
            id: format!("turn-{}", self.turns),
            prompt,
            sampling: self.args.sampling.params(),
            limits: self.args.options.limits(),
            turn: Turn::default(),
            answer: AnswerOptions::default(),
        }
    }
}
