//! `mlxcel download`, `list` and `rm`.

use anyhow::Result;
use mlxcel_model_store::{ModelRef, TerminalProgress};
use serde_json::json;

use super::loading::open_store;
use crate::args::{DownloadArgs, ListArgs, RmArgs};

pub(crate) async fn download(args: DownloadArgs) -> Result<()> {
    let reference: ModelRef = args.model.parse()?;
    let resolved = open_store()?.resolve(&reference, &TerminalProgress::new()).await?;
    if args.json {
        println!("{:#}", json!({"model": args.model, "path": resolved.path}));
    } else {
        println!("{}", resolved.path.display());
    }
    Ok(())
}

pub(crate) async fn list(args: ListArgs) -> Result<()> {
    let models = open_store()?.list();
    if args.json {
        let rows = models
            .iter()
            .map(|model| json!({"name": model.name, "size_bytes": model.size_bytes, "path": model.path}));
        println!("{:#}", rows.collect::<serde_json::Value>());
        return Ok(());
    }
    if models.is_empty() {
        eprintln!("no models yet; fetch one with `mlxcel download smollm2`");
    }
    for model in models {
        println!(
            "{:<40} {:>8.1} MiB  {}",
            model.name,
            model.size_bytes as f64 / f64::from(1 << 20),
            model.path.display()
        );
    }
    Ok(())
}

pub(crate) async fn remove(args: RmArgs) -> Result<()> {
    open_store()?.remove(&args.model)?;
    println!("removed {}", args.model);
    Ok(())
}
