//! From a model's name to its files, and to a running engine.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use mlxcel_engine::{Engine, LoadOptions, load};
use mlxcel_model_store::{ModelRef, Store, StoreOptions, TerminalProgress};

use crate::args::{ModelArgs, TraceArgs};
use crate::terminal::Progress;

/// The store this user's environment names.
pub(crate) fn open_store() -> Result<Store> {
    Ok(Store::open(StoreOptions::from_env()?)?)
}

/// Where the files of a model are, after fetching what is missing.
pub(crate) async fn resolve(model: &str) -> Result<PathBuf> {
    let reference: ModelRef = model.parse()?;
    let progress = TerminalProgress::new();
    Ok(open_store()?.resolve(&reference, &progress).await?.path)
}

/// A running engine for the model.
pub(crate) async fn load_model(args: &ModelArgs, trace: &TraceArgs) -> Result<Box<dyn Engine>> {
    let trace = trace.create()?.map(Arc::new);
    let path = resolve(&args.model).await?;
    let draft = match &args.loading.draft.draft_model {
        Some(model) => Some(args.loading.draft.options(resolve(model).await?)),
        None => None,
    };
    let options = LoadOptions { trace, draft, ..args.load_options()? };
    let loading = tokio::task::spawn_blocking(move || {
        let mut progress = Progress::new();
        let engine =
            load(&path, &options, &mut |step| progress.update(&step.what, step.done_bytes, step.total_bytes));
        progress.finish();
        engine
    });
    Ok(loading.await.context("loading was interrupted")??)
}
