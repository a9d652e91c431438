//! Failures of the disk, which real files do not produce on demand.

use std::io::{self, Cursor, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::json;

use super::output::{Output, create_file};
use super::*;

fn model(directory: &Path) -> Checkpoint {
    let config = json!({"model_type": "llama"});
    let header =
        json!({"a.weight": {"dtype": "F32", "shape": [4, 32], "data_offsets": [0, 512]}}).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + 512, 0);
    std::fs::write(directory.join("config.json"), config.to_string()).expect("written");
    std::fs::write(directory.join("tokenizer.json"), "{}").expect("written");
    std::fs::write(directory.join("model.safetensors"), file).expect("written");
    Checkpoint::open(directory).expect("opens")
}

/// Accepts a file's header, but not its data.
struct FullDisk(Cursor<Vec<u8>>);

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.position() {
            0 => self.0.write(bytes),
            _ => Err(ErrorKind::StorageFull.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for FullDisk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

fn full_disk(path: &Path) -> io::Result<Box<dyn Output>> {
    match path.extension().is_some_and(|extension| extension == "safetensors") {
        true => Ok(Box::new(FullDisk(Cursor::new(Vec::new())))),
        false => create_file(path),
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_behind() {
    let source = tempfile::tempdir().expect("temporary directory");
    let parent = tempfile::tempdir().expect("temporary directory");
    let checkpoint = model(source.path());
    let target = parent.path().join("out");
    let result = write_with(&checkpoint, &target, &WriteOptions::default(), &mut |_| {}, full_disk);
    assert!(matches!(result, Err(WriteError::NoSpace { needed_bytes: 512, .. })), "{result:?}");
    assert_eq!(std::fs::read_dir(parent.path()).expect("listed").count(), 0);
}
