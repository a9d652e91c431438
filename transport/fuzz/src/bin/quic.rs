//! The streams of a QUIC peer that was let in: frames without payload, cut anywhere, and frames with payload whose bytes
//! come in any order.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mlxcel_transport_quic::fuzzing::streams(bytes));
