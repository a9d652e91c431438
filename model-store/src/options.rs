//! What the environment says about where models are kept and fetched from.
//!
//! The variables are those of Hugging Face's own tools, so that one set-up and one cache serve
//! both. Reads them once; `Store` never looks at the environment again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::OpenError;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where models are kept and how they are fetched.
#[derive(Clone)]
pub struct StoreOptions {
    /// Models imported from packages; also holds lock files.
    pub cache_dir: PathBuf,
    /// A Hugging Face hub cache: `models--owner--name/{blobs,refs,snapshots}`.
    pub hub_cache_dir: PathBuf,
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Sent as a bearer token to the hub, never to where it redirects.
    pub token: Option<String>,
    /// Ask the hub nothing; use what is in the cache.
    pub offline: bool,
    /// The Python that runs `pip download`; `python3` and `python` are tried where absent.
    pub python: Option<PathBuf>,
    /// Attempts in a row without a byte of progress before a request is given up.
    pub max_retries: u32,
    /// The pause after the first failed attempt; it doubles with every further one.
    pub first_backoff: Duration,
    /// A connection that stays silent for this long counts as broken.
    pub stall_timeout: Duration,
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of logs.
        f.debug_struct("StoreOptions")
            .field("cache_dir", &self.cache_dir)
            .field("hub_cache_dir", &self.hub_cache_dir)
            .field("endpoint", &self.endpoint)
            .field("token_set", &self.token.is_some())
            .field("offline", &self.offline)
            .field("python", &self.python)
            .finish_non_exhaustive()
    }
}

impl StoreOptions {
    /// Reads `MLXCEL_CACHE_DIR`, `MLXCEL_PYTHON`, `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`,
    /// `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`,
    /// `XDG_CACHE_HOME`, and the token file of `hf auth login`.
    ///
    /// # Errors
    /// [`OpenError::NoHome`] where a default directory needs a home and there is none.
    pub fn from_env() -> Result<Self, OpenError> {
        Self::from_variables(std::env::home_dir(), |name| std::env::var_os(name))
    }

    /// Everything below `dir`, the public hub, no token.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self {
            hub_cache_dir: dir.join("hub"),
            cache_dir: dir,
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            offline: false,
            python: None,
            max_retries: 5,
            first_backoff: Duration::from_millis(500),
            stall_timeout: Duration::from_secs(30),
        }
    }

    fn from_variables(
        home: Option<PathBuf>,
        get: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, OpenError> {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let user_cache = || match path("XDG_CACHE_HOME") {
            Some(dir) => Ok(dir),
            None => home.clone().map(|dir| dir.join(".cache")).ok_or(OpenError::NoHome),
        };
        let hf_home = match path("HF_HOME") {
            Some(dir) => dir,
            None => user_cache()?.join("huggingface"),
        };
        let hub_cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache_dir = match (path("MLXCEL_CACHE_DIR"), path("LOCALAPPDATA")) {
            (Some(dir), _) => dir,
            (None, Some(dir)) if cfg!(windows) => dir.join("mlxcel"),
            (None, _) => user_cache()?.join("mlxcel"),
        };
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = if text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|v| is_true(&v)) {
            None
        } else {
            text("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok())
        };
        Ok(Self {
            cache_dir: cache_dir.join("models"),
            hub_cache_dir: hub_cache.unwrap_or_else(|| hf_home.join("hub")),
            endpoint: text("HF_ENDPOINT")
                .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            offline: text("HF_HUB_OFFLINE").is_some_and(|v| is_true(&v)),
            python: path("MLXCEL_PYTHON"),
            ..Self::at("")
        })
    }
}

/// The values Hugging Face's own tools take for yes.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> StoreOptions {
        let get = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        StoreOptions::from_variables(Some("/home/u".into()), get).expect("a home is given")
    }

    #[test]
    fn the_defaults_are_those_of_the_python_tools() {
        let options = options(&[]);
        let hub = PathBuf::from("/home/u/.cache/huggingface/hub");
        assert_eq!(options.hub_cache_dir, hub);
        assert_eq!(options.endpoint, "https://huggingface.co");
        assert!(!options.offline);
    }

    #[test]
    fn hub_cache_wins_over_hf_home_and_hf_home_over_xdg() {
        let all = [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c")];
        assert_eq!(options(&all).hub_cache_dir, PathBuf::from("/a"));
        assert_eq!(options(&all[1..]).hub_cache_dir, PathBuf::from("/b/hub"));
        let xdg = PathBuf::from("/c/huggingface/hub");
        assert_eq!(options(&all[2..]).hub_cache_dir, xdg);
    }

    #[test]
    fn a_token_comes_from_the_variable_before_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("token"), "hf_file\n").expect("a token file");
        let home = dir.path().to_str().expect("a utf-8 path");
        let file = options(&[("HF_HOME", home)]);
        assert_eq!(file.token.as_deref(), Some("hf_file"));
        let variable = options(&[("HF_HOME", home), ("HF_TOKEN", "hf_var")]);
        assert_eq!(variable.token.as_deref(), Some("hf_var"));
        let refused = [("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(options(&refused).token, None);
    }

    #[test]
    fn offline_takes_the_spellings_of_the_python_tools() {
        for (value, offline) in [("1", true), ("TRUE", true), ("Yes", true), ("0", false), ("", false)] {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
    }

    #[test]
    fn a_debug_print_shows_no_token() {
        let shown = format!("{:?}", options(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("hf_secret"), "{shown}");
    }
}
