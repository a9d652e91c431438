//! A server that speaks a model hub's protocol, and can be told to misbehave.
//!
//! Serves listings and small files itself and redirects large ones to a second server, as the
//! real hub does to its content network. Keeps a log of what it was asked; asserts nothing.

mod respond;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// The commit every repository of the fake is at.
pub(crate) const COMMIT: &str = "1111111111111111111111111111111111111111";
/// Files of this many bytes or more are stored the way the hub stores large files.
const LARGE: usize = 1000;

/// One way to misbehave, used up by one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Announce the whole body and hang up after this many bytes.
    HangUpAfter(usize),
    /// Send this many bytes, then nothing, with the connection open.
    StallAfter(usize),
    /// Serve the whole file although a range was asked for.
    IgnoreRange,
    /// Serve other bytes of the same length.
    OtherBytes,
    /// Refuse with a status and headers.
    Status(u16, Vec<(&'static str, &'static str)>),
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) on_content_network: bool,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    files: HashMap<String, Vec<u8>>,
    faults: HashMap<String, VecDeque<Fault>>,
    log: Vec<Seen>,
    content_network: String,
    plain_listing: bool,
}

type Handle = Arc<Mutex<Shared>>;

/// A running hub with one repository, `owner/name`.
#[derive(Debug)]
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    shared: Handle,
}

impl FakeHub {
    pub(crate) async fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let shared = Handle::default();
        let content = serve(shared.clone(), true).await;
        let hub = serve(shared.clone(), false).await;
        {
            let mut shared = lock(&shared);
            shared.content_network = format!("http://{content}");
            let owned = files.iter().map(|(n, b)| ((*n).to_owned(), b.clone()));
            shared.files = owned.collect();
        }
        Self { endpoint: format!("http://{hub}"), shared }
    }

    /// Makes the next request for `file` go wrong; `listing` stands for the repository's listing.
    pub(crate) fn fail(&self, file: &str, fault: Fault) {
        let mut shared = lock(&self.shared);
        let queue = shared.faults.entry(file.to_owned()).or_default();
        queue.push_back(fault);
    }

    /// Leaves sizes and checksums out of listings, as some mirrors do.
    pub(crate) fn list_names_only(&self) {
        lock(&self.shared).plain_listing = true;
    }

    pub(crate) fn log(&self) -> Vec<Seen> {
        lock(&self.shared).log.clone()
    }

    /// The requests for the bytes of one file, wherever they were served.
    pub(crate) fn log_of(&self, file: &str) -> Vec<Seen> {
        let is_body = |seen: &Seen| seen.path == format!("/content/{file}");
        let is_small = |seen: &Seen| seen.path.ends_with(&format!("/resolve/{COMMIT}/{file}"));
        let large = lock(&self.shared).files.get(file).is_some_and(|bytes| bytes.len() >= LARGE);
        let log = self.log().into_iter();
        log.filter(|seen| if large { is_body(seen) } else { is_small(seen) }).collect()
    }
}

/// The name a blob of these bytes has in the cache.
pub(crate) fn etag_of(bytes: &[u8]) -> String {
    let sha256 = hex::encode(Sha256::digest(bytes));
    match bytes.len() >= LARGE {
        true => sha256,
        // Stands for git's object id, which is forty digits of another hash.
        false => sha256[..40].to_owned(),
    }
}

async fn serve(shared: Handle, is_content_network: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let app = Router::new().fallback(answer).with_state((shared, is_content_network));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn answer(State((shared, content)): State<(Handle, bool)>, request: Request) -> Response {
    let header = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
    let seen = Seen {
        on_content_network: content,
        path: request.uri().path().to_owned(),
        range: header("range"),
        authorization: header("authorization"),
    };
    let mut shared = lock(&shared);
    shared.log.push(seen.clone());
    respond::respond(&mut shared, &seen)
}

fn lock(shared: &Handle) -> MutexGuard<'_, Shared> {
    shared.lock().expect("no handler panicked")
}
