//! Checks of the source that no compiler makes.
//!
//! Headers, lengths, and traces of the machine a file was written on. Reports every offence
//! rather than the first; changes nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{root, tools};

/// Where a file is questioned, and where it is refused.
const LONG_LINES: usize = 400;
const TOO_LONG_LINES: usize = 600;

const CODE: &[&str] = &["rs", "cpp", "cu", "h", "py", "ts"];

pub(crate) fn run() -> Result<()> {
    let listed = tools::output(Command::new("git").args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let machine = machine_paths();
    let mut offences = Vec::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        // Binary files, and files deleted but still in the index, have nothing to say.
        let Ok(text) = std::fs::read_to_string(root().join(name)) else {
            continue;
        };
        let found = offences_in(name, &text, &machine);
        offences.extend(found.into_iter().map(|offence| format!("{name}: {offence}")));
        let lines = text.lines().count();
        if is_code(name) && (LONG_LINES + 1..=TOO_LONG_LINES).contains(&lines) {
            println!("    {name}: {lines} lines; is it one idea?");
        }
    }
    if !offences.is_empty() {
        bail!("{} offences:\n    {}", offences.len(), offences.join("\n    "));
    }
    Ok(())
}

fn offences_in(name: &str, text: &str, machine: &[String]) -> Vec<String> {
    let mut offences = Vec::new();
    if name.ends_with(".rs") && !is_test_module(name) && !text.starts_with("//!") {
        offences
            .push("the file must begin with a //! header: what it does, what it does not know".to_owned());
    }
    let lines = text.lines().count();
    if is_code(name) && lines > TOO_LONG_LINES {
        offences.push(format!("a file must not exceed {TOO_LONG_LINES} lines, got {lines}"));
    }
    for (number, line) in text.lines().enumerate() {
        if machine.iter().any(|path| line.contains(path)) {
            offences.push(format!("line {} names a path of this machine", number + 1));
        }
    }
    offences
}

fn is_code(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| CODE.contains(&extension))
}

/// Tests of a module: what they test has the header.
fn is_test_module(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// The repository's own place and the user's home, where they are long enough to mean anything.
fn machine_paths() -> Vec<String> {
    let home = std::env::home_dir().unwrap_or_default();
    let paths = [root(), home.as_path()].map(|path| format!("{}/", path.display()));
    paths.into_iter().filter(|path| path.len() > 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_file_without_a_header_is_an_offence() {
        assert_eq!(offences_in("a/src/b.rs", "use x;\n", &[]).len(), 1);
        assert!(offences_in("a/src/b.rs", "//! B.\n", &[]).is_empty());
        assert!(offences_in("a/src/b/tests.rs", "use x;\n", &[]).is_empty());
    }

    #[test]
    fn a_file_that_is_too_long_is_an_offence() {
        let text = "//! B.\n".repeat(TOO_LONG_LINES + 1);
        let expected = "a file must not exceed 600 lines, got 601";
        assert_eq!(offences_in("b.rs", &text, &[]), [expected]);
        assert!(offences_in("b.json", &text, &[]).is_empty());
    }

    #[test]
    fn a_path_of_this_machine_is_an_offence_at_its_line() {
        let machine = ["/home/me/".to_owned()];
        let found = offences_in("b.md", "fine\nsee /home/me/notes\n", &machine);
        assert_eq!(found, ["line 2 names a path of this machine"]);
    }
}
