//! What a worker holds and runs: its models and the requests on them.
//!
//! One thread owns it; engines and the loader reach it through its inbox. Knows nothing of streams
//! or processes: `worker` reads, writes and ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mlxcel_engine::{Engine, LoadOptions};
use mlxcel_protocol::v1::{
    FailureKind, GenerateEvent, GenerateRequest, ModelState, WorkerCommand, WorkerEvent, WorkerGenerate,
    WorkerLoad, WorkerModels, worker_command, worker_event,
};
use tracing::warn;

use super::loader::{Job, LoadError, load_event};
use super::outbox::Outbox;
use super::{WorkerError, WorkerOptions};
use crate::wire;

/// What reaches the worker's own thread.
pub(super) enum Input {
    Command(Box<WorkerCommand>),
    /// The commands have ended.
    Ended(Result<(), WorkerError>),
    Loaded {
        served_name: String,
        ticket: u64,
        result: Result<Box<dyn Engine>, LoadError>,
    },
    RequestEnded(String),
}

/// What comes after an input.
pub(super) enum Next {
    Continue,
    Stop(Result<(), WorkerError>),
}

pub(super) struct Host {
    options: WorkerOptions,
    outbox: Outbox,
    inputs: mpsc::Sender<Input>,
    jobs: mpsc::Sender<Job>,
    models: BTreeMap<String, Model>,
    running: HashMap<String, Running>,
    draining: bool,
    next_ticket: u64,
    published: Vec<ModelState>,
    published_at: Instant,
}

enum Model {
    Loading { ticket: u64 },
    Ready(Arc<dyn Engine>),
}

struct Running {
    model: String,
    engine: Arc<dyn Engine>,
}

impl Host {
    pub(super) fn new(
        options: WorkerOptions,
        outbox: Outbox,
        inputs: mpsc::Sender<Input>,
        jobs: mpsc::Sender<Job>,
    ) -> Self {
        Self {
            options,
            outbox,
            inputs,
            jobs,
            models: BTreeMap::new(),
            running: HashMap::new(),
            draining: false,
            next_ticket: 0,
            published: Vec::new(),
            published_at: Instant::now(),
        }
    }

    pub(super) fn handle(&mut self, input: Input) -> Next {
        match input {
            Input::Command(command) => self.command(*command),
            Input::Ended(result) => return Next::Stop(result),
            Input::Loaded { served_name, ticket, result } => self.loaded(served_name, ticket, result),
            Input::RequestEnded(id) => {
                if let Some(ended) = self.running.remove(&id) {
                    drop_elsewhere(ended.engine);
                }
            }
        }
        Next::Continue
    }

    fn command(&mut self, command: WorkerCommand) {
        use worker_command::Kind;
        match command.kind {
            Some(Kind::Load(load)) => self.load(load),
            Some(Kind::Unload(unload)) => self.unload(&unload.model),
            Some(Kind::Generate(request)) => self.generate(request),
            Some(Kind::Cancel(cancel)) => self.cancel(&cancel.request_id),
            Some(Kind::Drain(_)) => self.draining = true,
            None => warn!("a command of unknown kind"),
        }
    }

    pub(super) fn idle(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn drained(&self) -> bool {
        self.draining && self.idle()
    }

    pub(super) fn cancel_all(&self) {
        for (id, running) in &self.running {
            running.engine.cancel(id);
        }
    }

    /// Sends the models' state after a change, and every second while sequences run.
    pub(super) fn publish(&mut self) {
        let models: Vec<_> = self.models.iter().map(|(name, model)| model.state(name)).collect();
        let due = !self.idle() && self.published_at.elapsed() >= Duration::from_secs(1);
        if models != self.published || due {
            self.published.clone_from(&models);
            self.published_at = Instant::now();
            let models = WorkerModels { models };
            self.outbox.push(WorkerEvent { kind: Some(worker_event::Kind::Models(models)) });
        }
    }

    fn load(&mut self, load: WorkerLoad) {
        let name = load.served_name;
        match self.models.get(&name) {
            Some(Model::Ready(engine)) => {
                let state = wire::ready_model(&name, engine.state());
                self.outbox.push(load_event(&name, wire::load_ready(state)));
                return;
            }
            Some(Model::Loading { .. }) => return,
            None => {}
        }
        let quantize = wire::quantization(load.quantize_bits, load.quantize_group_size);
        let asked = quantize.and_then(|quantize| Ok((quantize, wire::kv_dtype(&load.kv_dtype)?)));
        let (quantize, kv_dtype) = match asked {
            Ok(asked) => asked,
            Err(rule) => {
                let failed = wire::load_failed(FailureKind::InvalidRequest, rule);
                return self.outbox.push(load_event(&name, failed));
            }
        };
        let draft = match load.draft.map(wire::draft).transpose() {
            Ok(draft) => draft,
            Err(rule) => {
                let failed = wire::load_failed(FailureKind::InvalidRequest, rule);
                return self.outbox.push(load_event(&name, failed));
            }
        };
        let options = LoadOptions {
            device: self.options.device,
            draft,
            quantize,
            context_tokens: (load.context_tokens > 0).then_some(load.context_tokens),
            max_sequences: self.options.max_sequences,
            lookup_tokens: load.lookup_tokens,
            kv_dtype,
            trace: self.options.trace.clone(),
            ..LoadOptions::default()
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.models.insert(name.clone(), Model::Loading { ticket });
        let job = Job { served_name: name.clone(), ticket, path: load.path.into(), options };
        if self.jobs.send(job).is_err() {
            let error = LoadError::Internal("the loading thread has ended".into());
            self.loaded(name, ticket, Err(error));
        }
    }

    fn loaded(&mut self, name: String, ticket: u64, result: Result<Box<dyn Engine>, LoadError>) {
        let wanted = matches!(self.models.get(&name), Some(Model::Loading { ticket: t }) if *t == ticket);
        let progress = match result {
            Ok(engine) if wanted => {
                let engine: Arc<dyn Engine> = Arc::from(engine);
                let state = wire::ready_model(&name, engine.state());
                self.models.insert(name.clone(), Model::Ready(engine));
                wire::load_ready(state)
            }
            Ok(engine) => return drop_elsewhere(Arc::from(engine)),
            Err(error) if wanted => {
                self.models.remove(&name);
                wire::load_failed(error.kind(), error.to_string())
            }
            Err(_) => return,
        };
        self.outbox.push(load_event(&name, progress));
    }

    /// Requests on the model end as cancelled; the memory is free once they have.
    fn unload(&mut self, model: &str) {
        for (id, running) in self.running.iter().filter(|(_, running)| running.model == model) {
            running.engine.cancel(id);
        }
        match self.models.remove(model) {
            Some(Model::Ready(engine)) => drop_elsewhere(engine),
            Some(Model::Loading { .. }) => {
                let message = format!("{model} was unloaded while it was loading");
                let failed = wire::load_failed(FailureKind::ModelNotFound, message);
                self.outbox.push(load_event(model, failed));
            }
            None => {}
        }
    }

    /// Ids are the caller's to keep apart: a second use fails under the id both share.
    fn generate(&mut self, wire_request: GenerateRequest) {
        let id = wire_request.request_id.clone();
        let model = wire_request.model.clone();
        if let Err((kind, message)) = self.start(wire_request) {
            warn!(request = id, model, message, "request refused");
            self.outbox.push(request_event(&id, wire::failed(kind, message)));
        }
    }

    fn start(&mut self, wire_request: GenerateRequest) -> Result<(), (FailureKind, String)> {
        let (id, model) = (wire_request.request_id.clone(), wire_request.model.clone());
        if self.draining {
            return Err((FailureKind::Draining, "the worker is ending".into()));
        }
        if self.running.contains_key(&id) {
            let message = format!("a request id must be unique, {id} is running");
            return Err((FailureKind::InvalidRequest, message));
        }
        let engine = match self.models.get(&model) {
            Some(Model::Ready(engine)) => Arc::clone(engine),
            Some(Model::Loading { .. }) => {
                return Err((FailureKind::Overloaded, format!("{model} is still loading")));
            }
            None => return Err((FailureKind::ModelNotFound, format!("{model} is not loaded"))),
        };
        let request = wire::request(wire_request).map_err(|rule| (FailureKind::InvalidRequest, rule))?;

        let (outbox, inputs, request_id) = (self.outbox.clone(), self.inputs.clone(), id.clone());
        self.running.insert(id, Running { model, engine: Arc::clone(&engine) });
        let sink = Box::new(move |event| {
            let (event, ends) = wire::event(event);
            outbox.push(request_event(&request_id, event));
            if ends {
                // Fails only when the worker has already ended.
                let _ = inputs.send(Input::RequestEnded(request_id.clone()));
            }
        });
        engine.submit(request, sink);
        Ok(())
    }

    fn cancel(&self, id: &str) {
        if let Some(running) = self.running.get(id) {
            running.engine.cancel(id);
        }
    }
}

impl Model {
    fn state(&self, name: &str) -> ModelState {
        match self {
            Self::Loading { .. } => wire::loading_model(name),
            Self::Ready(engine) => wire::ready_model(name, engine.state()),
        }
    }
}

fn request_event(id: &str, event: GenerateEvent) -> WorkerEvent {
    let generate = WorkerGenerate { request_id: id.into(), event: Some(event) };
    WorkerEvent { kind: Some(worker_event::Kind::Generate(generate)) }
}

/// The last owner of an engine waits for its threads and frees gigabytes: not while commands wait.
fn drop_elsewhere(engine: Arc<dyn Engine>) {
    if Arc::strong_count(&engine) == 1 {
        thread::spawn(move || drop(engine));
    }
}
