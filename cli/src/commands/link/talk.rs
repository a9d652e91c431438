//! What two hosts say to each other while they measure: lines of JSON over mutually authenticated TLS.

use anyhow::{Context, Result, bail};
use mlxcel_cluster_config::Fingerprint;
use mlxcel_cluster_config::token::{token_proof, verify_token_proof};
use mlxcel_transport::Key;
use mlxcel_transport::selection::Offer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// A conversation.
pub(super) struct Talk<S> {
    stream: BufReader<S>,
}

/// What the host that called wants.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// It has connected, and wants somewhere to write to.
    Measure,
    /// It has left the way it took.
    Left,
    /// That was all.
    Done,
}

#[derive(Serialize, Deserialize)]
struct Introduction {
    proof: Vec<u8>,
    offer: Offer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Proves to `peer` that we hold the token, and tells what we offer.
    pub(super) async fn introduce(
        &mut self,
        token: &str,
        own: Fingerprint,
        peer: Fingerprint,
        offer: &Offer,
    ) -> Result<()> {
        let proof = token_proof(token, own, peer).to_vec();
        self.send(&Introduction { proof, offer: offer.clone() }).await
    }

    /// What `peer` offers, once it has proved that it holds the token.
    pub(super) async fn meet(&mut self, token: &str, peer: Fingerprint, own: Fingerprint) -> Result<Offer> {
        let said = self.receive::<Introduction>().await;
        let said = said.context("the other host does not introduce itself; is its --token the same?")?;
        if !verify_token_proof(token, peer, own, &said.proof) {
            bail!("host {} holds another token; give both the same --token", peer.short());
        }
        Ok(said.offer)
    }

    pub(super) async fn request(&mut self) -> Result<Request> {
        self.receive().await
    }

    /// Where the other host lets us write.
    pub(super) async fn key(&mut self) -> Result<Key> {
        let bytes: Vec<u8> = self.receive().await?;
        Ok(Key::from_bytes(&bytes)?)
    }

    pub(super) async fn acknowledge(&mut self) -> Result<()> {
        self.send(&true).await
    }

    pub(super) async fn acknowledged(&mut self) -> Result<()> {
        self.receive::<bool>().await.map(drop)
    }

    pub(super) async fn send(&mut self, said: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(said)?;
        line.push(b'\n');
        self.stream.write_all(&line).await.context("the other host hung up")?;
        self.stream.flush().await.context("the other host hung up")
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let mut limited = (&mut self.stream).take(LONGEST);
        let read = limited.read_line(&mut line);
        let read = tokio::time::timeout(super::PATIENCE + LONGEST_MEASUREMENT, read).await;
        let count = read.context("the other host says nothing")?.context("the other host hung up")?;
        if count == 0 {
            bail!("the other host hung up");
        }
        serde_json::from_str(&line).context("the other host does not speak as `mlxcel link` does")
    }
}

/// The most that is read of what a host says at once.
const LONGEST: u64 = 1 << 16;
/// Nothing is said while a way is measured.
const LONGEST_MEASUREMENT: std::time::Duration = std::time::Duration::from_secs(600);
