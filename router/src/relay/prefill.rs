//! Has another node compute a request's prompt for the one that will answer, where `core::prefill` says that this pays.
//!
//! Holds the two conversations of a move, each node's words passed on to the other. However that ends, the request goes
//! its way: what is not in the answering node's cache it computes itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mlxcel_protocol::v1::generate_request::Prompt;
use mlxcel_protocol::v1::move_prefix_event::Kind as Said;
use mlxcel_protocol::v1::move_prefix_request::Kind as Told;
use mlxcel_protocol::v1::{
    Finished, GenerateRequest, MovePrefixEvent, MovePrefixRequest, PrefixTaken, PrefixTarget, PrefixWritten,
    ReceivePrefix, SendPrefix,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::core::fleet::NodeId;
use crate::core::prefill::{Figures, LEAST_TOKENS, Moved, Remote};
use crate::nodes::roster::{Link, Roster, now};

/// What all requests have learned. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prefills(Arc<Mutex<Figures>>);

/// A prompt that is being computed on a node, while this lives.
#[derive(Debug)]
pub(super) struct Pending {
    prefills: Prefills,
    node: NodeId,
    tokens: u64,
}

/// How a prompt was computed.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// What clients are told.
    pub(super) told: String,
    /// Tokens that are left to the answering node, as far as is known.
    pub(super) left: u64,
}

impl Prefills {
    fn lock(&self) -> MutexGuard<'_, Figures> {
        // Every change is one call, so what it holds stays whole after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from a request that `node` has answered.
    pub(super) fn finished(&self, node: &NodeId, model: &str, finished: &Finished) {
        let computed = finished.prompt_tokens.saturating_sub(finished.cached_tokens);
        self.lock().computed(node, model, computed.into(), Duration::from_micros(finished.prefill_micros));
    }

    pub(super) fn begins(&self, node: &NodeId, tokens: u64) -> Pending {
        self.lock().begins(node, tokens);
        Pending { prefills: self.clone(), node: node.clone(), tokens }
    }

    /// Decides where a request's prompt is computed that `to` will answer, and has that done.
    pub(super) async fn prepare(
        &self,
        roster: &Roster,
        to: (&NodeId, &Link),
        request: &GenerateRequest,
    ) -> Route {
        let (model, tokens) = (request.model.as_str(), estimated_tokens(request));
        let local =
            |why: String| Route { told: format!("node={}; prefill=local; {why}", to.0), left: tokens };
        if tokens < LEAST_TOKENS {
            return local(format!("tokens={tokens}"));
        }
        let others = roster.movers(model);
        let both_move = others.contains(to.0);
        let best = self.lock().choose((model, tokens), to.0, others.iter(), now());
        let Some(Remote { node, forecast }) = best.filter(|_| both_move) else {
            return local(format!("tokens={tokens}"));
        };
        let link = roster.link(&node).filter(|_| forecast.pays());
        let Some(link) = link else { return local(format!("other={node}; {forecast}")) };
        let moving = Moving { prefills: self, model, from: (&node, link), to, request };
        let begun = now();
        // A node that hangs costs no more than what computing here would have.
        let patience = forecast.local + SLACK;
        let moved = timeout(patience, moving.run(patience)).await;
        let took = now().saturating_duration_since(begun).as_millis();
        match moved.unwrap_or_else(|_| Err(Unmoved::Failed("it took too long".to_owned()))) {
            Ok((written, taken)) => {
                let early = written.bytes_while_computing as f64 / written.bytes.max(1) as f64;
                let left = tokens.saturating_sub(taken.tokens.into());
                let told = format!(
                    "node={}; prefill={node}; {forecast}; moved_tokens={}; moved_bytes={}; early={early:.2}; took_ms={took}",
                    to.0, taken.tokens, written.bytes,
                );
                Route { told, left }
            }
            Err(Unmoved::NotWorth(why)) => local(format!("other={node}; {why}")),
            Err(Unmoved::Failed(why)) => {
                self.lock().failed(&node, to.0, now());
                tracing::warn!(from = %node, to = %to.0, "no prefix was moved: {why}");
                local(format!("other={node}; {forecast}; failed_after_ms={took}"))
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.prefills.lock().ends(&self.node, self.tokens);
    }
}

/// Why nothing was moved.
enum Unmoved {
    /// The answering node knows better how much is to be computed.
    NotWorth(String),
    Failed(String),
}

struct Moving<'a> {
    prefills: &'a Prefills,
    model: &'a str,
    from: (&'a NodeId, Link),
    to: (&'a NodeId, &'a Link),
    request: &'a GenerateRequest,
}

impl Moving<'_> {
    async fn run(self, patience: Duration) -> Result<(PrefixWritten, PrefixTaken), Unmoved> {
        let deadline_micros = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        let send = SendPrefix { model: self.model.to_owned(), deadline_micros };
        let mut sender = Talk::begin(&self.from.1, Told::Send(send)).await?;
        let Said::End(end) = sender.next().await? else { return Err(out_of_turn()) };
        let receive =
            ReceivePrefix { request: Some(self.request.clone()), sender: Some(end), deadline_micros };
        let mut receiver = Talk::begin(self.to.1, Told::Receive(receive)).await?;
        let target = match receiver.next().await? {
            Said::Target(target) => target,
            Said::Taken(_) => return Err(Unmoved::NotWorth("cached=all".to_owned())),
            _ => return Err(out_of_turn()),
        };
        let tokens = self.check(&target)?;
        let pending = self.prefills.begins(self.from.0, tokens);
        sender.tell(Told::Target(target)).await;
        let said = tokio::select! {
            said = sender.next() => said?,
            // It knows of a sender that is lost or stands still before anyone else.
            said = receiver.next() => said?,
        };
        let Said::Written(written) = said else { return Err(out_of_turn()) };
        drop(pending);
        receiver.tell(Told::Written(written)).await;
        let Said::Taken(taken) = receiver.next().await? else { return Err(out_of_turn()) };
        self.learn(&written, tokens);
        Ok((written, taken))
    }

    /// Tokens to be moved, if that still pays: it is known now how many there are.
    fn check(&self, target: &PrefixTarget) -> Result<u64, Unmoved> {
        let blocks_before = u64::from(target.first_block) * BLOCK_TOKENS;
        let tokens = (target.tokens.len() as u64).saturating_sub(blocks_before);
        let mut figures = self.prefills.lock();
        figures.weighed(self.model, tokens, target.bytes);
        match figures.forecast(self.model, self.from.0, self.to.0, tokens) {
            Some(forecast) if forecast.pays() => Ok(tokens),
            Some(forecast) => Err(Unmoved::NotWorth(forecast.to_string())),
            None => Err(Unmoved::NotWorth(format!("tokens={tokens}"))),
        }
    }

    fn learn(&self, written: &PrefixWritten, tokens: u64) {
        let computing = Duration::from_micros(written.compute_micros);
        let moved = Moved {
            tokens,
            bytes: written.bytes,
            computing,
            rest: Duration::from_micros(written.rest_micros),
            tail_bytes: written.bytes.saturating_sub(written.bytes_while_computing),
        };
        let mut figures = self.prefills.lock();
        figures.moved((self.from.0, self.to.0), self.model, moved);
        figures.computed(self.from.0, self.model, tokens, computing);
    }
}

/// A conversation with one node. Dropping it gives the move up there.
struct Talk {
    told: mpsc::Sender<MovePrefixRequest>,
    said: Streaming<MovePrefixEvent>,
}

impl Talk {
    async fn begin(link: &Link, first: Told) -> Result<Self, Unmoved> {
        let (told, requests) = mpsc::channel(2);
        // There is room for all that is ever told.
        let _ = told.send(MovePrefixRequest { kind: Some(first) }).await;
        let said = link.client.clone().move_prefix(ReceiverStream::new(requests)).await;
        let said = said.map_err(|status| Unmoved::Failed(status.message().to_owned()))?;
        Ok(Self { told, said: said.into_inner() })
    }

    async fn tell(&self, kind: Told) {
        // A node that does not read any more has said so, or will.
        let _ = self.told.send(MovePrefixRequest { kind: Some(kind) }).await;
    }

    async fn next(&mut self) -> Result<Said, Unmoved> {
        match self.said.message().await {
            Ok(Some(MovePrefixEvent { kind: Some(Said::Failed(failure)) })) => {
                Err(Unmoved::Failed(failure.message))
            }
            Ok(Some(MovePrefixEvent { kind: Some(said) })) => Ok(said),
            Ok(_) => Err(Unmoved::Failed("a node ended the move without a word".to_owned())),
            Err(status) => Err(Unmoved::Failed(status.message().to_owned())),
        }
    }
}

/// Tokens that a prompt probably has.
pub(super) fn estimated_tokens(request: &GenerateRequest) -> u64 {
    let bytes = match &request.prompt {
        Some(Prompt::Tokens(tokens)) => return tokens.ids.len() as u64,
        Some(Prompt::Text(text)) => text.len(),
        Some(Prompt::Chat(chat)) => chat.messages_json.len() + chat.tools_json.len(),
        None => 0,
    };
    bytes as u64 / BYTES_OF_TOKEN
}

fn out_of_turn() -> Unmoved {
    Unmoved::Failed("a node spoke out of turn".to_owned())
}

/// Of a block of the engine's KV cache.
const BLOCK_TOKENS: u64 = 32;
/// In most languages and vocabularies, more rather than less.
const BYTES_OF_TOKEN: u64 = 4;
const SLACK: Duration = Duration::from_secs(2);
