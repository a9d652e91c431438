//! The processes of a replica, and what the one that leads measures.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Args;

pub(crate) struct Replica {
    children: Vec<Child>,
    outputs: Vec<Lines<BufReader<ChildStdout>>>,
    leader: usize,
}

/// What a number of sequences gets.
pub(crate) struct Figures {
    pub(crate) tokens_per_second: f64,
    /// Microseconds between two tokens of one sequence.
    pub(crate) micros_per_token: f64,
    /// Of the tokens: the same for replicas that choose the same.
    pub(crate) digest: String,
}

impl Replica {
    /// Starts the ranks, and waits until they have loaded.
    pub(crate) fn start(args: &Args, stages: &[usize], micro_batches: Option<usize>) -> Result<Self> {
        if args.cold {
            std::fs::write("/proc/sys/vm/drop_caches", "1")
                .context("only root can drop the cache of files")?;
        }
        let count: usize = stages.iter().sum();
        let mut children: Vec<Child> =
            (0..count).map(|rank| spawn(args, stages, rank, micro_batches)).collect::<Result<_>>()?;
        let outputs = children
            .iter_mut()
            .map(|child| Ok(BufReader::new(child.stdout.take().context("piped")?).lines()))
            .collect::<Result<_>>()?;
        let leader = count - stages.last().context("a stage")?;
        let mut replica = Self { children, outputs, leader };
        let peers = (0..count).map(|rank| replica.line(rank)).collect::<Result<Vec<_>>>()?;
        for rank in 0..count {
            replica.tell(rank, &format!("{}\n", peers.join("\n")))?;
        }
        for rank in 0..count {
            replica.line(rank)?;
        }
        Ok(replica)
    }

    /// The median of the runs.
    pub(crate) fn measure(&mut self, args: &Args, sequences: usize) -> Result<Figures> {
        let (mut rates, mut digest) = (Vec::new(), String::new());
        for run in 0..=args.runs {
            self.tell(self.leader, &sequences.to_string())?;
            let line = self.line(self.leader)?;
            let (rate, of_tokens) = line.split_once(' ').context("a rate and a digest")?;
            let rate: f64 = rate.parse()?;
            of_tokens.clone_into(&mut digest);
            // The first warms up.
            if run > 0 {
                rates.push(rate);
            }
        }
        rates.sort_by(f64::total_cmp);
        let tokens_per_second = rates[rates.len() / 2];
        Ok(Figures {
            tokens_per_second,
            micros_per_token: 1e6 * sequences as f64 / tokens_per_second,
            digest,
        })
    }

    /// What every rank has read from disk and held at most, in bytes.
    pub(crate) fn footprints(&self) -> Result<Vec<Value>> {
        let figure = |file: &str, name: &str, unit: u64| -> Result<u64> {
            let text = std::fs::read_to_string(file)?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such figure")?;
            let number = line.trim_start_matches(':').split_whitespace().next().context("a number")?;
            Ok(number.parse::<u64>()? * unit)
        };
        let of = |child: &Child| {
            let id = child.id();
            let peak = figure(&format!("/proc/{id}/status"), "VmHWM", 1024)?;
            let read = figure(&format!("/proc/{id}/io"), "read_bytes", 1)?;
            Ok(serde_json::json!({ "peak_bytes": peak, "read_bytes": read }))
        };
        self.children.iter().map(of).collect()
    }

    fn tell(&mut self, rank: usize, line: &str) -> Result<()> {
        let input = self.children[rank].stdin.as_mut().context("piped")?;
        Ok(writeln!(input, "{line}")?)
    }

    fn line(&mut self, rank: usize) -> Result<String> {
        Ok(self.outputs[rank].next().with_context(|| format!("rank {rank} has ended"))??)
    }
}

fn spawn(args: &Args, stages: &[usize], rank: usize, micro_batches: Option<usize>) -> Result<Child> {
    let program = std::env::current_exe()?;
    let mut command = match args.cores.get(rank % args.cores.len().max(1)) {
        Some(cores) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cores]).arg(program);
            command
        }
        None => Command::new(program),
    };
    let layout: Vec<String> = stages.iter().map(usize::to_string).collect();
    command.arg("--model").arg(&args.model).args(["--layouts", &layout.join("+")]);
    command.args(["--rank", &rank.to_string(), "--tokens", &args.tokens.to_string()]);
    command.args(micro_batches.iter().flat_map(|most| ["--micro-batches".to_owned(), most.to_string()]));
    if let Some(gpu) = args.gpus.get(rank % args.gpus.len().max(1)) {
        command.env("CUDA_VISIBLE_DEVICES", gpu.to_string());
    }
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

impl Drop for Replica {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Those that have ended cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
