//! The head of a frame, as bytes: a header, and the runs behind it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mlxcel_transport::core::{HEADER_BYTES, Head, Header, MAX_FURTHER_RUNS};

fuzz_target!(|bytes: &[u8]| {
    let Some((header, further)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::parse(header) else { return };
    assert!(usize::from(header.further_runs) <= MAX_FURTHER_RUNS);
    if let Ok(head) = Head::parse(header, &further[..further.len().min(header.runs_bytes())]) {
        let bytes: u64 = head.runs.iter().map(|run| u64::from(run.len)).sum();
        assert!(head.runs.is_empty() || bytes == u64::from(head.header.payload));
    }
});
