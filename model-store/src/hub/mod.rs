//! Repositories of a model hub, downloaded into a Hugging Face cache.
//!
//! Talks to the hub through `hf-hub`, and adds what that leaves to its user: resuming, pauses the
//! hub asks for, working offline, checksums. Chooses no files (`select`), keeps no layout of its
//! own (`cache`): Python's tools read and write the same directories.

pub(crate) mod cache;
mod fetch;
mod info;
mod retry;
mod select;
mod status;

use std::path::PathBuf;

use futures::{StreamExt, TryStreamExt};
use hf_hub::api::tokio::{Api, ApiBuilder, ApiError};

use self::cache::RepoCache;
use self::fetch::Download;
use self::info::{RemoteFile, RepoInfo};
use self::retry::RetryPolicy;
use crate::error::{OpenError, ResolveError};
use crate::options::StoreOptions;
use crate::progress::Progress;
use crate::reference::HubRef;

const PARALLEL_FILES: usize = 4;

/// A model in the hub cache.
#[derive(Debug)]
pub(crate) struct Found {
    /// The snapshot directory, or a `.gguf` file inside it.
    pub(crate) path: PathBuf,
    /// The licence the repository's card names; unknown without asking the hub.
    pub(crate) license: Option<String>,
}

/// A client of one hub with one cache.
#[derive(Debug)]
pub(crate) struct Hub {
    api: Api,
    options: StoreOptions,
}

impl Hub {
    pub(crate) fn new(options: StoreOptions) -> Result<Self, OpenError> {
        let endpoint = &options.endpoint;
        let parsed = reqwest::Url::parse(endpoint).ok();
        if !parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https")) {
            return Err(OpenError::Endpoint { endpoint: endpoint.clone() });
        }
        let api = ApiBuilder::from_cache(hf_hub::Cache::new(options.hub_cache_dir.clone()))
            .with_endpoint(endpoint.clone())
            .with_token(options.token.clone())
            .with_user_agent("mlxcel", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| match error {
                ApiError::InvalidHeaderValue(_) => OpenError::Token,
                other => OpenError::Client(Box::new(other)),
            })?;
        Ok(Self { api, options })
    }

    pub(crate) async fn resolve(
        &self,
        want: &HubRef,
        progress: &dyn Progress,
    ) -> Result<Found, ResolveError> {
        let cache = RepoCache::new(&self.options.hub_cache_dir, want);
        let cached = cache.find(want);
        if self.options.offline {
            return cached.map(Found::without_license).ok_or_else(|| ResolveError::Offline {
                model: want.to_string(),
                cache: self.options.hub_cache_dir.clone(),
            });
        }
        // A commit never changes, so a complete copy of it needs no question.
        if let (Some(path), true) = (&cached, cache::is_commit(want.revision_or_main())) {
            return Ok(Found::without_license(path.clone()));
        }
        let info = match (self.info(want, cached.is_some(), progress).await, cached) {
            (Ok(info), _) => info,
            (Err(ResolveError::Unreachable { endpoint, cause, .. }), Some(path)) => {
                tracing::warn!(model = %want, endpoint, cause, "using the cached copy");
                return Ok(Found::without_license(path));
            }
            (Err(error), _) => return Err(error),
        };
        self.download(want, &cache, info, progress).await
    }

    async fn download(
        &self,
        want: &HubRef,
        cache: &RepoCache,
        info: RepoInfo,
        progress: &dyn Progress,
    ) -> Result<Found, ResolveError> {
        let choice = select::choose(&info.names(), want)?;
        let missing: Vec<String> =
            choice.files.iter().filter(|name| !cache.has(&info.sha, name)).cloned().collect();
        let fetches = missing.iter().map(|name| async {
            let file = self.describe(want, &info, name).await?;
            self.fetch(want, Snapshot { cache, commit: &info.sha }, &file, progress).await
        });
        futures::stream::iter(fetches).buffer_unordered(PARALLEL_FILES).try_collect::<Vec<()>>().await?;
        // The name of the revision comes last: nobody finds half a snapshot by it.
        cache.write_ref(want.revision_or_main(), &info.sha)?;
        let snapshot = cache.snapshot(&info.sha);
        Ok(Found {
            path: match &choice.model {
                Some(file) => snapshot.join(file),
                None => snapshot,
            },
            license: info.license(),
        })
    }

    async fn fetch(
        &self,
        want: &HubRef,
        Snapshot { cache, commit }: Snapshot<'_>,
        file: &RemoteFile,
        progress: &dyn Progress,
    ) -> Result<(), ResolveError> {
        let download = Download {
            client: self.api.client(),
            url: self.repo(want, commit).url(&file.name),
            endpoint: &self.options.endpoint,
            want,
            file,
            blob: cache.blob(&file.etag),
            lock: cache.lock(&file.etag),
            retry: self.retry(),
            stall_timeout: self.options.stall_timeout,
            progress,
        };
        download.run().await?;
        cache.link(commit, &file.name, &file.etag)
    }

    fn repo(&self, want: &HubRef, revision: &str) -> hf_hub::api::tokio::ApiRepo {
        self.api.repo(hf_hub::Repo::with_revision(
            want.repo.clone(),
            hf_hub::RepoType::Model,
            revision.to_owned(),
        ))
    }

    fn retry(&self) -> RetryPolicy {
        RetryPolicy { max_retries: self.options.max_retries, first_backoff: self.options.first_backoff }
    }
}

/// Where the files of one commit go.
#[derive(Clone, Copy)]
struct Snapshot<'a> {
    cache: &'a RepoCache,
    commit: &'a str,
}

impl Found {
    fn without_license(path: PathBuf) -> Self {
        Self { path, license: None }
    }
}
