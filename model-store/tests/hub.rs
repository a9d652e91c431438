//! Models from a hub: what arrives, what is kept, and what is said when it fails.

#![allow(missing_docs, reason = "tests")]

mod fake_hub;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fake_hub::{COMMIT, FakeHub, Fault, etag_of};
use mlxcel_model_store::{Event, ModelRef, Progress, ResolveError, ResolvedModel, Store, StoreOptions};

const WEIGHTS: &str = "model.safetensors";

fn weights() -> Vec<u8> {
    (0..50_000u32).map(|i| (i % 251) as u8).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"tok\": 1}".to_vec()),
        ("README.md", b"# name".to_vec()),
        (WEIGHTS, weights()),
    ]
}

struct Setup {
    hub: FakeHub,
    dir: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        Self::with(&files()).await
    }

    async fn with(files: &[(&str, Vec<u8>)]) -> Self {
        Self { hub: FakeHub::start(files).await, dir: tempfile::tempdir().expect("a directory") }
    }

    fn options(&self) -> StoreOptions {
        StoreOptions {
            endpoint: self.hub.endpoint.clone(),
            first_backoff: Duration::from_millis(1),
            stall_timeout: Duration::from_millis(300),
            ..StoreOptions::at(self.dir.path())
        }
    }

    fn store(&self) -> Store {
        Store::open(self.options()).expect("good options")
    }

    async fn resolve(&self, name: &str) -> Result<ResolvedModel, ResolveError> {
        resolve(&self.store(), name).await
    }

    fn repo_dir(&self) -> PathBuf {
        self.dir.path().join("hub/models--owner--name")
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.repo_dir().join("blobs").join(etag_of(bytes))
    }
}

async fn resolve(store: &Store, name: &str) -> Result<ResolvedModel, ResolveError> {
    let name = ModelRef::parse(name).expect("a model name");
    store.resolve(&name, &()).await
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a readable file")
}

#[tokio::test]
async fn a_repository_arrives_in_the_layout_of_a_hugging_face_cache() {
    let setup = Setup::new().await;
    let model = setup.resolve("owner/name").await.expect("a model");
    assert_eq!(model.path, setup.repo_dir().join("snapshots").join(COMMIT));
    assert_eq!(model.license.as_deref(), Some("mit"));
    assert_eq!(read(&model.path.join(WEIGHTS)), weights());
    assert_eq!(read(&model.path.join("tokenizer.json")), b"{\"tok\": 1}");
    assert_eq!(read(&setup.blob(&weights())), weights());
    assert_eq!(read(&setup.repo_dir().join("refs/main")), COMMIT.as_bytes());
    assert!(!model.path.join("README.md").exists());
}

#[tokio::test]
async fn a_second_resolve_downloads_nothing() {
    let setup = Setup::new().await;
    setup.resolve("owner/name").await.expect("a model");
    let before = setup.hub.log().len();
    setup.resolve("owner/name").await.expect("a model");
    let after = setup.hub.log();
    assert_eq!(after.len(), before + 1, "only the listing is asked for");
    assert!(after[before].path.starts_with("/api/models/"));
}

#[tokio::test]
async fn a_commit_that_is_here_needs_no_network() {
    let setup = Setup::new().await;
    let name = format!("owner/name@{COMMIT}");
    setup.resolve(&name).await.expect("a model");
    let before = setup.hub.log().len();
    setup.resolve(&name).await.expect("a model");
    assert_eq!(setup.hub.log().len(), before);
}

#[tokio::test]
async fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let setup = Setup::new().await;
    setup.hub.fail(WEIGHTS, Fault::HangUpAfter(20_000));
    let model = setup.resolve("owner/name").await.expect("a model");
    assert_eq!(read(&model.path.join(WEIGHTS)), weights());
    let ranges: Vec<_> = setup.hub.log_of(WEIGHTS).into_iter().map(|s| s.range).collect();
    assert_eq!(ranges, [None, Some("bytes=20000-".to_owned())]);
}

#[tokio::test]
async fn a_connection_that_goes_silent_is_resumed() {
    let setup = Setup::new().await;
    setup.hub.fail(WEIGHTS, Fault::StallAfter(10_000));
    let model = setup.resolve("owner/name").await.expect("a model");
    assert_eq!(read(&model.path.join(WEIGHTS)), weights());
    let last = setup.hub.log_of(WEIGHTS).pop().expect("a second request");
    assert_eq!(last.range.as_deref(), Some("bytes=10000-"));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let setup = Setup::new().await;
    setup.hub.fail(WEIGHTS, Fault::HangUpAfter(20_000));
    setup.hub.fail(WEIGHTS, Fault::IgnoreRange);
    let model = setup.resolve("owner/name").await.expect("a model");
    assert_eq!(read(&model.path.join(WEIGHTS)), weights());
}

#[tokio::test]
async fn a_file_that_keeps_ending_early_leaves_no_model_and_is_resumed_next_time() {
    let setup = Setup::new().await;
    setup.hub.fail(WEIGHTS, Fault::HangUpAfter(30_000));
    for _ in 0..6 {
        setup.hub.fail(WEIGHTS, Fault::HangUpAfter(0));
    }
    let error = setup.resolve("owner/name").await.expect_err("it never arrives");
    let text =
        "model.safetensors of owner/name stopped at 30000 of 50000 bytes; run again to go on from there";
    assert_eq!(error.to_string(), text);
    assert!(!setup.blob(&weights()).exists());
    assert!(!setup.repo_dir().join("snapshots").join(COMMIT).join(WEIGHTS).exists());
    assert!(!setup.repo_dir().join("refs/main").exists());
    assert!(setup.store().list().is_empty());

    let requests = setup.hub.log_of(WEIGHTS).len();
    setup.resolve("owner/name").await.expect("a model");
    let resumed = &setup.hub.log_of(WEIGHTS)[requests];
    assert_eq!(resumed.range.as_deref(), Some("bytes=30000-"));
}

#[tokio::test]
async fn a_dropped_download_is_resumed_by_the_next() {
    let setup = Setup::new().await;
    setup.hub.fail(WEIGHTS, Fault::StallAfter(25_000));
    let options = StoreOptions { stall_timeout: Duration::from_secs(60), ..setup.options() };
    let store = Store::open(options).expect("good options");
    let part = PathBuf::from(format!("{}.incomplete", setup.blob(&weights()).display()));
    let arrived = async {
        while part.metadata().map_or(0, |m| m.len()) < 25_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = resolve(&store, "owner/name") => panic!("the server is silent"),
        () = arrived => {}
    }
    setup.resolve("owner/name").await.expect("a model");
    let last = setup.hub.log_of(WEIGHTS).pop().expect("a second request");
    assert_eq!(last.range.as_deref(), Some("bytes=25000-"));
}

#[tokio::test]
async fn bytes_that_do_not_match_the_checksum_are_deleted() {
    let setup = Setup::new().await;
    setup.hub.fail(WEIGHTS, Fault::OtherBytes);
    let error = setup.resolve("owner/name").await.expect_err("wrong bytes");
    assert!(matches!(&error, ResolveError::Corrupt { file, .. } if file == WEIGHTS), "{error}");
    setup.resolve("owner/name").await.expect("right bytes this time");
}

#[tokio::test]
async fn an_unknown_repository_is_named() {
    let setup = Setup::new().await;
    let error = setup.resolve("owner/other").await.expect_err("no such repository");
    let expected = format!("owner/other is not on {} (404)", setup.hub.endpoint);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn an_unknown_revision_is_named() {
    let setup = Setup::new().await;
    let error = setup.resolve("owner/name@v9").await.expect_err("no such revision");
    assert!(matches!(&error, ResolveError::NoSuchRevision { revision, .. } if revision == "v9"));
}

#[tokio::test]
async fn a_revision_gets_its_own_ref() {
    let setup = Setup::new().await;
    setup.resolve("owner/name@v1").await.expect("a model");
    assert_eq!(read(&setup.repo_dir().join("refs/v1")), COMMIT.as_bytes());
    assert!(!setup.repo_dir().join("refs/main").exists());
}

#[tokio::test]
async fn a_refused_listing_asks_for_a_token() {
    for status in [401, 403] {
        let setup = Setup::new().await;
        let said = vec![("x-error-message", "accept the terms")];
        setup.hub.fail("listing", Fault::Status(status, said));
        let error = setup.resolve("owner/name").await.expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(&status.to_string()), "{text}");
        assert!(text.contains("set HF_TOKEN"), "{text}");
        assert!(text.ends_with("accept the terms"), "{text}");
        assert_eq!(setup.hub.log().len(), 1, "asking again would not help");
    }
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_where_it_redirects() {
    let setup = Setup::new().await;
    let options = StoreOptions { token: Some("hf_secret".to_owned()), ..setup.options() };
    let store = Store::open(options).expect("good options");
    resolve(&store, "owner/name").await.expect("a model");
    for seen in setup.hub.log() {
        let expected = (!seen.on_content_network).then_some("Bearer hf_secret");
        assert_eq!(seen.authorization.as_deref(), expected, "{}", seen.path);
    }
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_as_asked() {
    let setup = Setup::new().await;
    let wait = vec![("retry-after", "1")];
    setup.hub.fail("listing", Fault::Status(429, wait));
    let start = Instant::now();
    setup.resolve("owner/name").await.expect("a model");
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_rate_limit_without_end_is_reported() {
    let setup = Setup::new().await;
    for _ in 0..7 {
        let now = vec![("retry-after", "0")];
        setup.hub.fail("listing", Fault::Status(429, now));
    }
    let error = setup.resolve("owner/name").await.expect_err("limited");
    assert!(matches!(error, ResolveError::RateLimited { .. }), "{error}");
    assert_eq!(setup.hub.log().len(), 6, "one try and five more");
}

#[tokio::test]
async fn a_rate_limited_file_is_waited_for_too() {
    let setup = Setup::new().await;
    setup.hub.fail(WEIGHTS, Fault::Status(429, vec![("retry-after", "0")]));
    setup.hub.fail(WEIGHTS, Fault::Status(503, vec![]));
    setup.resolve("owner/name").await.expect("a model");
    assert_eq!(setup.hub.log_of(WEIGHTS).len(), 3);
}

#[tokio::test]
async fn offline_uses_the_cache_and_asks_nobody() {
    let setup = Setup::new().await;
    let online = setup.resolve("owner/name").await.expect("a model");
    let before = setup.hub.log().len();
    let options = StoreOptions { offline: true, ..setup.options() };
    let store = Store::open(options).expect("good options");
    let offline = resolve(&store, "owner/name").await.expect("a cached model");
    assert_eq!(offline.path, online.path);
    assert_eq!(setup.hub.log().len(), before);
}

#[tokio::test]
async fn offline_without_a_copy_says_so() {
    let setup = Setup::new().await;
    let options = StoreOptions { offline: true, ..setup.options() };
    let store = Store::open(options).expect("good options");
    let error = resolve(&store, "owner/name").await.expect_err("not cached");
    assert!(matches!(error, ResolveError::Offline { .. }), "{error}");
    assert!(setup.hub.log().is_empty());
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_costs_nothing_where_a_copy_is_here() {
    let setup = Setup::new().await;
    let online = setup.resolve("owner/name").await.expect("a model");
    let options = StoreOptions { endpoint: "http://127.0.0.1:1".to_owned(), ..setup.options() };
    let store = Store::open(options).expect("good options");
    let cached = resolve(&store, "owner/name").await.expect("a cached model");
    assert_eq!(cached.path, online.path);
    let error = resolve(&store, "owner/other").await.expect_err("no copy");
    assert!(matches!(error, ResolveError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn files_that_pythons_tools_left_are_not_downloaded_again() {
    let setup = Setup::new().await;
    let blob = setup.blob(&weights());
    std::fs::create_dir_all(blob.parent().expect("blobs")).expect("a cache");
    std::fs::write(&blob, weights()).expect("a blob");
    setup.resolve("owner/name").await.expect("a model");
    assert!(setup.hub.log_of(WEIGHTS).is_empty());
}

#[tokio::test]
async fn a_mirror_that_lists_names_only_serves_models_too() {
    let setup = Setup::new().await;
    setup.hub.list_names_only();
    let model = setup.resolve("owner/name").await.expect("a model");
    assert_eq!(read(&model.path.join(WEIGHTS)), weights());
    assert_eq!(read(&setup.blob(&weights())), weights());
}

#[tokio::test]
async fn two_stores_at_once_download_each_file_once() {
    let setup = Setup::new().await;
    let (first, second) = tokio::join!(setup.resolve("owner/name"), setup.resolve("owner/name"));
    assert_eq!(first.expect("a model"), second.expect("a model"));
    assert_eq!(setup.hub.log_of(WEIGHTS).len(), 1);
}

#[tokio::test]
async fn one_gguf_of_several_is_fetched_by_its_tag() {
    let files = [("m-Q4_0.gguf", weights()), ("m-Q8_0.gguf", b"other".to_vec())];
    let setup = Setup::with(&files).await;
    let model = setup.resolve("owner/name:q4_0").await.expect("a model");
    assert_eq!(read(&model.path), weights());
    assert!(setup.hub.log_of("m-Q8_0.gguf").is_empty());
}

#[tokio::test]
async fn a_removed_repository_is_gone_from_the_list_and_the_disk() {
    let setup = Setup::new().await;
    setup.resolve("owner/name").await.expect("a model");
    let store = setup.store();
    let names: Vec<_> = store.list().into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["owner/name"]);
    let freed = store.remove("owner/name").expect("it is stored");
    assert!(freed >= weights().len() as u64, "{freed}");
    assert!(store.list().is_empty());
    assert!(!setup.repo_dir().exists());
    assert!(store.remove("owner/name").is_err());
}

#[derive(Default)]
struct Positions(Mutex<Vec<(u64, Option<u64>)>>);

impl Progress for Positions {
    fn event(&self, event: Event<'_>) {
        let mut seen = self.0.lock().expect("no receiver panicked");
        match event {
            Event::Started { file, done_bytes, total_bytes } if file == WEIGHTS => {
                seen.push((done_bytes, total_bytes));
            }
            Event::Advanced { file, done_bytes } if file == WEIGHTS => seen.push((done_bytes, None)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn progress_starts_at_what_is_here_and_ends_at_the_whole() {
    let setup = Setup::new().await;
    let blob = setup.blob(&weights());
    std::fs::create_dir_all(blob.parent().expect("blobs")).expect("a cache");
    let part = PathBuf::from(format!("{}.incomplete", blob.display()));
    std::fs::write(part, &weights()[..12_345]).expect("an earlier try");
    let positions = Positions::default();
    let name = ModelRef::parse("owner/name").expect("a model name");
    setup.store().resolve(&name, &positions).await.expect("a model");
    let seen = positions.0.into_inner().expect("no receiver panicked");
    assert_eq!(seen.first(), Some(&(12_345, Some(50_000))));
    assert_eq!(seen.last(), Some(&(50_000, None)));
}
