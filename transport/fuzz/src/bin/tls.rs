//! Records of a TLS connection, from a peer that knows the key.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxcel_transport::tcp::tls::fuzzing::records;

fuzz_target!(|bytes: &[u8]| records(bytes));
