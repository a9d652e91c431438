//! What a person types to name a model, parsed.
//!
//! Looks at the file system only to see whether a path exists; resolves nothing. Whether an alias
//! or a repository exists is for `Store::resolve` to find out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A model as named by a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelRef {
    /// A directory of safetensors, or a `.gguf` file.
    Path(PathBuf),
    /// A repository of a model hub.
    Hub(HubRef),
    /// A short name from the alias table, as typed.
    Alias(String),
}

/// A repository of a model hub, written `owner/name[/FILE.gguf | :TAG][@REVISION]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRef {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit; the hub's `main` where absent.
    pub revision: Option<String>,
    /// One file of a repository that holds several models.
    pub file: Option<HubFile>,
}

/// How one GGUF file of a repository is picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubFile {
    /// Its exact path inside the repository.
    Path(String),
    /// A part of its name, such as `Q4_0`; matched without regard to case.
    Tag(String),
}

/// A name that is no path, no repository and no alias.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRefError {
    /// Nothing was given.
    #[error("a model name must not be empty; give a path, owner/name or an alias")]
    Empty,
    /// A hub name that breaks the hub's rules.
    #[error(
        "`{name}` is not a model: no such path, and a hub name is owner/name[/file.gguf][@revision] of letters, digits, '-', '_' and '.'"
    )]
    HubName {
        /// What was given.
        name: String,
    },
    /// `~` was given and the home directory is unknown.
    #[error("cannot expand `{name}`: no home directory is set; write the path out")]
    NoHome {
        /// What was given.
        name: String,
    },
}

impl ModelRef {
    /// Parses a path, `owner/name[/FILE.gguf | :TAG][@REVISION]` or an alias.
    ///
    /// A path is what exists on this host, or starts with `.`, `/`, `\`, `~` or a drive letter.
    ///
    /// # Errors
    /// Empty input, a malformed repository name, or `~` without a home directory.
    pub fn parse(name: &str) -> Result<Self, ParseRefError> {
        if name.is_empty() {
            return Err(ParseRefError::Empty);
        }
        if looks_like_path(name) {
            return expand_home(name).map(Self::Path);
        }
        if Path::new(name).exists() {
            return Ok(Self::Path(PathBuf::from(name)));
        }
        if name.contains('/') {
            return HubRef::parse(name).map(Self::Hub);
        }
        if name.ends_with(".gguf") {
            return Ok(Self::Path(PathBuf::from(name)));
        }
        if !is_hub_segment(name) {
            return Err(bad_hub_name(name));
        }
        Ok(Self::Alias(name.to_owned()))
    }
}

impl FromStr for ModelRef {
    type Err = ParseRefError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Hub(hub) => hub.fmt(f),
            Self::Alias(name) => f.write_str(name),
        }
    }
}

impl HubRef {
    fn parse(text: &str) -> Result<Self, ParseRefError> {
        let bad = || bad_hub_name(text);
        let (name, revision) = match text.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (text, None),
        };
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(bad());
        }
        let (owner, rest) = name.split_once('/').ok_or_else(bad)?;
        let (model, file) = if let Some((model, path)) = rest.split_once('/') {
            (model, Some(HubFile::Path(path.to_owned())))
        } else if let Some((model, tag)) = rest.split_once(':') {
            (model, Some(HubFile::Tag(tag.to_owned())))
        } else {
            (rest, None)
        };
        let file_is_good = match &file {
            None => true,
            Some(HubFile::Tag(tag)) => is_hub_segment(tag),
            Some(HubFile::Path(path)) => path.ends_with(".gguf") && path.split('/').all(is_hub_segment),
        };
        if !is_hub_segment(owner) || !is_hub_segment(model) || !file_is_good {
            return Err(bad());
        }
        Ok(Self { repo: format!("{owner}/{model}"), revision: revision.map(str::to_owned), file })
    }

    /// The revision asked for, or the hub's default branch.
    #[must_use]
    pub fn revision_or_main(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        match &self.file {
            Some(HubFile::Path(path)) => write!(f, "/{path}")?,
            Some(HubFile::Tag(tag)) => write!(f, ":{tag}")?,
            None => {}
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

fn bad_hub_name(name: &str) -> ParseRefError {
    ParseRefError::HubName { name: name.to_owned() }
}

fn looks_like_path(name: &str) -> bool {
    let bytes = name.as_bytes();
    let drive = bytes.len() >= 3 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
    name.starts_with(['.', '/', '\\', '~']) || (drive && matches!(bytes[2], b'\\' | b'/'))
}

fn expand_home(name: &str) -> Result<PathBuf, ParseRefError> {
    let Some(rest) = name.strip_prefix('~') else {
        return Ok(PathBuf::from(name));
    };
    let home = std::env::home_dir().ok_or_else(|| ParseRefError::NoHome { name: name.to_owned() })?;
    match rest.strip_prefix(['/', '\\']) {
        Some(inside) => Ok(home.join(inside)),
        None if rest.is_empty() => Ok(home),
        // `~other` is another user's home, which only a shell can find.
        None => Ok(PathBuf::from(name)),
    }
}

/// The hub's alphabet; `.` and `..` would leave the cache directory.
fn is_hub_segment(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text != "." && text != ".." && text.chars().all(allowed)
}

fn is_revision(text: &str) -> bool {
    text.split('/').all(is_hub_segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> HubRef {
        match ModelRef::parse(text) {
            Ok(ModelRef::Hub(hub)) => hub,
            other => panic!("{text} parsed as {other:?}"),
        }
    }

    #[test]
    fn owner_and_name_is_a_hub_repository() {
        let parsed = hub("Qwen/Qwen3-0.6B");
        assert_eq!(parsed.repo, "Qwen/Qwen3-0.6B");
        assert_eq!(parsed.revision_or_main(), "main");
        assert_eq!(parsed.file, None);
    }

    #[test]
    fn a_revision_may_contain_slashes() {
        let parsed = hub("owner/name@refs/pr/1");
        assert_eq!(parsed.revision.as_deref(), Some("refs/pr/1"));
    }

    #[test]
    fn one_gguf_file_is_named_by_path_or_tag() {
        let path = HubFile::Path("sub/model.Q4_0.gguf".to_owned());
        assert_eq!(hub("owner/name/sub/model.Q4_0.gguf@v1").file, Some(path));
        let tag = HubFile::Tag("Q4_0".to_owned());
        assert_eq!(hub("owner/name:Q4_0").file, Some(tag));
    }

    #[test]
    fn what_is_displayed_parses_to_the_same_reference() {
        for text in ["o/n", "o/n@v1", "o/n:Q4_0@v1", "o/n/a/b.gguf"] {
            assert_eq!(hub(text).to_string(), text);
        }
    }

    #[test]
    fn names_that_could_leave_the_cache_are_refused() {
        for text in ["o/..", "o/n@../../x", "o/n/../x.gguf", "o/n@", "o/", "o/n:", "o/n/x.bin"] {
            assert_eq!(ModelRef::parse(text), Err(bad_hub_name(text)), "{text}");
        }
    }

    #[test]
    fn dots_slashes_and_drives_start_paths() {
        for text in ["./m", "../m", "/m", r"C:\models\m", "c:/m", r"\\host\m"] {
            assert_eq!(ModelRef::parse(text), Ok(ModelRef::Path(text.into())));
        }
    }

    #[test]
    fn an_existing_entry_is_a_path_whatever_its_name() {
        assert_eq!(ModelRef::parse("src"), Ok(ModelRef::Path("src".into())));
    }

    #[test]
    fn a_tilde_is_the_home_directory() {
        let home = std::env::home_dir().expect("tests run with a home");
        assert_eq!(ModelRef::parse("~/m"), Ok(ModelRef::Path(home.join("m"))));
    }

    #[test]
    fn a_bare_word_is_an_alias() {
        let alias = ModelRef::Alias("SmolLM2".to_owned());
        assert_eq!(ModelRef::parse("SmolLM2"), Ok(alias));
    }
}
