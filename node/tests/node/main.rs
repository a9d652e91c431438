//! Nodes with real worker processes, called over real sockets.
#![cfg(unix)]

mod ending;
mod joining;
mod replicas;
mod support;
mod trust;
mod workers;
