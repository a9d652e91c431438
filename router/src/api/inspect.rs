//! What can be asked about the router itself: models, health, metrics.
//!
//! Shows what the roster and the watch over unreachable nodes know; judges only whether anything
//! can be served.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use mlxcel_protocol::v1::{ModelStatus, NodeState, WorkerHealth};
use serde_json::{Value, json};

use super::App;
use super::error::ApiError;
use crate::core::fleet::{Availability, NodeId};
use crate::core::member::Member;
use crate::core::refusal::Refusal;
use crate::nodes::roster::now;

/// `GET /v1/models`: what can be asked for, and how it stands.
pub(super) async fn models(State(app): State<App>) -> Response {
    let data = app.relay.roster.fleet(|fleet| {
        let models = fleet.models();
        models.into_iter().map(|(name, how)| model_json(&app, name, how)).collect::<Vec<_>>()
    });
    Json(json!({"object": "list", "data": data})).into_response()
}

/// `GET /v1/models/{id}`; ids may hold slashes.
pub(super) async fn model(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    app.relay.roster.fleet(|fleet| {
        let models = fleet.models();
        match models.get(id.as_str()) {
            Some(how) => Ok(Json(model_json(&app, &id, *how)).into_response()),
            None => Err(ApiError::from(Refusal::UnknownModel {
                model: id.clone(),
                served: models.into_keys().map(str::to_owned).collect(),
            })),
        }
    })
}

fn model_json(app: &App, name: &str, how: Availability) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": app.started_at,
        "owned_by": "mlxcel",
        "status": how.as_str(),
    })
}

/// `GET /health`: 200 when some model could be served now, else 503; either way, why.
pub(super) async fn health(State(app): State<App>) -> Response {
    let unreachable: Vec<Value> = app
        .members
        .unreachable()
        .into_iter()
        .map(|u| {
            json!({
                "id": u.id, "hostname": u.hostname, "address": u.address, "cause": u.cause,
            })
        })
        .collect();
    let (nodes, models, able) = app.relay.roster.latest(|fleet, latest| {
        let nodes: Vec<Value> =
            fleet.alive().map(|(id, member)| node_json(id, member, latest.get(id))).collect();
        let models = fleet.models();
        let able = models.values().any(|how| matches!(how, Availability::Ready | Availability::Loadable));
        let models: Vec<Value> =
            models.iter().map(|(name, how)| json!({"id": name, "status": how.as_str()})).collect();
        (nodes, models, able)
    });
    let body = json!({
        "queued": app.relay.roster.queued(),
        "status": if able { "ok" } else { "unavailable" },
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": &*app.cluster,
        "models": models,
        "nodes": nodes,
        "unreachable": unreachable,
    });
    let status = match able {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(body)).into_response()
}

fn node_json(id: &NodeId, member: &Member, state: Option<&NodeState>) -> Value {
    let info = state.and_then(|s| s.node.as_ref());
    let workers: Vec<Value> = state
        .map_or(&[][..], |s| s.workers.as_slice())
        .iter()
        .map(|w| {
            json!({
                "device": w.device_index,
                "health": match w.health() {
                    WorkerHealth::Ready => "ready",
                    WorkerHealth::Starting => "starting",
                    WorkerHealth::Restarting => "restarting",
                    WorkerHealth::Unspecified => "unknown",
                },
                "reason": w.reason,
                "restarts": w.restarts,
                "stalled": w.stalled,
                "pid": w.pid,
                "models": w.models.iter().map(|m| json!({
                    "id": m.name,
                    "status": match m.status() {
                        ModelStatus::Ready => "ready",
                        ModelStatus::Loading => "loading",
                        ModelStatus::Following => "following",
                        ModelStatus::Unspecified => "unknown",
                    },
                    "running": m.running,
                    "waiting": m.waiting,
                    "context_tokens": m.context_tokens,
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "id": id.as_str(),
        "hostname": info.map_or("", |i| i.hostname.as_str()),
        "os": info.map_or("", |i| i.os.as_str()),
        "arch": info.map_or("", |i| i.arch.as_str()),
        "mlx_version": info.map_or("", |i| i.mlx_version.as_str()),
        "devices": info.map_or(&[][..], |i| i.devices.as_slice()).iter().map(|d| json!({
            "index": d.index, "name": d.name, "memory_bytes": d.memory_bytes, "driver": d.driver,
        })).collect::<Vec<_>>(),
        "draining": member.report.draining,
        "stalled": !member.flows(now()),
        "in_flight": member.own,
        "load": member.load(),
        "workers": workers,
    })
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let connected = app.relay.roster.fleet(|fleet| fleet.alive().count());
    let metrics = &app.relay.metrics;
    metrics.queued(app.relay.roster.queued());
    metrics.nodes(connected, app.members.unreachable().len());
    let format = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], metrics.render()).into_response()
}
