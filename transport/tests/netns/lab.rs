//! Two network namespaces, each with one end of a cable.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cable::{Cable, Quality, tun};

pub(crate) struct Lab {
    names: [String; 2],
    cable: Cable,
}

impl Lab {
    /// None where the system has not what it takes, which is said.
    pub(crate) fn new(quality: Quality) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let names = [0, 1].map(|side| format!("mlxcel-cable-{}-{number}-{side}", std::process::id()));
        let made: Result<Vec<File>, String> =
            names.iter().enumerate().map(|(side, name)| end(name, side)).collect();
        match made {
            Ok(ends) => {
                let ends = ends.try_into().expect("two ends");
                Some(Self { names, cable: Cable::new(ends, quality) })
            }
            Err(why) => {
                eprintln!("SKIPPED: no namespaces with TUN devices here ({why}); run as root with iproute2");
                remove(&names);
                None
            }
        }
    }

    /// Runs something, and the threads it starts, inside one of the namespaces.
    pub(crate) fn inside<T: Send>(&self, side: usize, run: impl FnOnce() -> T + Send) -> T {
        let name = &self.names[side];
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(name).expect("the namespace was made");
                run()
            });
            thread.join().expect("it does not panic")
        })
    }

    /// Cuts the cable, or mends it.
    pub(crate) fn cut(&self, cut: bool) {
        self.cable.cut(cut);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove(&self.names);
    }
}

/// Makes a namespace whose only way out is the TUN device that is returned.
fn end(name: &str, side: usize) -> Result<File, String> {
    ip(&format!("netns add {name}"))?;
    let device = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            enter(name)?;
            tun("cable").map_err(|error| error.to_string())
        });
        opened.join().expect("it does not panic")
    })?;
    let (own, peer) = (side + 1, 2 - side);
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("-n {name} address add 10.79.0.{own} peer 10.79.0.{peer}/32 dev cable"))?;
    ip(&format!("-n {name} link set cable up"))?;
    Ok(device)
}

fn enter(name: &str) -> Result<(), String> {
    let namespace = File::open(format!("/var/run/netns/{name}")).map_err(|error| error.to_string())?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| error.to_string())
}

fn remove(names: &[String]) {
    for name in names {
        // Those that were never made cannot be removed.
        let _ = ip(&format!("netns del {name}"));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
