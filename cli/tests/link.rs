//! Two hosts of one machine measure the ways between them: real `mlxcel` processes.

#![cfg(unix)]
#![allow(clippy::expect_used, reason = "tests")]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{Server, mlxcel, succeed, text};
use tempfile::TempDir;

/// A host that waits, and where.
fn waiting(state: &TempDir, token: &str) -> (Server, String) {
    let mut command = mlxcel();
    command.args(["link", "--listen", "--token", token]).env("MLXCEL_STATE_DIR", state.path());
    let server = Server::spawn(&mut command);
    let line = server.wait_for("mlxcel link ");
    let port = line.trim().rsplit(':').next().expect("a port").to_owned();
    (server, format!("127.0.0.1:{port}"))
}

#[test]
fn every_way_between_two_hosts_is_measured_and_the_best_one_named() {
    let (here, there) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (server, address) = waiting(&there, "secret");
    let call = || {
        let mut command = mlxcel();
        command.args(["link", &address, "--token", "secret", "--json"]).env("MLXCEL_STATE_DIR", here.path());
        serde_json::from_str::<Value>(&succeed(&mut command)).expect("JSON")
    };
    let report = call();
    let ways = report["ways"].as_array().expect("a list");
    let of = |kind: &str| ways.iter().find(|way| way["kind"] == kind).expect("every kind has a verdict");
    if !Path::new("/sys/class/infiniband").exists() {
        let verdict = of("rdma")["verdict"].as_str().expect("text");
        let known = ["no device", "no libibverbs", "on Linux only", "not in this build"];
        assert!(known.contains(&verdict), "{verdict}");
        assert_eq!(report["chosen"], "tcp");
    }
    for kind in ["tcp", "quic"] {
        let way = of(kind);
        assert!(way["round_trip_us"].as_f64().is_some_and(|us| us > 0.0), "{way}");
        assert!(way["bytes_per_second"].as_f64().is_some_and(|rate| rate > 1e6), "{way}");
    }
    server.wait_for("measured with ");
    assert_eq!(call()["chosen"], report["chosen"], "it goes on waiting for others");
}

#[test]
fn a_host_with_another_token_is_told_so() {
    let (here, there) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (_server, address) = waiting(&there, "secret");
    let mut command = mlxcel();
    command.args(["link", &address, "--token", "guess"]).env("MLXCEL_STATE_DIR", here.path());
    let output = command.output().expect("mlxcel runs");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("is its --token the same?"), "{said}");
}

#[test]
fn a_host_that_is_killed_while_it_is_measured_with_is_named_lost() {
    let (here, there) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let (server, address) = waiting(&there, "secret");
    let mut command = mlxcel();
    command.args(["link", &address, "--token", "secret", "--seconds", "60"]);
    command.env("MLXCEL_STATE_DIR", here.path()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("mlxcel starts");
    std::thread::sleep(std::time::Duration::from_secs(2));
    drop(server);
    let begun = std::time::Instant::now();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("no way to {address} works")), "{said}");
    assert!(begun.elapsed().as_secs() < 10, "it did not measure on for a minute");
}
