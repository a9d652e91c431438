//! `mlxcel inspect`: what a model needs, and what this host has.

use anyhow::{Result, bail};
use mlxcel_engine::{Inspection, Quantization, inspect};
use serde_json::json;

use super::loading::resolve;
use crate::args::InspectArgs;

pub(crate) async fn run(args: InspectArgs) -> Result<()> {
    if args.model.loading.draft.draft_model.is_some() {
        bail!("inspect looks at one model; give the draft model to an inspect of its own");
    }
    let path = resolve(&args.model.model).await?;
    let inspection = inspect(&path, &args.model.load_options()?)?;
    if args.json {
        println!("{:#}", as_json(&inspection));
    } else {
        print!("{}", as_text(&inspection));
    }
    Ok(())
}

fn as_text(it: &Inspection) -> String {
    let storage: Vec<String> =
        it.storage.iter().map(|(kind, count)| format!("{} x {count}", storage_name(*kind))).collect();
    let mut rows = vec![
        ("model", it.path.display().to_string()),
        ("architecture", it.family.clone()),
        ("layers", it.layers.to_string()),
        ("hidden size", it.hidden_size.to_string()),
        ("vocabulary", it.vocab_size.to_string()),
        ("trained context", format!("{} tokens", it.max_context)),
        ("matrices", storage.join(", ")),
        ("weights", mebibytes(it.weight_bytes)),
        ("KV cache", format!("{} bytes a token", it.kv_bytes_per_token)),
        (
            "KV cache, full",
            format!(
                "{} for {} tokens",
                mebibytes(it.kv_bytes_per_token * it.context_tokens as u64),
                it.context_tokens
            ),
        ),
        ("total", mebibytes(it.total_bytes())),
        ("device", device_name(it)),
        ("fits", if it.fits() { "yes".to_owned() } else { "no".to_owned() }),
    ];
    if it.state_bytes > 0 {
        rows.insert(10, ("states", format!("{} bytes a sequence", it.state_bytes)));
    }
    rows.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect()
}

fn device_name(it: &Inspection) -> String {
    let device = &it.device;
    let driver = if device.driver.is_empty() { String::new() } else { format!(", {}", device.driver) };
    format!("{}, {}{driver}, MLX {}", device.name, mebibytes(device.memory_bytes), device.mlx_version)
}

fn storage_name(kind: Option<Quantization>) -> String {
    match kind {
        Some(quantization) => quantization.to_string(),
        None => "float".to_owned(),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn as_json(it: &Inspection) -> serde_json::Value {
    json!({
        "path": it.path,
        "architecture": it.family,
        "layers": it.layers,
        "hidden_size": it.hidden_size,
        "vocab_size": it.vocab_size,
        "max_context": it.max_context,
        "tensors": it.tensors,
        "matrices": it.storage.iter().map(|(kind, count)| json!({
            "mode": kind.map(Quantization::mode),
            "bits": kind.map(Quantization::bits),
            "group_size": kind.map(Quantization::group_size),
            "modules": count,
        })).collect::<Vec<_>>(),
        "weight_bytes": it.weight_bytes,
        "kv_bytes_per_token": it.kv_bytes_per_token,
        "state_bytes": it.state_bytes,
        "context_tokens": it.context_tokens,
        "total_bytes": it.total_bytes(),
        "fits": it.fits(),
        "device": {
            "kind": format!("{:?}", it.device.kind).to_lowercase(),
            "index": it.device.index,
            "name": it.device.name,
            "memory_bytes": it.device.memory_bytes,
            "driver": it.device.driver,
            "mlx_version": it.device.mlx_version,
        },
    })
}
