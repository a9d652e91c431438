//! `mlxcel plan`: which devices of a cluster would hold which part of a model, how fast that would be, and why.

use anyhow::{Context, Result, bail};
use mlxcel_cluster_config::placement::{Cluster, Demand, ModelSize};
use mlxcel_engine::{Sizes, sizes};

use super::loading::resolve;
use crate::args::PlanArgs;

pub(crate) async fn run(args: PlanArgs) -> Result<()> {
    let path = resolve(&args.model).await?;
    let sizes = sizes(&path)?;
    let context = args.context.unwrap_or(sizes.max_context.min(USUAL_CONTEXT));
    if context == 0 || context > sizes.max_context {
        bail!("a context is 1 to {} tokens for this model, got {context}", sizes.max_context);
    }
    let file = args.cluster.display();
    let text = std::fs::read_to_string(&args.cluster).with_context(|| format!("cannot read {file}"))?;
    let cluster = Cluster::parse(&text).with_context(|| format!("{file} describes no cluster"))?;
    let demand = Demand { sequences: args.sequences.into(), context };
    let plan = cluster.place(&model_size(&sizes), demand)?;
    if args.json {
        println!("{:#}", serde_json::to_value(&plan)?);
    } else {
        print!("{plan}");
    }
    Ok(())
}

fn model_size(sizes: &Sizes) -> ModelSize {
    ModelSize {
        layers: sizes.layers,
        layer_bytes: sizes.layer_bytes,
        layer_flops: sizes.layer_flops,
        embedding_bytes: sizes.embedding_bytes,
        head_bytes: sizes.head_bytes,
        // Half precision between stages.
        hidden_bytes: 2 * sizes.hidden_size as u64,
        kv_bytes: sizes.kv_bytes,
        most_ranks: sizes.heads,
    }
}

const USUAL_CONTEXT: usize = 4096;
