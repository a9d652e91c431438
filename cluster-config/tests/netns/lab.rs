//! A laboratory: hosts as network namespaces, each with one cable to a switch.
//!
//! The switch is a bridge in a namespace of its own, so nothing of the machine's own network is
//! touched. Everything is removed when the laboratory is dropped, and what a killed run left
//! behind is removed by the next.

use std::fs::File;
use std::process::Command;

/// Where a host's tasks run: the name of its network namespace.
#[derive(Clone)]
pub(crate) struct Place(pub(crate) String);

pub(crate) struct Lab {
    /// Namespaces made here.
    made: Vec<String>,
    /// Held so that laboratories of several test processes take turns: the machine is small and
    /// the tests measure time.
    _turn: File,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let lock = std::env::temp_dir().join("mlxcel-netns-test.lock");
        let turn = File::create(&lock).unwrap_or_else(|error| panic!("{}: {error}\n{NEEDS}", lock.display()));
        turn.lock().expect("turn to use the network");
        sweep();
        let mut lab = Self { made: Vec::new(), _turn: turn };
        let switch = lab.add("switch");
        run(&format!("-n {switch} link add br0 type bridge mcast_snooping 0"));
        run(&format!("-n {switch} link set br0 up"));
        lab
    }

    /// A host at 10.77.0.`number`, connected to the switch.
    pub(crate) fn host(&mut self, name: &str, number: u8) -> Place {
        let (place, switch) = (self.lone_host(name), namespace("switch"));
        let host = &place.0;
        run(&format!("-n {switch} link add name port-{name} type veth peer name eth0 netns {host}"));
        run(&format!("-n {switch} link set dev port-{name} master br0 up"));
        run(&format!("-n {host} address add 10.77.0.{number}/24 dev eth0"));
        run(&format!("-n {host} link set eth0 up"));
        place
    }

    /// A host with nothing but loopback.
    pub(crate) fn lone_host(&mut self, name: &str) -> Place {
        let host = self.add(name);
        run(&format!("-n {host} link set lo up"));
        Place(host)
    }

    /// Pulls the host's cable out of the switch.
    pub(crate) fn cut(&self, name: &str) {
        run(&format!("-n {} link set dev port-{name} down", namespace("switch")));
    }

    /// Puts it back.
    pub(crate) fn restore(&self, name: &str) {
        run(&format!("-n {} link set dev port-{name} up", namespace("switch")));
    }

    /// Silently drops what arrives at a TCP port of the host from outside. Done by a routing
    /// rule, which every kernel with policy routing has; the rule that looks up local addresses
    /// has to move behind it.
    pub(crate) fn drop_tcp(&self, name: &str, port: u16) {
        let host = namespace(name);
        for family in ["-4", "-6"] {
            run(&format!("{family} -n {host} rule add pref 20 table local"));
            run(&format!("{family} -n {host} rule add pref 10 iif eth0 ipproto tcp dport {port} blackhole"));
            run(&format!("{family} -n {host} rule del pref 0"));
        }
    }

    /// Takes the firewall down.
    pub(crate) fn allow_tcp(&self, name: &str) {
        for family in ["-4", "-6"] {
            run(&format!("{family} -n {} rule del pref 10", namespace(name)));
        }
    }

    /// Gives the host 10.78.0.`number` in place of its addresses, IPv6 included.
    pub(crate) fn move_to_other_subnet(&self, name: &str, number: u8) {
        let host = namespace(name);
        run(&format!("-n {host} address flush dev eth0"));
        run(&format!("-n {host} address add 10.78.0.{number}/24 dev eth0"));
    }

    fn add(&mut self, name: &str) -> String {
        let namespace = namespace(name);
        run(&format!("netns add {namespace}"));
        self.made.push(namespace.clone());
        namespace
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in &self.made {
            // Cables vanish with the namespace; a panic here would hide the test's own.
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

/// Unique to this process: laboratories take turns, so one at a time suffices.
fn namespace(name: &str) -> String {
    format!("{PREFIX}{}-{name}", std::process::id())
}

/// Removes what runs that were killed left behind.
fn sweep() {
    let Ok(listed) = ip("netns list") else {
        return;
    };
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let dead = |pid: &str| !std::path::Path::new("/proc").join(pid).exists();
        if owner.is_some_and(dead) {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn run(arguments: &str) {
    if let Err(refusal) = ip(arguments) {
        panic!("`ip {arguments}` failed: {refusal}\n{NEEDS}");
    }
}

fn ip(arguments: &str) -> Result<String, String> {
    let output =
        Command::new("ip").args(arguments.split_whitespace()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

const NEEDS: &str = "these tests need iproute2, network namespaces and root; run `sudo -E cargo \
                     test -p mlxcel-cluster-config --test netns`";
const PREFIX: &str = "mlxcel-test-";
