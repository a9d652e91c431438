//! A worker process whose engines follow scripts, for tests that start and kill real processes.
//!
//! `--fail MESSAGE` ends at once, as a worker whose device cannot be used does; `--trace FILE`
//! gets a line for every load and every cancelled request. A model path that ends in `slow.gguf`
//! takes half a second to load, one that ends in `crash.gguf` takes the process down.
//! `--mlx` has real engines on the CPU instead. `--node DIR` is a node with one such worker instead, which prints the worker's process id.

mod engine;

use std::fs::OpenOptions;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mlxcel_engine::{DeviceChoice, Engine, LoadOptions, LoadStep};
use mlxcel_model_store::StoreOptions;
use mlxcel_node::worker::{
    DeviceDescription, EngineLoader, LoadError, MlxLoader, WorkerOptions, run_process,
};
use mlxcel_node::{Node, NodeOptions, WorkerProgram};
use mlxcel_protocol::v1::{Device, DeviceKind};

use engine::ScriptEngine;

struct ToyLoader {
    trace: Trace,
}

#[derive(Clone)]
struct Trace(Option<PathBuf>);

impl EngineLoader for ToyLoader {
    fn device(&self) -> DeviceDescription {
        let device = Device {
            kind: DeviceKind::Cpu.into(),
            name: "toy".into(),
            memory_bytes: 1 << 30,
            ..Device::default()
        };
        DeviceDescription { device, mlx_version: String::new() }
    }

    fn load(
        &mut self,
        path: &Path,
        _: LoadOptions,
        progress: &mut dyn FnMut(LoadStep),
    ) -> Result<Box<dyn Engine>, LoadError> {
        if !path.exists() {
            return Err(LoadError::Invalid(format!("{} is gone", path.display())));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.trace.line(&format!("load {name}"));
        progress(LoadStep { what: format!("reading {name}"), done_bytes: 1, total_bytes: 2 });
        if name.ends_with("slow.gguf") {
            std::thread::sleep(Duration::from_millis(500));
        }
        if name.ends_with("crash.gguf") {
            std::process::abort();
        }
        let trace = self.trace.clone();
        let on_cancelled = Arc::new(move |id: &str| trace.line(&format!("cancelled {id}")));
        Ok(Box::new(ScriptEngine::new(on_cancelled)))
    }
}

impl Trace {
    fn line(&self, line: &str) {
        if let Some(path) = &self.0 {
            let file = OpenOptions::new().create(true).append(true).open(path);
            writeln!(file.expect("trace opens"), "{line}").expect("trace is written");
        }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut trace = Trace(None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--fail" => {
                eprintln!("{}", args.next().expect("a message"));
                return ExitCode::FAILURE;
            }
            "--mlx" => {
                let loader = MlxLoader::new(DeviceChoice::Cpu, None).expect("there is a CPU");
                let options = WorkerOptions { device: DeviceChoice::Cpu, ..WorkerOptions::default() };
                return run_process(options, Box::new(loader));
            }
            "--node" => return node(args.next().expect("a directory").into()),
            "--trace" => trace = Trace(args.next().map(PathBuf::from)),
            other => panic!("no such flag: {other}"),
        }
    }
    run_process(WorkerOptions::default(), Box::new(ToyLoader { trace }))
}

#[tokio::main]
async fn node(dir: PathBuf) -> ExitCode {
    let mut options = NodeOptions::new(&dir, StoreOptions::at(&dir));
    options.listen = (Ipv4Addr::LOCALHOST, 0).into();
    options.mdns = false;
    let program = std::env::current_exe().expect("own path");
    options.workers = vec![WorkerProgram { program, args: Vec::new() }];
    let mut node = Node::start(options).await.expect("node starts");
    println!("{}", node.state().workers[0].pid);
    node.wait().await;
    ExitCode::SUCCESS
}
