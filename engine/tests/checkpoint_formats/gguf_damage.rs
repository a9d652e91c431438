//! GGUF files that were cut off or changed at random.

use mlxcel_engine::checkpoint::Checkpoint;
use mlxcel_engine::families;
use proptest::prelude::*;

use crate::gguf::q8_0;

/// Reads everything a file offers; any error is fine, a panic is not.
fn read_all(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("temporary directory");
    crate::fixtures::write(directory.path(), "model.gguf", bytes);
    if let Ok(checkpoint) = Checkpoint::open(directory.path().join("model.gguf")) {
        for name in checkpoint.names() {
            let tensor = checkpoint.tensor(name).expect("listed");
            let size = tensor.shape.iter().product::<usize>() * tensor.dtype.size_bytes();
            assert_eq!(tensor.bytes.as_ref().len(), size);
        }
        _ = checkpoint.text_assets();
        _ = families::describe(checkpoint.config());
    }
}

#[test]
fn every_truncation_is_an_error() {
    let whole = q8_0(1.0).bytes();
    for length in (1..whole.len()).step_by(29) {
        let directory = tempfile::tempdir().expect("temporary directory");
        crate::fixtures::write(directory.path(), "model.gguf", &whole[..length]);
        assert!(Checkpoint::open(directory.path()).is_err(), "{length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_cause_a_panic(
        changes in prop::collection::vec((0_usize..2600, any::<u8>()), 1..6),
        cut in prop::option::of(0_usize..4000),
    ) {
        let mut bytes = q8_0(1.0).bytes();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        read_all(&bytes);
    }

    #[test]
    fn no_lengths_cause_a_panic(at in 0_usize..2600, value in prop::sample::select(vec![
        0_u64, 1, 31, 1 << 31, u64::from(u32::MAX), 1 << 62, u64::MAX - 31, u64::MAX,
    ])) {
        let mut bytes = q8_0(1.0).bytes();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        read_all(&bytes);
    }
}
