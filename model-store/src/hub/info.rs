//! What a hub says a repository holds.
//!
//! One request names the commit and every file with its size and checksum. Trusts no name it is
//! given: what could leave the cache directory is left out.

use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;

use super::Hub;
use super::cache::is_commit;
use super::retry::RetryPolicy;
use super::status::{Failure, innermost, refusal, unreachable};
use crate::error::ResolveError;
use crate::progress::{Event, Progress};
use crate::reference::HubRef;

/// How long a hub may take to answer when a cached copy would do.
const PATIENCE_WITH_CACHE: Duration = Duration::from_secs(5);

/// A repository at one commit.
#[derive(Debug, Deserialize)]
pub(crate) struct RepoInfo {
    pub(crate) sha: String,
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData", default)]
    card: Value,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
}

/// One file to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    /// The blob's name in the cache: sha256 for large files, git's object id for others.
    pub(crate) etag: String,
    pub(crate) size: u64,
    pub(crate) sha256: Option<String>,
}

impl RepoInfo {
    /// The files whose names are safe to use as paths.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.siblings.iter().map(|file| &file.rfilename);
        names.filter(|name| is_safe_path(name)).cloned().collect()
    }

    pub(crate) fn license(&self) -> Option<String> {
        match self.card.get("license")? {
            Value::Array(several) => several.first()?.as_str().map(str::to_owned),
            one => one.as_str().map(str::to_owned),
        }
    }

    fn file(&self, name: &str) -> Option<RemoteFile> {
        let found = self.siblings.iter().find(|file| file.rfilename == name)?;
        let sha256 = found.lfs.as_ref().map(|lfs| lfs.sha256.to_ascii_lowercase());
        Some(RemoteFile {
            name: name.to_owned(),
            etag: sha256.clone().or_else(|| found.blob_id.clone())?,
            size: found.size?,
            sha256,
        })
    }
}

impl Hub {
    /// Asks for the repository at the wanted revision; does not insist when `cached`.
    pub(crate) async fn info(
        &self,
        want: &HubRef,
        cached: bool,
        progress: &dyn Progress,
    ) -> Result<RepoInfo, ResolveError> {
        let mut policy = self.retry();
        let mut patience = self.options.stall_timeout;
        if cached {
            policy.max_retries = policy.max_retries.min(1);
            patience = patience.min(PATIENCE_WITH_CACHE);
        }
        let info = self.ask(want, policy, patience, progress).await?;
        if !is_commit(&info.sha) {
            return Err(self.confused(want, format!("`{}` is no commit", info.sha)));
        }
        Ok(info)
    }

    async fn ask(
        &self,
        want: &HubRef,
        policy: RetryPolicy,
        patience: Duration,
        progress: &dyn Progress,
    ) -> Result<RepoInfo, ResolveError> {
        let mut failures = 0;
        loop {
            let failure = match self.ask_once(want, patience).await {
                Ok(info) => return Ok(info),
                Err(failure) => failure,
            };
            failures += 1;
            let pause = policy.pause(failures, failure.retry_after);
            // A host without a network should hear so soon.
            let is_unreachable = matches!(failure.error, ResolveError::Unreachable { .. });
            let hopeless = !failure.may_pass || (is_unreachable && failures > 2);
            let Some(wait) = pause.filter(|_| !hopeless) else {
                return Err(failure.error);
            };
            let reason = failure.error.to_string();
            progress.event(Event::Retrying { file: &want.repo, wait, reason: &reason });
            tokio::time::sleep(wait).await;
        }
    }

    async fn ask_once(&self, want: &HubRef, patience: Duration) -> Result<RepoInfo, Failure> {
        let endpoint = &self.options.endpoint;
        let request = self
            .repo(want, want.revision_or_main())
            .info_request()
            .query(&[("blobs", "true")])
            .timeout(patience);
        let sent = request.send().await;
        let response = sent.map_err(|e| unreachable(innermost(&e), want, endpoint))?;
        if !response.status().is_success() {
            return Err(refusal(&response, want, endpoint));
        }
        self.parse(want, response).await
    }

    async fn parse(&self, want: &HubRef, response: Response) -> Result<RepoInfo, Failure> {
        let body = response.bytes().await;
        let body = body.map_err(|e| unreachable(innermost(&e), want, &self.options.endpoint))?;
        serde_json::from_slice(&body)
            .map_err(|e| Failure::fatal(self.confused(want, format!("its listing is unreadable: {e}"))))
    }

    /// Size and checksum of one file; asked for by itself where the listing lacks them, as on
    /// mirrors that ignore `blobs=true`.
    pub(crate) async fn describe(
        &self,
        want: &HubRef,
        info: &RepoInfo,
        name: &str,
    ) -> Result<RemoteFile, ResolveError> {
        let file = match info.file(name) {
            Some(file) => file,
            None => {
                let url = self.repo(want, &info.sha).url(name);
                let metadata = self.api.metadata(&url).await;
                let metadata = metadata.map_err(|e| self.confused(want, innermost(&e)))?;
                RemoteFile {
                    name: name.to_owned(),
                    etag: metadata.etag().trim_start_matches("W/").to_owned(),
                    size: metadata.size() as u64,
                    sha256: None,
                }
            }
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if file.etag.is_empty() || !file.etag.chars().all(plain) {
            return Err(self.confused(want, format!("`{}` is no checksum", file.etag)));
        }
        Ok(file)
    }

    fn confused(&self, want: &HubRef, what: String) -> ResolveError {
        ResolveError::Protocol { url: format!("{}/{}", self.options.endpoint, want.repo), what }
    }
}

/// Whether a name stays inside the directory it is joined to, and inside its URL.
fn is_safe_path(name: &str) -> bool {
    let good = |part: &str| {
        let odd = ['\\', ':', '#', '?', '%', '\0'];
        !part.is_empty() && part != "." && part != ".." && !part.contains(odd)
    };
    name.split('/').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> RepoInfo {
        serde_json::from_str(json).expect("a listing")
    }

    #[test]
    fn large_files_go_by_their_sha256_and_small_ones_by_gits_id() {
        let info = info(
            r#"{"sha": "c", "siblings": [
                {"rfilename": "a", "size": 3, "blobId": "b1"},
                {"rfilename": "m", "size": 9, "blobId": "b2", "lfs": {"sha256": "AB", "size": 9}}]}"#,
        );
        let small = info.file("a").expect("listed");
        assert_eq!((small.etag.as_str(), small.size), ("b1", 3));
        let large = info.file("m").expect("listed");
        assert_eq!((large.etag.as_str(), large.sha256.as_deref()), ("ab", Some("ab")));
    }

    #[test]
    fn a_licence_may_be_a_word_or_a_list() {
        let one = info(r#"{"sha": "c", "siblings": [], "cardData": {"license": "mit"}}"#);
        let list = info(r#"{"sha": "c", "siblings": [], "cardData": {"license": ["mit"]}}"#);
        assert_eq!(one.license().as_deref(), Some("mit"));
        assert_eq!(list.license().as_deref(), Some("mit"));
        assert_eq!(info(r#"{"sha": "c", "siblings": []}"#).license(), None);
    }

    #[test]
    fn names_that_leave_the_cache_are_unsafe() {
        for name in ["../x", "a/../../x", "/x", "a//b", r"a\b", "C:x", ""] {
            assert!(!is_safe_path(name), "{name}");
        }
        assert!(is_safe_path("sub/model-00001.safetensors"));
    }
}
