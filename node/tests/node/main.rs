//! Nodes with real worker processes, called over real sockets.
#![cfg(unix)]

mod ending;
mod joining;
mod prefixes;
mod replicas;
mod support;
mod trust;
mod workers;
