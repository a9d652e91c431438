//! `mlxcel serve`, `node`, `router`, and the worker processes a node starts.
//!
//! Turns arguments into options, waits for the wish to end, and drains. A line on standard output
//! says where each listens; everything else is logged.

use std::ffi::OsString;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use mlxcel_cluster_config::claim::Claim;
use mlxcel_cluster_config::paths::{node_dir, state_dir};
use mlxcel_engine::{Device, Quantization};
use mlxcel_model_store::StoreOptions;
use mlxcel_node::worker::{MlxLoader, WorkerOptions, run_process};
use mlxcel_node::{Node, NodeOptions, RunningNode, WorkerProgram};
use mlxcel_protocol::v1::{LoadModelRequest, load_progress};
use mlxcel_router::{Router, RouterOptions};

use crate::args::{
    ClusterArgs, LoadingArgs, NodeArgs, RouterArgs, ServeArgs, TraceArgs, WorkerArgs, parse_device,
    quantization,
};
use crate::sys::Shutdown;
use crate::terminal::Progress;

pub(crate) async fn router(args: RouterArgs) -> Result<()> {
    let mut options = RouterOptions::new(state(&args.cluster)?);
    options.listen = SocketAddr::new(args.http.host, args.http.port);
    options.control_listen.set_port(args.control_port);
    options.api_keys = args.http.api_key;
    (options.queue, options.queue_per_model) = (args.http.queue, args.http.queue_per_model);
    options.layout = args.layout.map(|layout| layout.0);
    options.token = args.cluster.token;
    options.join = args.cluster.join;
    options.mdns = !args.cluster.no_mdns;
    options.name = args.cluster.name.unwrap_or(options.name);
    let router = Router::start(options).await?;
    let mut shutdown = Shutdown::watch()?;
    println!(
        "router: OpenAI API on http://{}/v1, nodes on port {}",
        router.local_addr(),
        router.control_addr().port()
    );
    shutdown.requested().await;
    let patience = Duration::from_secs(args.http.drain_timeout);
    until_asked_again(&mut shutdown, router.drain(patience)).await
}

pub(crate) async fn node(args: NodeArgs) -> Result<()> {
    let state_dir = state(&args.cluster)?;
    if args.forget_cluster {
        Claim::forget(&node_dir(&state_dir))?;
    }
    if args.alias.is_some() && args.model.len() > 1 {
        bail!("--alias names one model, got {}; give one -m, or leave the alias out", args.model.len());
    }
    let mut options = NodeOptions::new(state_dir, StoreOptions::from_env()?);
    options.listen = SocketAddr::new(args.host, args.port);
    let load = |model: &String| load_request(model, args.alias.clone(), &args.loading);
    options.models = args.model.iter().map(load).collect::<Result<_>>()?;
    options.workers = worker_programs(&args.device, args.memory, &args.trace)?;
    options.standalone |= args.standalone;
    options.token = args.cluster.token;
    options.join = args.cluster.join;
    options.mdns = !args.cluster.no_mdns;
    options.name = args.cluster.name.unwrap_or(options.name);
    let node = Node::start(options).await?;
    let mut shutdown = Shutdown::watch()?;
    println!("node {}: listens on {}", node.id().short(), node.local_addr());
    shutdown.requested().await;
    until_asked_again(&mut shutdown, node.drain(Duration::from_secs(args.drain_timeout))).await
}

/// A router and a node that know only each other, in one process.
pub(crate) async fn serve(args: ServeArgs) -> Result<()> {
    let state_dir = match args.state_dir {
        Some(dir) => dir,
        None => state_dir()?.join("serve"),
    };
    let mut options = RouterOptions::new(state_dir.clone());
    options.listen = SocketAddr::new(args.http.host, args.http.port);
    options.control_listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    options.api_keys = args.http.api_key.clone();
    (options.queue, options.queue_per_model) = (args.http.queue, args.http.queue_per_model);
    options.mdns = false;
    let mut node_options = NodeOptions::new(state_dir, StoreOptions::from_env()?);
    node_options.listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    node_options.workers = worker_programs(&args.model.device, None, &args.trace)?;
    node_options.mdns = false;
    let router = Router::start(options.clone()).await?;
    node_options.join = vec![router.control_addr().to_string()];
    let node = Node::start(node_options).await?;
    load(&node, load_request(&args.model.model, args.alias.clone(), &args.model.loading)?).await?;
    let mut shutdown = Shutdown::watch()?;
    println!(
        "serving {} on http://{}/v1",
        args.alias.as_ref().unwrap_or(&args.model.model),
        router.local_addr()
    );
    shutdown.requested().await;
    let patience = Duration::from_secs(args.http.drain_timeout);
    let drain = async {
        router.drain(patience).await;
        node.drain(patience).await;
    };
    until_asked_again(&mut shutdown, drain).await
}

/// A worker process: serves its standard input and output until they close.
pub(crate) fn worker(args: &WorkerArgs) -> Result<ExitCode> {
    let device = parse_device(&args.device).map_err(anyhow::Error::msg)?;
    let loader = MlxLoader::new(device, args.memory)?;
    let trace = args.trace.create()?.map(Arc::new);
    let options = WorkerOptions { device_index: args.index, device, max_sequences: None, trace };
    Ok(run_process(options, Box::new(loader)))
}

/// Loads a model and waits for it, with a progress bar.
async fn load(node: &RunningNode, request: LoadModelRequest) -> Result<()> {
    let mut progress = Progress::new();
    let mut steps = node.load_model(request);
    while let Some(step) = steps.next().await {
        match step.kind {
            Some(load_progress::Kind::Step(step)) => {
                progress.update(&step.what, step.done_bytes, step.total_bytes)
            }
            Some(load_progress::Kind::Failed(failure)) => bail!("{}", failure.message),
            Some(load_progress::Kind::Ready(_) | load_progress::Kind::Listening(_)) | None => {}
        }
    }
    progress.finish();
    Ok(())
}

fn load_request(model: &str, alias: Option<String>, args: &LoadingArgs) -> Result<LoadModelRequest> {
    let quantize = quantization(args.quantize, args.group_size)?;
    let affine = quantize.filter(|quantize| matches!(quantize, Quantization::Affine { .. }));
    Ok(LoadModelRequest {
        model: model.to_owned(),
        served_name: alias.unwrap_or_default(),
        quantize_bits: affine.map_or(0, Quantization::bits),
        quantize_group_size: affine.map_or(0, Quantization::group_size),
        // The wire's word for affine is none.
        quantize_mode: quantize.filter(|_| affine.is_none()).map_or("", Quantization::mode).to_owned(),
        context_tokens: args.ctx_size,
        lookup_tokens: args.lookup,
        draft: args.draft.request(),
        // The text was checked when it was parsed; the wire's word for `auto` is none.
        kv_dtype: if args.kv_dtype == "auto" { String::new() } else { args.kv_dtype.clone() },
    })
}

/// What to run for each device: this program, as a worker.
fn worker_programs(device: &str, memory: Option<u64>, trace: &TraceArgs) -> Result<Vec<WorkerProgram>> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let devices = match device {
        "auto" => match Device::count()? {
            1 => vec!["auto".to_owned()],
            count => (0..count).map(|index| format!("gpu:{index}")).collect(),
        },
        one => {
            parse_device(one).map_err(anyhow::Error::msg)?;
            vec![one.to_owned()]
        }
    };
    let several = devices.len() > 1;
    let worker = |(index, device): (usize, String)| {
        let mut args: Vec<OsString> =
            ["worker", "--index", &index.to_string(), "--device", &device].map(Into::into).to_vec();
        args.extend(memory.into_iter().flat_map(|bytes| ["--memory".into(), bytes.to_string().into()]));
        let trace = if several { trace.of_device(&device) } else { trace.trace.clone() };
        args.extend(trace.into_iter().flat_map(|file| ["--trace".into(), file.into_os_string()]));
        WorkerProgram { program: program.clone(), args }
    };
    Ok(devices.into_iter().enumerate().map(worker).collect())
}

fn state(cluster: &ClusterArgs) -> Result<PathBuf> {
    match &cluster.state_dir {
        Some(dir) => Ok(dir.clone()),
        None => Ok(state_dir()?),
    }
}

/// Runs a drain to its end, or until another wish to end, which stops at once.
async fn until_asked_again(shutdown: &mut Shutdown, drain: impl Future<Output = ()>) -> Result<()> {
    tokio::select! {
        () = drain => Ok(()),
        () = shutdown.requested() => bail!("stopped before running requests had finished"),
    }
}
