//! A key that a peer gave: read or refused, and the same when it is written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxcel_transport::Key;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = Key::from_bytes(bytes) {
        assert_eq!(Key::from_bytes(&key.to_bytes()).as_ref(), Ok(&key));
    }
});
