//! A router and three nodes, each on a host of its own, of which each has room for a good part of the model only.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Lab, Place};
use crate::model::{Big, NAME};
use crate::support::http::{self, Events};
use crate::support::{Server, eventually, mlxcel};

/// What every node may use.
const MEMORY: &str = "900MB";

pub(crate) struct Hosts {
    nodes: Vec<(&'static str, Server)>,
    router: Place,
    address: String,
    _router: Server,
    _state: TempDir,
    /// Last, so that nobody is left in it.
    lab: Lab,
}

impl Hosts {
    /// Starts them, and waits until the router knows of every node that it has the model.
    pub(crate) fn start(big: &Big, layout: Option<&str>) -> Self {
        let (mut lab, state) = (Lab::new(), TempDir::new().expect("a directory"));
        let router = lab.host("router", 1);
        let mut command = within(&router);
        command.args(["router", "--port", "8080", "--state-dir"]).arg(state.path().join("router"));
        command.args(layout.into_iter().flat_map(|layout| ["--layout", layout]));
        let process = Server::spawn(&mut command);
        process.wait_for("http://");
        let start = |(name, number): (&'static str, u8)| {
            let place = lab.host(name, number);
            let mut command = within(&place);
            command.env("HF_HOME", big.home()).env("MLXCEL_CACHE_DIR", state.path());
            command.args(["node", "--device", "cpu", "--memory", MEMORY, "--name", name, "--state-dir"]);
            (name, Server::spawn(command.arg(state.path().join(name))))
        };
        let nodes = [("one", 2), ("two", 3), ("three", 4)].map(start).into();
        let address = "127.0.0.1:8080".to_owned();
        let hosts = Self { nodes, router, address, _router: process, _state: state, lab };
        hosts.wait_for_nodes(3);
        hosts
    }

    /// Waits until so many nodes are connected, and the model is on offer.
    pub(crate) fn wait_for_nodes(&self, count: usize) {
        eventually("the nodes are connected", || {
            let health = self.on_router(|address| http::json(address, "GET", "/health", &Value::Null).1);
            let nodes = health["nodes"].as_array().map_or(0, Vec::len);
            let offered =
                health["models"].as_array().is_some_and(|all| all.iter().any(|it| it["id"] == NAME));
            nodes == count && offered
        });
    }

    pub(crate) fn ask(&self, body: &Value) -> (u16, Value) {
        self.on_router(|address| http::json(address, "POST", "/v1/completions", body))
    }

    pub(crate) fn stream(&self, body: &Value) -> Events {
        self.on_router(|address| Events::post(address, "/v1/completions", body))
    }

    /// Kills a node, its workers with it: as if its host lost power, but for the cables.
    pub(crate) fn kill(&mut self, name: &str) {
        let at = self.nodes.iter().position(|(of, _)| *of == name).expect("there is such a node");
        self.nodes.remove(at).1.kill();
    }

    /// Pulls a host's cable out of the switch: nobody says good-bye.
    pub(crate) fn cut(&self, name: &str) {
        self.lab.cut(name);
    }

    /// Runs on the router's host.
    fn on_router<T: Send>(&self, run: impl FnOnce(&str) -> T + Send) -> T {
        let (namespace, address) = (format!("/var/run/netns/{}", self.router.0), self.address.clone());
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                let namespace = File::open(namespace).expect("namespace");
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("entered the namespace");
                run(&address)
            });
            there.join().expect("it does not panic")
        })
    }
}

/// The program, on a host.
fn within(place: &Place) -> Command {
    let program = mlxcel();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &place.0]).arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
