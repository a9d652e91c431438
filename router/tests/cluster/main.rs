//! A whole router against scripted nodes, over real sockets and TLS.

mod admission;
mod api;
mod client;
mod discovery;
mod faults;
mod lifecycle;
mod loading;
mod node;
mod prefill;
mod rig;
