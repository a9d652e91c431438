//! One file from a hub into the cache, resumed where it stopped.
//!
//! Bytes go to `<blob>.incomplete`, which takes the blob's name once its size and checksum are
//! right, so a reader never sees half a file. Knows one file; `hub` decides which, and links it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};
use tokio::io::AsyncWriteExt;

use super::info::RemoteFile;
use super::retry::RetryPolicy;
use super::status::{Failure, innermost, refusal, unreachable};
use crate::error::ResolveError;
use crate::lock::DiskLock;
use crate::progress::{Event, Progress};
use crate::reference::HubRef;
use crate::wheel::sha256_of_file;

/// Everything one download needs.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a Client,
    pub(crate) url: String,
    pub(crate) endpoint: &'a str,
    pub(crate) want: &'a HubRef,
    pub(crate) file: &'a RemoteFile,
    pub(crate) blob: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) retry: RetryPolicy,
    pub(crate) stall_timeout: Duration,
    pub(crate) progress: &'a dyn Progress,
}

impl Download<'_> {
    /// Returns when the blob is complete and verified.
    pub(crate) async fn run(&self) -> Result<(), ResolveError> {
        let name = self.file.name.as_str();
        let waiting = || self.progress.event(Event::WaitingForLock { file: name });
        let _lock = DiskLock::acquire(&self.lock, waiting)
            .await
            .map_err(|cause| ResolveError::io("lock", &self.lock, cause))?;
        if !self.blob.exists() {
            let part = self.part();
            self.fill(&part).await?;
            self.verify(&part).await?;
            std::fs::rename(&part, &self.blob).map_err(|cause| ResolveError::write(&self.blob, 0, cause))?;
        }
        self.progress.event(Event::Finished { file: name });
        Ok(())
    }

    /// Repeats attempts until the part has every byte, giving up after too many that added none.
    async fn fill(&self, part: &Path) -> Result<(), ResolveError> {
        let mut failures = 0;
        let mut have = self.open(part)?;
        self.progress.event(Event::Started {
            file: &self.file.name,
            done_bytes: have,
            total_bytes: Some(self.file.size),
        });
        while have < self.file.size {
            let before = have;
            let outcome = self.attempt(part, &mut have).await;
            if have > before {
                failures = 0;
            }
            if have == self.file.size {
                break;
            }
            let failure = outcome.err().unwrap_or_else(|| self.ended_early(have));
            if !failure.may_pass {
                return Err(failure.error);
            }
            failures += 1;
            self.wait(failures, failure).await?;
        }
        Ok(())
    }

    async fn wait(&self, failures: u32, failure: Failure) -> Result<(), ResolveError> {
        let Some(wait) = self.retry.pause(failures, failure.retry_after) else {
            return Err(failure.error);
        };
        let reason = failure.error.to_string();
        tracing::debug!(file = self.file.name, ?wait, reason, "download interrupted");
        self.progress.event(Event::Retrying { file: &self.file.name, wait, reason: &reason });
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Makes the part exist, and returns how much of it can be kept.
    fn open(&self, part: &Path) -> Result<u64, ResolveError> {
        let opened = || -> io::Result<u64> {
            if let Some(parent) = part.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let file = std::fs::OpenOptions::new().create(true).append(true).open(part)?;
            let have = file.metadata()?.len();
            if have <= self.file.size {
                return Ok(have);
            }
            file.set_len(0)?;
            Ok(0)
        };
        opened().map_err(|cause| ResolveError::write(part, self.file.size, cause))
    }

    /// One request for what is missing. `have` follows the bytes on disk, whatever happens.
    async fn attempt(&self, part: &Path, have: &mut u64) -> Result<(), Failure> {
        let mut request = self.client.get(&self.url);
        // A compressed body would make byte positions meaningless.
        request = request.header(ACCEPT_ENCODING, "identity");
        if *have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let sent = tokio::time::timeout(self.stall_timeout, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(innermost(&error))),
            Err(_) => return Err(self.broken(self.stalled())),
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.continues(&response, *have) => {}
            StatusCode::OK if *have == 0 => {}
            StatusCode::OK => self.restart(part, have).map_err(Failure::fatal)?,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart(part, have).map_err(Failure::fatal)?;
                return Err(self.ended_early(0));
            }
            _ => return Err(refusal(&response, self.want, self.endpoint)),
        }
        self.append(part, response, have).await
    }

    async fn append(&self, part: &Path, response: Response, have: &mut u64) -> Result<(), Failure> {
        let full = |need: u64, cause| Failure::fatal(ResolveError::write(part, need, cause));
        let need = self.file.size - *have;
        let opened = tokio::fs::OpenOptions::new().append(true).open(part).await;
        let mut out = opened.map_err(|cause| full(need, cause))?;
        let mut body = response.bytes_stream();
        loop {
            let next = tokio::time::timeout(self.stall_timeout, body.next()).await;
            let chunk = match next {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) => return Ok(()),
                Ok(Some(Err(_))) => return Err(self.ended_early(*have)),
                Err(_) => return Err(self.ended_early(*have)),
            };
            if *have + chunk.len() as u64 > self.file.size {
                self.restart(part, have).map_err(Failure::fatal)?;
                return Err(Failure::fatal(self.corrupt()));
            }
            let need = self.file.size - *have;
            // Flushed at once, so that `have` is what a later attempt finds.
            let written = async {
                out.write_all(&chunk).await?;
                out.flush().await
            };
            written.await.map_err(|cause| full(need, cause))?;
            *have += chunk.len() as u64;
            self.progress.event(Event::Advanced { file: &self.file.name, done_bytes: *have });
        }
    }

    fn restart(&self, part: &Path, have: &mut u64) -> Result<(), ResolveError> {
        *have = 0;
        std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(part)
            .map(|_| ())
            .map_err(|cause| ResolveError::write(part, self.file.size, cause))
    }

    /// `Content-Range: bytes HAVE-LAST/SIZE` of the file we started with.
    fn continues(&self, response: &Response, have: u64) -> bool {
        let range = response.headers().get(CONTENT_RANGE);
        let range = range.and_then(|value| value.to_str().ok()).unwrap_or("");
        let starts = range.starts_with(&format!("bytes {have}-"));
        starts && (range.ends_with(&format!("/{}", self.file.size)) || range.ends_with("/*"))
    }

    async fn verify(&self, part: &Path) -> Result<(), ResolveError> {
        let Some(expected) = &self.file.sha256 else {
            return Ok(());
        };
        let got = sha256_of_file(part).await.map_err(|cause| ResolveError::io("read", part, cause))?;
        if got == *expected {
            return Ok(());
        }
        std::fs::remove_file(part).map_err(|cause| ResolveError::io("remove", part, cause))?;
        Err(self.corrupt())
    }

    fn part(&self) -> PathBuf {
        let mut name = self.blob.clone().into_os_string();
        name.push(".incomplete");
        PathBuf::from(name)
    }

    fn corrupt(&self) -> ResolveError {
        ResolveError::Corrupt { repo: self.want.repo.clone(), file: self.file.name.clone() }
    }

    fn ended_early(&self, have_bytes: u64) -> Failure {
        Failure::passing(ResolveError::Truncated {
            repo: self.want.repo.clone(),
            file: self.file.name.clone(),
            have_bytes,
            want_bytes: self.file.size,
        })
    }

    fn broken(&self, cause: String) -> Failure {
        unreachable(cause, self.want, self.endpoint)
    }

    fn stalled(&self) -> String {
        format!("no answer for {} s", self.stall_timeout.as_secs_f32())
    }
}
