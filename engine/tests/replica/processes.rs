//! A replica whose ranks are processes: this test binary, started again.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::member::{self, MODEL, ROLE};

/// Its ranks.
pub(super) struct Replica {
    children: Vec<Child>,
    outputs: Vec<Lines<BufReader<ChildStdout>>>,
    leader: usize,
    weight_bytes: Vec<u64>,
}

impl Replica {
    /// Starts a replica of stages of so many ranks, and waits until all have loaded their part.
    pub(super) fn start(stages: &[usize]) -> Self {
        Self::of(&member::path(), stages)
    }

    /// The same of the model in `model`.
    pub(super) fn of(model: &Path, stages: &[usize]) -> Self {
        let mut replica = Self::spawn(model, stages);
        replica.weight_bytes = (0..replica.children.len())
            .map(|rank| {
                let line = replica.line(rank, "ready ").expect("it loads its part");
                line.parse().expect("bytes of weights")
            })
            .collect();
        replica
    }

    fn spawn(model: &Path, stages: &[usize]) -> Self {
        let count: usize = stages.iter().sum();
        let division: Vec<String> = stages.iter().map(usize::to_string).collect();
        let start = |rank: usize| {
            let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
            command.args(["--exact", "member::is_a_rank", "--ignored", "--nocapture"]);
            command.env(ROLE, format!("{rank} {}", division.join(","))).env(MODEL, model);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts again")
        };
        let mut children: Vec<Child> = (0..count).map(start).collect();
        let outputs =
            children.iter_mut().map(|child| BufReader::new(child.stdout.take().expect("piped")).lines());
        let outputs = outputs.collect();
        let leader = count - stages.last().expect("a stage");
        let mut replica = Self { children, outputs, leader, weight_bytes: Vec::new() };
        let peers: Vec<String> =
            (0..count).map(|rank| replica.line(rank, "peer ").expect("it listens")).collect();
        for rank in 0..count {
            replica.tell(rank, &format!("{}\n", peers.join("\n")));
        }
        replica
    }

    /// Bytes of the weights of every rank.
    pub(super) fn weight_bytes(&self) -> &[u64] {
        &self.weight_bytes
    }

    /// What the leader answers to a task, to its end.
    pub(super) fn ask(mut self, task: &str) -> Vec<String> {
        self.tell(self.leader, task);
        let lines = std::iter::from_fn(|| self.line(self.leader, "says ").filter(|line| line != "end"));
        lines.collect()
    }

    /// Gives the leader a task and waits for the first token.
    pub(super) fn begin(&mut self, task: &str) {
        self.tell(self.leader, task);
        assert_eq!(self.next_line(), "first token");
    }

    pub(super) fn next_line(&mut self) -> String {
        self.line(self.leader, "says ").expect("the leader lives")
    }

    pub(super) fn signal(&self, rank: usize, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.children[rank].id().to_string()]).status();
        assert!(sent.expect("there is kill").success());
    }

    /// What every rank but one says of the end of the replica.
    pub(super) fn last_words(&mut self, but: usize) -> Vec<(usize, String)> {
        let others = (0..self.children.len()).filter(|rank| *rank != but);
        let others: Vec<usize> = others.collect();
        others.into_iter().map(|rank| (rank, self.line(rank, "says ").expect("it says why"))).collect()
    }

    fn tell(&mut self, rank: usize, line: &str) {
        writeln!(self.children[rank].stdin.as_mut().expect("piped"), "{line}").expect("it reads");
    }

    /// What follows `start` in the next line that begins so.
    fn line(&mut self, rank: usize, start: &str) -> Option<String> {
        self.outputs[rank].find_map(|line| line.ok()?.strip_prefix(start).map(str::to_owned))
    }
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
