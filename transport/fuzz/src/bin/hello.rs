//! First words on a connection: understood or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxcel_transport::core::hello::{ANSWER_BYTES, Answer, HELLO_BYTES, Hello};

fuzz_target!(|bytes: &[u8]| {
    if let Some(hello) = bytes.first_chunk::<HELLO_BYTES>() {
        // As sent, and with a checksum that fits, so that what is behind it is reached.
        let _ = Hello::parse(hello);
    }
    if let Some(answer) = bytes.first_chunk::<ANSWER_BYTES>() {
        let _ = Answer::parse(answer);
    }
});
