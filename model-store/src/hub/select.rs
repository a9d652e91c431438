//! Which files of a repository make a model.
//!
//! Looks at names only. Prefers safetensors to GGUF where a repository has both, and asks the
//! user where several GGUF files could be meant.

use crate::error::ResolveError;
use crate::reference::{HubFile, HubRef};

/// The files to have, and the one that is the model where it is a single file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) files: Vec<String>,
    pub(crate) model: Option<String>,
}

/// Chooses from the names of all files in a repository.
pub(crate) fn choose(names: &[String], want: &HubRef) -> Result<Choice, ResolveError> {
    if let Some(file) = &want.file {
        return named_gguf(names, want, file);
    }
    let weights = safetensors(names);
    if !weights.is_empty() {
        let mut files: Vec<String> = names.iter().filter(|n| is_side_file(n)).cloned().collect();
        files.extend(weights);
        return Ok(Choice { files, model: None });
    }
    let ggufs = ggufs(names);
    match ggufs.as_slice() {
        [] => Err(ResolveError::NoWeights { repo: want.repo.clone() }),
        [only] => Ok(single(only)),
        several => Err(ResolveError::ChooseFile { repo: want.repo.clone(), candidates: several.join(", ") }),
    }
}

/// Every `.gguf` file among `names`.
pub(crate) fn ggufs(names: &[String]) -> Vec<&str> {
    let all = names.iter().map(String::as_str);
    all.filter(|name| name.ends_with(".gguf")).collect()
}

fn named_gguf(names: &[String], want: &HubRef, file: &HubFile) -> Result<Choice, ResolveError> {
    let ggufs = ggufs(names);
    let (asked, matching): (&str, Vec<&str>) = match file {
        HubFile::Path(path) => {
            let exact = ggufs.iter().copied().filter(|name| name == path);
            (path, exact.collect())
        }
        HubFile::Tag(tag) => {
            let tagged = ggufs.iter().copied().filter(|name| has_tag(name, tag));
            (tag, tagged.collect())
        }
    };
    match matching.as_slice() {
        [only] => Ok(single(only)),
        [] => Err(ResolveError::NoSuchFile {
            repo: want.repo.clone(),
            file: asked.to_owned(),
            candidates: match ggufs.is_empty() {
                true => "no GGUF files".to_owned(),
                false => ggufs.join(", "),
            },
        }),
        several => Err(ResolveError::ChooseFile { repo: want.repo.clone(), candidates: several.join(", ") }),
    }
}

fn single(gguf: &str) -> Choice {
    Choice { files: vec![gguf.to_owned()], model: Some(gguf.to_owned()) }
}

/// `Q4_K` must not match `Q4_K_M`, so the tag has to end where a word ends.
fn has_tag(name: &str, tag: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let tag = tag.to_ascii_lowercase();
    let ends_word = |c: Option<char>| c.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '_'));
    name.match_indices(&tag).any(|(at, _)| {
        ends_word(name[..at].chars().next_back()) && ends_word(name[at + tag.len()..].chars().next())
    })
}

/// `model*.safetensors` where there are any: Meta and Mistral put a second copy of the weights
/// beside them under other names.
fn safetensors(names: &[String]) -> Vec<String> {
    let is_weight = |name: &&String| name.ends_with(".safetensors") && !name.contains('/');
    let all: Vec<String> = names.iter().filter(is_weight).cloned().collect();
    let (model, other): (Vec<String>, Vec<String>) =
        all.into_iter().partition(|name| name.starts_with("model"));
    if model.is_empty() { other } else { model }
}

/// The top-level files beside the weights that the engine or a licence asks for.
fn is_side_file(name: &str) -> bool {
    const EXACT: &[&str] = &[
        "added_tokens.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "vocab.json",
    ];
    const PREFIXES: &[&str] = &["tokenizer", "chat_template", "LICENSE"];
    !name.contains('/')
        && (EXACT.contains(&name)
            || name.ends_with(".safetensors.index.json")
            || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::ModelRef;

    fn pick(reference: &str, names: &[&str]) -> Result<Choice, ResolveError> {
        let Ok(ModelRef::Hub(want)) = ModelRef::parse(reference) else {
            panic!("{reference} is no hub reference");
        };
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        choose(&names, &want)
    }

    #[test]
    fn a_safetensors_repository_gives_weights_and_what_text_needs() {
        let names = [
            "README.md",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "onnx/model.safetensors",
        ];
        let mut files = pick("o/n", &names).expect("weights are there").files;
        files.sort();
        let expected = [
            "chat_template.jinja",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn a_single_gguf_is_the_model() {
        let choice = pick("o/n", &["README.md", "m.gguf"]).expect("one model");
        assert_eq!(choice.model.as_deref(), Some("m.gguf"));
    }

    #[test]
    fn several_ggufs_are_listed_to_choose_from() {
        let error = pick("o/n", &["a.gguf", "b.gguf"]).expect_err("two models");
        let text = "o/n holds several models; name one, as in o/n/FILE: a.gguf, b.gguf";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_tag_matches_whole_words_without_regard_to_case() {
        let names = ["m-Q4_K_M.gguf", "m-Q4_K.gguf", "m-q4_0.gguf"];
        let choice = pick("o/n:q4_k", &names).expect("one match");
        assert_eq!(choice.model.as_deref(), Some("m-Q4_K.gguf"));
        let choice = pick("o/n:Q4_0", &names).expect("one match");
        assert_eq!(choice.model.as_deref(), Some("m-q4_0.gguf"));
    }

    #[test]
    fn a_missing_file_names_those_there_are() {
        let error = pick("o/n/x.gguf", &["a.gguf"]).expect_err("no such file");
        assert_eq!(error.to_string(), "o/n has no file `x.gguf`; it has: a.gguf");
    }

    #[test]
    fn a_repository_without_weights_is_refused() {
        let error = pick("o/n", &["README.md", "pytorch_model.bin"]).expect_err("no weights");
        assert!(matches!(error, ResolveError::NoWeights { .. }));
    }
}
