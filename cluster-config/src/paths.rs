//! Where a host keeps what it must remember.
//!
//! Names directories; creates none. `identity` and `claim` own the files inside.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// No variable tells where the user's files are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot find a directory for mlxcel's state: {missing} is not set; set MLXCEL_STATE_DIR")]
pub struct StateDirError {
    missing: &'static str,
}

/// The directory of this user's mlxcel state.
///
/// `MLXCEL_STATE_DIR` where set; else `%LOCALAPPDATA%\mlxcel` on Windows, `~/Library/Application
/// Support/mlxcel` on macOS, and `$XDG_STATE_HOME/mlxcel` or `~/.local/state/mlxcel` elsewhere.
///
/// # Errors
/// None of the variables the platform uses is set.
pub fn state_dir() -> Result<PathBuf, StateDirError> {
    state_dir_on(std::env::consts::OS, |name| std::env::var_os(name))
}

/// Where a node keeps its identity and its claim.
#[must_use]
pub fn node_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("node")
}

/// Where a router keeps its cluster key.
#[must_use]
pub fn cluster_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("cluster")
}

fn state_dir_on(os: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, StateDirError> {
    let set = |name: &'static str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
            .ok_or(StateDirError { missing: name })
    };
    if let Ok(dir) = set("MLXCEL_STATE_DIR") {
        return Ok(dir);
    }
    match os {
        "windows" => Ok(set("LOCALAPPDATA")?.join("mlxcel")),
        "macos" => Ok(set("HOME")?.join("Library/Application Support/mlxcel")),
        // The specification says a relative path is to be ignored.
        _ => match set("XDG_STATE_HOME").ok().filter(|dir| dir.has_root()) {
            Some(dir) => Ok(dir.join("mlxcel")),
            None => Ok(set("HOME")?.join(".local/state/mlxcel")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(os: &str, variables: &[(&str, &str)]) -> Result<PathBuf, StateDirError> {
        state_dir_on(os, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn each_platform_has_its_own_place() {
        let home = ("HOME", "/home/a");
        let cases = [
            ("linux", vec![home], "/home/a/.local/state/mlxcel"),
            ("linux", vec![home, ("XDG_STATE_HOME", "/s")], "/s/mlxcel"),
            ("linux", vec![home, ("XDG_STATE_HOME", "relative")], "/home/a/.local/state/mlxcel"),
            ("macos", vec![home], "/home/a/Library/Application Support/mlxcel"),
            ("windows", vec![("LOCALAPPDATA", "/local")], "/local/mlxcel"),
        ];
        for (os, variables, expected) in cases {
            assert_eq!(dir(os, &variables), Ok(PathBuf::from(expected)), "{os}");
        }
    }

    #[test]
    fn own_variable_wins_everywhere_unless_empty() {
        for os in ["linux", "macos", "windows"] {
            let own = ("MLXCEL_STATE_DIR", "/own");
            assert_eq!(dir(os, &[own]), Ok(PathBuf::from("/own")));
        }
        assert_eq!(
            dir("linux", &[("MLXCEL_STATE_DIR", ""), ("HOME", "/h")]),
            Ok(PathBuf::from("/h/.local/state/mlxcel"))
        );
    }

    #[test]
    fn missing_home_is_named_with_the_mend() {
        assert_eq!(
            dir("linux", &[]).expect_err("nothing set").to_string(),
            "cannot find a directory for mlxcel's state: HOME is not set; set MLXCEL_STATE_DIR"
        );
    }
}
