//! A worker process whose engines follow scripts, for tests that start and kill real processes.
//!
//! `--fail MESSAGE` ends at once, as a worker whose device cannot be used does; `--trace FILE`
//! gets a line for every cancelled request. A model path that ends in `slow.gguf` takes two
//! seconds to load, one that ends in `crash.gguf` takes the process down.

mod engine;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mlxcel_engine::{Engine, LoadOptions, LoadStep};
use mlxcel_node::worker::{DeviceDescription, EngineLoader, LoadError, WorkerOptions, run_process};
use mlxcel_protocol::v1::{Device, DeviceKind};

use engine::ScriptEngine;

struct ToyLoader {
    trace: Option<PathBuf>,
}

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
        progress(LoadStep { what: format!("reading {name}"), done_bytes: 1, total_bytes: 2 });
        if name.ends_with("slow.gguf") {
            std::thread::sleep(Duration::from_secs(2));
        }
        if name.ends_with("crash.gguf") {
            std::process::abort();
        }
        let trace = self.trace.clone();
        let on_cancelled = Arc::new(move |id: &str| {
            if let Some(path) = &trace {
                let file = OpenOptions::new().create(true).append(true).open(path);
                writeln!(file.expect("trace opens"), "{id}").expect("trace is written");
            }
        });
        Ok(Box::new(ScriptEngine::new(on_cancelled)))
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut trace = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--fail" => {
                eprintln!("{}", args.next().expect("a message"));
                return ExitCode::FAILURE;
            }
            "--trace" => trace = args.next().map(PathBuf::from),
            other => panic!("no such flag: {other}"),
        }
    }
    run_process(WorkerOptions::default(), Box::new(ToyLoader { trace }))
}
