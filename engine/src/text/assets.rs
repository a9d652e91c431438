//! What a checkpoint says about text, as plain data.
//!
//! Reads the files a Hugging Face model directory holds; a GGUF reader fills the same struct
//! from its metadata. Interprets nothing: `TextCodec` turns it into a tokenizer and a template.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use super::TextError;

/// Everything a model needs to read and write text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextAssets {
    /// Where it came from (a path), for messages.
    pub source: String,
    /// The bytes of a `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The chat template, in Jinja; none for a base model.
    pub chat_template: Option<String>,
    /// Another template for conversations with tools, where the model has one.
    pub tool_template: Option<String>,
    /// The text of the beginning-of-sequence token.
    pub bos_token: Option<String>,
    /// The text of the end-of-sequence token.
    pub eos_token: Option<String>,
    /// The text of the unknown token.
    pub unk_token: Option<String>,
    /// The text of the padding token.
    pub pad_token: Option<String>,
    /// Ids that end generation, besides that of `eos_token`; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Whether plain text is preceded by `bos_token`; when absent, the tokenizer's own
    /// post-processor decides.
    pub add_bos: Option<bool>,
}

impl TextAssets {
    /// Reads `tokenizer.json` and, where they exist, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, `chat_template.json`,
    /// `additional_chat_templates/tool_use.jinja`, `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// `tokenizer.json` is absent, or one of the files cannot be read or is not what it should be.
    pub fn from_dir(dir: &Path) -> Result<Self, TextError> {
        let tokenizer_path = dir.join("tokenizer.json");
        let Some(tokenizer) = read(&tokenizer_path)? else {
            return Err(TextError::Missing { mend: missing_mend(dir), path: tokenizer_path });
        };
        let config = Settings::read(dir, "tokenizer_config.json")?;
        let special = Settings::read(dir, "special_tokens_map.json")?;
        let token = |key: &str| match config.token(key)? {
            Some(text) => Ok(Some(text)),
            None => special.token(key),
        };
        let templates = Templates::read(dir, &config)?;
        Ok(Self {
            source: tokenizer_path.display().to_string(),
            tokenizer,
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            unk_token: token("unk_token")?,
            pad_token: token("pad_token")?,
            eos_token_ids: eos_token_ids(dir)?,
            add_bos: add_bos(&config),
            chat_template: templates.chat,
            tool_template: templates.tools,
        })
    }
}

/// Generation's own list of end-of-sequence ids, else the model's.
fn eos_token_ids(dir: &Path) -> Result<Vec<u32>, TextError> {
    for name in ["generation_config.json", "config.json"] {
        let settings = Settings::read(dir, name)?;
        let nested = settings.get("text_config").and_then(|text| text.get("eos_token_id"));
        let Some(value) = settings.get("eos_token_id").or(nested) else {
            continue;
        };
        let values = match value {
            Value::Null => continue,
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        let ids: Option<BTreeSet<u32>> =
            values.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
        return match ids {
            Some(ids) => Ok(ids.into_iter().collect()),
            None => Err(settings.malformed("eos_token_id must be a token id or a list of them")),
        };
    }
    Ok(Vec::new())
}

/// `add_bos_token`, for the tokenizer classes that obey it; the others leave it to the
/// post-processor in `tokenizer.json`, whatever the setting says.
fn add_bos(config: &Settings) -> Option<bool> {
    let class = config.get("tokenizer_class")?.as_str()?;
    let obeys = ["Llama", "CodeLlama", "Gemma", "Cohere"].iter().any(|name| class.starts_with(name));
    if obeys { config.get("add_bos_token")?.as_bool() } else { None }
}

fn missing_mend(dir: &Path) -> String {
    let sentencepiece = dir.join("tokenizer.model").exists();
    match sentencepiece {
        true => "convert tokenizer.model with transformers' AutoTokenizer and save_pretrained".into(),
        false => "fetch it from where the model came from".into(),
    }
}

#[derive(Default)]
struct Templates {
    chat: Option<String>,
    tools: Option<String>,
}

impl Templates {
    /// A template in its own file wins over one inside `tokenizer_config.json`.
    fn read(dir: &Path, config: &Settings) -> Result<Self, TextError> {
        let mut templates = Self::default();
        if let Some(value) = config.get("chat_template") {
            templates.take(value, config)?;
        }
        let processor = Settings::read(dir, "chat_template.json")?;
        if let Some(value) = processor.get("chat_template") {
            templates.take(value, &processor)?;
        }
        for (file, slot) in [
            ("chat_template.jinja", &mut templates.chat),
            ("additional_chat_templates/tool_use.jinja", &mut templates.tools),
        ] {
            let path = dir.join(file);
            if let Some(bytes) = read(&path)? {
                *slot = Some(
                    String::from_utf8(bytes)
                        .map_err(|_| TextError::Malformed { path, reason: "not UTF-8".into() })?,
                );
            }
        }
        Ok(templates)
    }

    fn take(&mut self, value: &Value, from: &Settings) -> Result<(), TextError> {
        let wrong = || from.malformed("chat_template must be a string or a list of {name, template}");
        match value {
            Value::Null => {}
            Value::String(text) => self.chat = Some(text.clone()),
            Value::Array(entries) => {
                for entry in entries {
                    let field = |key| entry.get(key).and_then(Value::as_str).ok_or_else(wrong);
                    match field("name")? {
                        "default" => self.chat = Some(field("template")?.to_owned()),
                        "tool_use" => self.tools = Some(field("template")?.to_owned()),
                        _ => {}
                    }
                }
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

/// A JSON object from a file; empty where the file is absent.
struct Settings {
    path: std::path::PathBuf,
    values: Map<String, Value>,
}

impl Settings {
    fn read(dir: &Path, name: &str) -> Result<Self, TextError> {
        let path = dir.join(name);
        let Some(bytes) = read(&path)? else {
            return Ok(Self { path, values: Map::new() });
        };
        match serde_json::from_slice(&bytes) {
            Ok(values) => Ok(Self { path, values }),
            Err(error) => Err(TextError::Malformed { path, reason: error.to_string() }),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A token written as a string or as an object with `content`.
    fn token(&self, key: &str) -> Result<Option<String>, TextError> {
        match self.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value) => match value.get("content").and_then(Value::as_str) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(self.malformed(&format!("{key} must be a string or have content"))),
            },
        }
    }

    fn malformed(&self, reason: &str) -> TextError {
        TextError::Malformed { path: self.path.clone(), reason: reason.to_owned() }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TextError::Unreadable { path: path.to_owned(), reason: error.to_string() }),
    }
}
