//! Chat templates: a conversation becomes the text a model was trained on.
//!
//! Renders with the environment that Hugging Face's `apply_chat_template` gives its templates.
//! Knows no tokens; what a conversation may be is OpenAI's API, what it becomes is the template's.

mod conversation;
mod environment;
mod python;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::SystemTime;

use minijinja::value::merge_maps;
use minijinja::{Environment, Value, context};
use serde_json::json;

use self::conversation::Conversation;
use super::error::one_line;
use super::{PromptError, TextAssets};
use crate::ChatPrompt;

/// The special tokens a template may name, such as `bos_token`; absent ones stay undefined.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens(BTreeMap<&'static str, String>);

impl SpecialTokens {
    pub(super) fn of(assets: &TextAssets) -> Self {
        let all = [
            ("bos_token", &assets.bos_token),
            ("eos_token", &assets.eos_token),
            ("unk_token", &assets.unk_token),
            ("pad_token", &assets.pad_token),
        ];
        Self(all.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))).collect())
    }
}

/// The chat templates of one model.
#[derive(Debug)]
pub(super) struct ChatTemplates {
    environment: Environment<'static>,
    special: SpecialTokens,
    chat: Option<Template>,
    tools: Option<Template>,
}

#[derive(Debug)]
struct Template {
    name: &'static str,
    /// The parser's complaint.
    broken: Option<String>,
    /// Whether the template iterates over content parts and ignores content that is a string.
    wants_parts: OnceLock<bool>,
}

impl ChatTemplates {
    pub(super) fn new(assets: &TextAssets, special: SpecialTokens) -> Self {
        let mut environment = environment::new();
        let mut add = |name: &'static str, source: &Option<String>| {
            let source = environment::without_generation_tags(source.as_deref()?);
            let broken = environment.add_template_owned(name, source).err();
            if let Some(error) = &broken {
                tracing::warn!(from = assets.source, %error, "chat template does not parse");
            }
            let broken = broken.map(|error| describe(&error));
            Some(Template { name, broken, wants_parts: OnceLock::new() })
        };
        let chat = add("chat", &assets.chat_template);
        let tools = add("tools", &assets.tool_template);
        Self { environment, special, chat, tools }
    }

    pub(super) fn is_present(&self) -> bool {
        self.chat.is_some() || self.tools.is_some()
    }

    /// Renders a conversation, by the template for tools where there is one and tools are given.
    pub(super) fn render(&self, chat: &ChatPrompt, now: SystemTime) -> Result<String, PromptError> {
        let conversation = Conversation::new(chat)?;
        let (first, second) = match conversation.has_tools() {
            true => (&self.tools, &self.chat),
            false => (&self.chat, &self.tools),
        };
        let template = first.as_ref().or(second.as_ref()).ok_or(PromptError::NoTemplate)?;
        if let Some(reason) = &template.broken {
            return Err(PromptError::BrokenTemplate(reason.clone()));
        }
        let wants_parts = template.wants_parts.get_or_init(|| self.wants_parts(template, now));
        let messages = match wants_parts {
            true => conversation.messages_with_parts(),
            false => conversation.messages_with_strings()?,
        };
        self.run(template, &conversation, messages, now)
            .map_err(|error| PromptError::Template(describe(&error)))
    }

    /// Asks the template itself: content it shows as parts but not as a string must be parts.
    fn wants_parts(&self, template: &Template, now: SystemTime) -> bool {
        let needle = "needle";
        let shows = |content: serde_json::Value| {
            let chat = ChatPrompt {
                messages: json!([{ "role": "user", "content": content }]),
                ..ChatPrompt::default()
            };
            Conversation::new(&chat).is_ok_and(|conversation| {
                let messages = Value::from_serialize(&chat.messages);
                self.run(template, &conversation, messages, now).is_ok_and(|text| text.contains(needle))
            })
        };
        !shows(json!(needle)) && shows(json!([{ "type": "text", "text": needle }]))
    }

    fn run(
        &self,
        template: &Template,
        conversation: &Conversation<'_>,
        messages: Value,
        now: SystemTime,
    ) -> Result<String, minijinja::Error> {
        // Where a name is given more than once, the last wins.
        let variables = merge_maps([
            Value::from_serialize(&self.special.0),
            context! {
                documents => Value::from(()),
                add_generation_prompt => true,
                strftime_now => environment::strftime(now),
            },
            conversation.variables(),
            context! { messages, tools => conversation.tools() },
        ]);
        self.environment.get_template(template.name)?.render(variables)
    }
}

/// One line: what the template itself raised, else what went wrong and where.
fn describe(error: &minijinja::Error) -> String {
    if let Some(message) = environment::raised(error) {
        return one_line(&message);
    }
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => one_line(&format!("{what} (line {line})")),
        None => one_line(&what),
    }
}
