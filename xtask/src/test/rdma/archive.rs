//! An archive that the kernel unpacks as its first file system: cpio, format "newc".

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// An archive in the making. Directories come with what is in them.
pub(super) struct Archive<W> {
    into: W,
    directories: BTreeSet<String>,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) const fn new(into: W) -> Self {
        Self { into, directories: BTreeSet::new(), entries: 0 }
    }

    /// Adds a file that may be run, at this absolute path.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.directories_of(path)?;
        self.entry(path, FILE | 0o755, bytes)
    }

    /// Adds a link at this absolute path.
    pub(super) fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.directories_of(path)?;
        self.entry(path, LINK | 0o777, to.as_bytes())
    }

    /// Adds an empty directory.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.directories_of(path)?;
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY | 0o755, &[])
        } else {
            Ok(())
        }
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry("/TRAILER!!!", 0, &[])?;
        self.into.flush()
    }

    fn directories_of(&mut self, path: &str) -> io::Result<()> {
        match Path::new(path).parent().and_then(Path::to_str) {
            None | Some("/" | "") => Ok(()),
            Some(parent) => self.directory(parent),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.entries += 1;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let mut head = String::from("070701");
        fields.iter().for_each(|field| head.push_str(&format!("{field:08x}")));
        head.push_str(name);
        head.push('\0');
        self.padded(head.as_bytes())?;
        self.padded(bytes)
    }

    /// Everything begins at a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.into.write_all(bytes)?;
        self.into.write_all(&[0; 3][..bytes.len().wrapping_neg() % 4])
    }
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_begin_at_multiples_of_four_with_their_directories_before_them() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("/bin/tool", b"12345").expect("memory takes it");
        archive.link("/bin/other", "tool").expect("memory takes it");
        archive.finish().expect("memory takes it");
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        let names: Vec<&str> =
            starts.iter().map(|start| text[start + 110..].split('\0').next().expect("a name")).collect();
        assert_eq!(names, ["bin", "bin/tool", "bin/other", "TRAILER!!!"]);
    }
}
