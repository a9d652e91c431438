//! `./x quickstart`: a cluster on this machine, from nothing to an answer that survives a dead node.
//!
//! Drives the real program as a person would and prints what happens. Everything it starts it ends,
//! and everything it writes besides the build and the model is in one temporary directory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::chat::ask;
use self::process::Running;

mod chat;
mod process;

/// Longest wait for the nodes to be found and their models loaded.
const PATIENCE: Duration = Duration::from_secs(90);

const MODEL: &str = "smollm2";

/// Runs it with the program at `mlxcel`.
pub(crate) fn run(mlxcel: &Path) -> Result<()> {
    let begun = Instant::now();
    say("fetching the model (once)");
    fetch_model(mlxcel)?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    // A secret of its own keeps other routers and nodes on this network out.
    let cluster = Cluster { mlxcel, scratch: scratch.path(), token: token() };

    say("starting one router and two nodes; they find each other by mDNS");
    let mut router = cluster.start("router", &["router", "--port", "0"])?;
    let mut nodes = [cluster.start_node("node-1")?, cluster.start_node("node-2")?];
    let address = router.wait_for("http://").map(|line| host_of(&line))??;
    wait_until_serving(&address, nodes.len())?;
    println!("    both nodes serve {MODEL} behind http://{address}/v1");

    say("asking: What is the capital of France?");
    let first = ask(&address, MODEL, "What is the capital of France?")?;

    say("killing the first node and asking again");
    nodes[0].kill()?;
    let second = ask(&address, MODEL, "What is the capital of France?")?;
    if first.trim().is_empty() || first != second {
        bail!("the answers should be equal and not empty: {first:?} and {second:?}");
    }
    println!("    the answer is the same: the other node gave it");

    say("cleaning up");
    nodes[1].end()?;
    router.end()?;
    println!("\nquickstart done in {:.0} s. Next:\n", begun.elapsed().as_secs_f64());
    let shown = mlxcel.display();
    println!("    {shown} run                  chat in this terminal");
    println!("    {shown} node -m {MODEL}      on every host");
    println!("    {shown} router               on one of them: http://127.0.0.1:8080/v1");
    Ok(())
}

struct Cluster<'a> {
    mlxcel: &'a Path,
    scratch: &'a Path,
    token: String,
}

impl Cluster<'_> {
    fn start_node(&self, name: &str) -> Result<Running> {
        self.start(name, &["node", "-m", MODEL, "--name", name])
    }

    fn start(&self, name: &str, args: &[&str]) -> Result<Running> {
        let mut command = Command::new(self.mlxcel);
        command.args(args).arg("--state-dir").arg(self.scratch.join(name)).env("MLXCEL_TOKEN", &self.token);
        Running::start(name, command, &self.scratch.join(format!("{name}.log")))
    }
}

fn fetch_model(mlxcel: &Path) -> Result<()> {
    let status = Command::new(mlxcel).args(["download", MODEL]).stdout(std::process::Stdio::null()).status();
    match status.context("cannot run mlxcel")? {
        status if status.success() => Ok(()),
        status => bail!("fetching the model failed: {status}"),
    }
}

/// Waits until the router says that so many nodes have the model ready.
fn wait_until_serving(address: &str, wanted: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let health = chat::get(address, "/health").unwrap_or(Value::Null);
        let ready =
            health["nodes"].as_array().map_or(0, |nodes| nodes.iter().filter(|node| has_model(node)).count());
        if ready >= wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "only {ready} of {wanted} nodes were ready after {} s; the router said: {health}",
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn has_model(node: &Value) -> bool {
    let workers = node["workers"].as_array().into_iter().flatten();
    let mut models = workers.flat_map(|worker| worker["models"].as_array().into_iter().flatten());
    models.any(|model| model["id"] == MODEL && model["status"] == "ready")
}

fn host_of(line: &str) -> Result<String> {
    let rest = line.split("http://").nth(1).context("the router's line names no URL")?;
    Ok(rest.split(['/', ' ', ',']).next().unwrap_or(rest).to_owned())
}

/// A secret nobody else on the network has: the process and the time, to the nanosecond.
fn token() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("quickstart-{}-{}", std::process::id(), now.as_nanos())
}

fn say(what: &str) {
    println!("==> {what}");
    // A closed standard output is found out by the next println.
    drop(std::io::stdout().flush());
}

/// Where cargo puts the program it builds.
pub(crate) fn built_program(target_dir: &Path) -> PathBuf {
    target_dir.join("debug").join(format!("mlxcel{}", std::env::consts::EXE_SUFFIX))
}
