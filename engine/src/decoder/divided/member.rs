//! A rank as a process: this test binary, started again, and connected with the others over TCP.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::executor::block_on;
use mlxcel_mlx_bridge::{Error, set_default_device};
use mlxcel_transport::collective::{Group, GroupConfig};
use mlxcel_transport::tcp::{Security, Tcp, TcpConfig};
use mlxcel_transport::{Address, Channel, Domain, Kind, PeerId, Transport};

use super::{Division, logits};
use crate::decoder::{Execution, Place};
use crate::ranks::{HostRanks, Ranks};

/// Set in the process that is a rank: the task, which of them, stages, ranks a stage, execution.
const ROLE: &str = "MLXCEL_TEST_RANK";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// What every rank of the last stage says of each thing that `task` names.
pub(super) fn said_by(division: Division, task: &str) -> Vec<BTreeMap<String, String>> {
    let Division { stages, ranks, execution } = division;
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe().expect("a program has a path"));
        command.args(["--exact", "decoder::divided::member::is_a_rank", "--ignored", "--nocapture"]);
        command.env(ROLE, format!("{task} {rank} {stages} {ranks} {}", execution == Execution::Graph));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts again")
    };
    let mut children: Vec<Child> = (0..stages * ranks).map(start).collect();
    let mut outputs: Vec<_> = children
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok))
        .collect();
    let roster: Vec<String> = outputs
        .iter_mut()
        .map(|lines| {
            lines.find_map(|line| line.strip_prefix("peer ").map(str::to_owned)).expect("it listens")
        })
        .collect();
    for child in &mut children {
        writeln!(child.stdin.as_mut().expect("piped"), "{}\n", roster.join("\n")).expect("it reads");
    }
    let said = outputs.iter_mut().map(|lines| {
        let lines = lines.take_while(|line| line != "end").filter_map(|line| {
            let (name, verdict) = line.strip_prefix("says ")?.split_once(' ')?;
            Some((name.to_owned(), verdict.to_owned()))
        });
        lines.collect()
    });
    let said: Vec<_> = said.collect();
    // All have come to their ends: nobody is missed.
    children.iter_mut().for_each(|child| drop(child.stdin.take()));
    children.iter_mut().for_each(|child| assert!(child.wait().is_ok_and(|status| status.success())));
    said.into_iter().skip((stages - 1) * ranks).collect()
}

/// A rank, connected with the others.
pub(super) struct Member {
    pub(super) end: Arc<dyn Transport>,
    names: Vec<PeerId>,
    rank: usize,
    pub(super) division: Division,
}

impl Member {
    fn join(role: &[&str]) -> Self {
        let number = |at: usize| role[at].parse::<usize>().expect("a number");
        let execution = if role[3] == "true" { Execution::Graph } else { Execution::Host };
        let division = Division { stages: number(1), ranks: number(2), execution };
        let config = TcpConfig::new(Security::Plain).bound_to(std::net::Ipv4Addr::LOCALHOST.into());
        let end = Tcp::new(&Domain::new(), config).expect("it starts on loopback");
        let id = u128::from_be_bytes(end.domain().id().to_bytes());
        println!("\npeer {id:032x} {}", end.addresses()[0].socket);
        let lines = std::io::stdin().lines().map(|line| line.expect("a roster"));
        let others = lines.take_while(|line| !line.is_empty()).map(|line| {
            let (id, socket) = line.split_once(' ').expect("a name and an address");
            let id = u128::from_str_radix(id, 16).expect("32 hex digits");
            let address = Address { kind: Kind::Tcp, socket: socket.parse().expect("an address") };
            (PeerId::from_bytes(id.to_be_bytes()), address)
        });
        let others: Vec<_> = others.collect();
        let rank = number(0);
        for (at, (id, address)) in others.iter().enumerate() {
            match at.cmp(&rank) {
                std::cmp::Ordering::Less => {
                    block_on(end.connect(*id, &[*address], soon())).expect("they connect");
                }
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => {
                    block_on(end.domain().connected(*id, soon())).expect("they connect");
                }
            }
        }
        let names = others.into_iter().map(|(id, _)| id).collect();
        Self { end: Arc::new(end), names, rank, division }
    }

    pub(super) fn stage(&self) -> usize {
        self.rank / self.division.ranks
    }

    /// The ranks of its stage.
    pub(super) fn peers(&self) -> &[PeerId] {
        let first = self.stage() * self.division.ranks;
        &self.names[first..first + self.division.ranks]
    }

    pub(super) fn place(&self, layers: usize) -> Place {
        let Division { stages, ranks, .. } = self.division;
        let bound = |stage: usize| stage * layers / stages;
        let layers = bound(self.stage())..bound(self.stage() + 1);
        Place { layers, rank: self.rank % ranks, ranks }
    }

    /// The ranks of its stage as operations of a graph; none where it is alone there.
    pub(super) fn group(&self, number: u32) -> Option<Box<dyn Ranks>> {
        (self.division.ranks > 1).then(|| {
            let config = GroupConfig::new(number);
            let group = Group::form(Arc::clone(&self.end), self.peers(), config).expect("all take part");
            Box::new(HostRanks::new(group)) as Box<dyn Ranks>
        })
    }

    /// What the rank of its number in the stage before has made of a step.
    pub(super) fn hidden(&self, number: u32) -> mlxcel_mlx_bridge::Result<Vec<f32>> {
        let from = self.names[self.rank - self.division.ranks];
        let message = block_on(self.end.domain().receive(from, Channel(2 * number), soon()));
        let message = message.map_err(|error| Error::argument("step", error.to_string()))?;
        Ok(message.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four"))).collect())
    }

    pub(super) fn pass_on(&self, number: u32, hidden: &[f32]) {
        let to = self.names[self.rank + self.division.ranks];
        let bytes: Vec<u8> = hidden.iter().flat_map(|value| value.to_le_bytes()).collect();
        block_on(self.end.send(to, Channel(2 * number), Bytes::from(bytes), soon())).expect("it fits");
    }

    /// Waits for all others to have come to the end of a case: who leaves is lost to those that still compute.
    pub(super) fn meet(&self, number: u32) {
        let channel = Channel(2 * number + 1);
        let others = || self.names.iter().filter(|name| **name != self.end.domain().id());
        for other in others() {
            block_on(self.end.send(*other, channel, Bytes::from_static(b"done"), soon()))
                .expect("it is there");
        }
        for other in others() {
            block_on(self.end.domain().receive(*other, channel, soon())).expect("it ends, too");
        }
    }
}

/// Not a test: a rank of those that are tested.
#[test]
#[ignore = "a rank of other tests, which start it"]
fn is_a_rank() {
    let Ok(role) = std::env::var(ROLE) else { return };
    set_default_device(mlxcel_mlx_bridge::Device::CPU).expect("there is a CPU");
    let role: Vec<&str> = role.split(' ').collect();
    let member = Member::join(&role[1..]);
    match role[0] {
        "logits" => logits(&member),
        task => panic!("nobody knows how to {task}"),
    }
    println!("end");
    assert_eq!(std::io::stdin().lines().count(), 0, "the roster was all there is to read");
}
