//! The fake hub's answers, one request at a time.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use super::{COMMIT, Fault, LARGE, Seen, Shared, etag_of};

const REPO: &str = "owner/name";

pub(crate) fn respond(shared: &mut Shared, seen: &Seen) -> Response {
    if let Some(revision) = seen.path.strip_prefix(&format!("/api/models/{REPO}/revision/")) {
        return listing(shared, revision);
    }
    if let Some(name) = seen.path.strip_prefix("/content/") {
        return content(shared, name, seen.range.as_deref());
    }
    match seen.path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/")) {
        Some(name) => resolve(shared, name, seen.range.as_deref()),
        None => refuse(404, &[("x-error-code", "RepoNotFound")]),
    }
}

fn listing(shared: &mut Shared, revision: &str) -> Response {
    if let Some(Fault::Status(code, headers)) = take(shared, "listing") {
        return refuse(code, &headers);
    }
    if !["main", "v1", COMMIT].contains(&revision) {
        return refuse(404, &[("x-error-code", "RevisionNotFound")]);
    }
    let describe = |(name, bytes): (&String, &Vec<u8>)| {
        if shared.plain_listing {
            return serde_json::json!({"rfilename": name});
        }
        let mut file = serde_json::json!({
            "rfilename": name, "size": bytes.len(), "blobId": etag_of(bytes)
        });
        if bytes.len() >= LARGE {
            file["lfs"] = serde_json::json!({"sha256": etag_of(bytes), "size": bytes.len()});
        }
        file
    };
    let siblings: Vec<_> = shared.files.iter().map(describe).collect();
    axum::Json(serde_json::json!({
        "id": REPO, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}
    }))
    .into_response()
}

/// Small files come from here; large ones from the content network.
fn resolve(shared: &mut Shared, name: &str, range: Option<&str>) -> Response {
    let Some(bytes) = shared.files.get(name) else {
        return refuse(404, &[("x-error-code", "EntryNotFound")]);
    };
    if bytes.len() < LARGE {
        return content(shared, name, range);
    }
    let etag = format!("\"{}\"", etag_of(bytes));
    let headers = [
        ("location", format!("{}/content/{name}", shared.content_network)),
        ("x-repo-commit", COMMIT.to_owned()),
        ("x-linked-etag", etag),
        ("x-linked-size", bytes.len().to_string()),
    ];
    (StatusCode::FOUND, headers).into_response()
}

fn content(shared: &mut Shared, name: &str, range: Option<&str>) -> Response {
    let fault = take(shared, name);
    let Some(whole) = shared.files.get(name) else {
        return refuse(404, &[]);
    };
    if let Some(Fault::Status(code, headers)) = &fault {
        return refuse(*code, headers);
    }
    let size = whole.len();
    let mut builder = Response::builder()
        .header(header::ETAG, format!("\"{}\"", etag_of(whole)))
        .header("x-repo-commit", COMMIT);
    let asked = range.filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    let bytes = match asked.map(|range| parse_range(range, size)) {
        None => whole.clone(),
        Some(None) => return refuse(416, &[]),
        Some(Some((start, end))) => {
            builder = builder
                .status(206)
                .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1));
            whole[start..end].to_vec()
        }
    };
    builder.header(header::CONTENT_LENGTH, bytes.len()).body(body(bytes, fault)).expect("valid headers")
}

fn body(bytes: Vec<u8>, fault: Option<Fault>) -> Body {
    let first = |count: usize| Bytes::copy_from_slice(&bytes[..count.min(bytes.len())]);
    match fault {
        Some(Fault::HangUpAfter(count)) => {
            let start = futures::stream::iter([Ok(first(count))]);
            // The pause lets the first bytes reach the client before the connection breaks.
            let end = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(io::Error::other("hung up"))
            });
            Body::from_stream(start.chain(end))
        }
        Some(Fault::StallAfter(count)) => {
            let start = futures::stream::iter([Ok::<_, Infallible>(first(count))]);
            Body::from_stream(start.chain(futures::stream::pending()))
        }
        Some(Fault::OtherBytes) => Body::from(vec![b'?'; bytes.len()]),
        _ => Body::from(bytes),
    }
}

fn parse_range(range: &str, size: usize) -> Option<(usize, usize)> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start: usize = start.parse().ok()?;
    let end = end.parse().map_or(size, |last: usize| (last + 1).min(size));
    (start < end).then_some((start, end))
}

fn take(shared: &mut Shared, file: &str) -> Option<Fault> {
    shared.faults.get_mut(file)?.pop_front()
}

fn refuse(code: u16, headers: &[(&'static str, &'static str)]) -> Response {
    let mut builder = Response::builder().status(code);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Body::empty()).expect("valid headers")
}
