//! What a worker holds and runs: its models and the requests on them.
//!
//! One thread owns it; engines and the loader reach it through its inbox. Knows nothing of streams
//! or processes: `worker` reads, writes and ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mlxcel_engine::replica::Follower;
use mlxcel_engine::{Engine, LoadOptions, LoadStep};
use mlxcel_protocol::v1::{
    FailureKind, GenerateEvent, GenerateRequest, ModelState, MovePrefixRequest, WorkerCommand, WorkerEvent,
    WorkerGenerate, WorkerLoad, WorkerMeet, WorkerModels, worker_command, worker_event,
};
use tracing::warn;

use super::beat::Heart;
use super::loader::{Job, Joined, LoadError, Loaded, load_event};
use super::meeting::Listening;
use super::moving::Moves;
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
        result: Result<Loaded, LoadError>,
    },
    /// The replica that this device is a rank of has ended.
    RankLost {
        served_name: String,
        ticket: u64,
        reason: String,
    },
    RequestEnded(String),
    /// A prefix is no longer on its way.
    MoveEnded(u64),
}

/// What comes after an input.
pub(super) enum Next {
    Continue,
    Stop(Result<(), WorkerError>),
}

pub(super) struct Host {
    options: WorkerOptions,
    outbox: Outbox,
    heart: Heart,
    inputs: mpsc::Sender<Input>,
    jobs: mpsc::Sender<Job>,
    models: BTreeMap<String, Model>,
    running: HashMap<String, Running>,
    moves: Moves,
    draining: bool,
    next_ticket: u64,
    published: Vec<ModelState>,
    published_at: Instant,
}

struct Model {
    /// Tells this load from an earlier one of the same name.
    ticket: u64,
    /// Of a rank: which attempt at which replica.
    replica: Option<String>,
    phase: Phase,
}

enum Phase {
    /// A rank that waits to be told whom to meet, with what it will then load.
    Listening(Box<(Listening, Job)>),
    Loading,
    Ready(Arc<dyn Engine>),
    /// A rank that another one leads.
    Following(Follower),
}

struct Running {
    model: String,
    engine: Arc<dyn Engine>,
}

impl Host {
    pub(super) fn new(
        options: WorkerOptions,
        (outbox, heart): (Outbox, Heart),
        inputs: mpsc::Sender<Input>,
        jobs: mpsc::Sender<Job>,
    ) -> Self {
        let moves = Moves::new(outbox.clone(), inputs.clone());
        Self {
            options,
            outbox,
            heart,
            inputs,
            jobs,
            models: BTreeMap::new(),
            running: HashMap::new(),
            moves,
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
            Input::RankLost { served_name, ticket, reason } => self.rank_lost(&served_name, ticket, reason),
            Input::RequestEnded(id) => {
                if let Some(ended) = self.running.remove(&id) {
                    drop_elsewhere(ended.engine);
                }
            }
            Input::MoveEnded(id) => self.moves.ended(id),
        }
        Next::Continue
    }

    fn command(&mut self, command: WorkerCommand) {
        use worker_command::Kind;
        match command.kind {
            Some(Kind::Load(load)) => self.load(load),
            Some(Kind::Meet(meet)) => self.meet(meet),
            Some(Kind::Unload(unload)) => self.unload(&unload.model),
            Some(Kind::Generate(request)) => self.generate(request),
            Some(Kind::Cancel(cancel)) => self.cancel(&cancel.request_id),
            Some(Kind::Drain(_)) => self.draining = true,
            Some(Kind::MovePrefix(it)) => self.move_prefix(it.move_id, it.request),
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
        let name = load.served_name.clone();
        let replica = load.rank.as_ref().map(|rank| rank.replica.clone());
        match self.models.get(&name) {
            Some(model) if model.replica != replica => self.forget(&name),
            Some(Model { phase: Phase::Ready(_) | Phase::Following(_), .. }) => {
                let state = self.models[&name].state(&name);
                return self.outbox.push(load_event(&name, wire::load_ready(state)));
            }
            Some(_) => return,
            None => {}
        }
        if let Err(rule) = self.begin(load, replica) {
            self.outbox.push(load_event(&name, wire::load_failed(FailureKind::InvalidRequest, rule)));
        }
    }

    /// Begins a load, or has a rank listen; else the rule that is broken.
    fn begin(&mut self, load: WorkerLoad, replica: Option<String>) -> Result<(), String> {
        let options = LoadOptions {
            device: self.options.device,
            draft: load.draft.map(wire::draft).transpose()?,
            quantize: match load.quantize_mode.as_str() {
                "" => wire::quantization(load.quantize_bits, load.quantize_group_size)?,
                mode => Some(wire::quantization_of(mode, load.quantize_bits, load.quantize_group_size)?),
            },
            context_tokens: (load.context_tokens > 0).then_some(load.context_tokens),
            max_sequences: self.options.max_sequences,
            lookup_tokens: load.lookup_tokens,
            kv_dtype: wire::kv_dtype(&load.kv_dtype)?,
            trace: self.options.trace.clone(),
            ..LoadOptions::default()
        };
        let listening = load.rank.map(Listening::start).transpose()?;
        let (name, ticket) = (load.served_name, self.next_ticket);
        self.next_ticket += 1;
        let job = Job { served_name: name.clone(), ticket, path: load.path.into(), options, meeting: None };
        let phase = match listening {
            Some(listening) => {
                self.outbox.push(load_event(&name, wire::load_listening(listening.end())));
                Phase::Listening(Box::new((listening, job)))
            }
            None => {
                self.give(job);
                Phase::Loading
            }
        };
        self.models.insert(name, Model { ticket, replica, phase });
        Ok(())
    }

    fn give(&mut self, job: Job) {
        if let Err(mpsc::SendError(job)) = self.jobs.send(job) {
            let result = Err(LoadError::Internal("the loading thread has ended".into()));
            // Comes back when the model is entered. Fails only when this worker has ended.
            let _ =
                self.inputs.send(Input::Loaded { served_name: job.served_name, ticket: job.ticket, result });
        }
    }

    /// Has a rank that listens meet the others and load its part.
    fn meet(&mut self, meet: WorkerMeet) {
        let name = meet.served_name;
        let listens = |model: &Model| matches!(&model.phase, Phase::Listening(waiting) if waiting.0.replica() == meet.replica);
        let Some(mut model) = self.models.remove(&name) else { return };
        if !listens(&model) {
            self.models.insert(name, model);
            return;
        }
        let Phase::Listening(waiting) = std::mem::replace(&mut model.phase, Phase::Loading) else { return };
        let (listening, mut job) = *waiting;
        match listening.told(&meet.roster.unwrap_or_default()) {
            Ok(meeting) => {
                job.meeting = Some(meeting);
                // Says that the others are let in from now on.
                let what = "meeting the other ranks".to_owned();
                let step = wire::load_step(LoadStep { what, done_bytes: 0, total_bytes: 0 });
                self.outbox.push(load_event(&name, step));
                self.models.insert(name, model);
                self.give(job);
            }
            Err(rule) => {
                let failed = wire::load_failed(FailureKind::InvalidRequest, rule);
                self.outbox.push(load_event(&name, failed));
            }
        }
    }

    fn loaded(&mut self, name: String, ticket: u64, result: Result<Loaded, LoadError>) {
        let wanted = self.models.get(&name).is_some_and(|model| model.ticket == ticket);
        let phase = match result {
            Ok(Loaded::Whole(engine) | Loaded::Part(Joined::Leader(engine))) => {
                Phase::Ready(Arc::from(engine))
            }
            Ok(Loaded::Part(Joined::Follower(follower))) => Phase::Following(follower),
            Err(error) if wanted => {
                self.models.remove(&name);
                let failed = wire::load_failed(error.kind(), error.to_string());
                return self.outbox.push(load_event(&name, failed));
            }
            Err(_) => return,
        };
        if let (true, Phase::Ready(engine)) = (wanted, &phase) {
            self.heart.watch(&name, engine);
        }
        match self.models.get_mut(&name).filter(|_| wanted) {
            Some(model) => {
                model.phase = phase;
                let state = model.state(&name);
                self.outbox.push(load_event(&name, wire::load_ready(state)));
            }
            None => give_up(phase),
        }
    }

    /// A replica that has lost a rank is over. Its requests have ended, or will with the next step.
    fn rank_lost(&mut self, name: &str, ticket: u64, reason: String) {
        let Some(model) = self.models.remove(name) else { return };
        if model.ticket != ticket {
            self.models.insert(name.to_owned(), model);
            return;
        }
        warn!(model = name, "{reason}");
        give_up(model.phase);
        self.outbox.push(load_event(name, wire::load_failed(FailureKind::WorkerLost, reason)));
    }

    /// Requests on the model end as cancelled; the memory is free once they have.
    fn unload(&mut self, model: &str) {
        let loading = self.models.get(model).is_some_and(Model::is_loading);
        self.forget(model);
        if loading {
            let message = format!("{model} was unloaded while it was loading");
            let failed = wire::load_failed(FailureKind::ModelNotFound, message);
            self.outbox.push(load_event(model, failed));
        }
    }

    fn forget(&mut self, name: &str) {
        for (id, running) in self.running.iter().filter(|(_, running)| running.model == name) {
            running.engine.cancel(id);
        }
        self.moves.forget(name);
        if let Some(model) = self.models.remove(name) {
            give_up(model.phase);
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
        let engine = self.engine(&model)?;
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

    /// Passes on what one end of a move is told, or begins it.
    fn move_prefix(&mut self, id: u64, request: Option<MovePrefixRequest>) {
        let first = match request {
            Some(first) if !self.moves.has(id) => first,
            request => return self.moves.tell(id, request),
        };
        let engine = match Moves::model(&first) {
            Some(model) => self.engine(model),
            None => Err((FailureKind::InvalidRequest, "a move of a prefix begins with a model".to_owned())),
        };
        match engine {
            Ok(engine) => self.moves.begin(id, first, engine),
            Err(refusal) => self.moves.refuse(id, refusal),
        }
    }

    /// The engine that serves a model, or why there is none.
    fn engine(&self, model: &str) -> Result<Arc<dyn Engine>, (FailureKind, String)> {
        match self.models.get(model) {
            Some(Model { phase: Phase::Ready(engine), .. }) => Ok(Arc::clone(engine)),
            Some(loading) if loading.is_loading() => {
                Err((FailureKind::Overloaded, format!("{model} is still loading")))
            }
            Some(_) => {
                let message = format!("another device leads the replica of {model}");
                Err((FailureKind::ModelNotFound, message))
            }
            None => Err((FailureKind::ModelNotFound, format!("{model} is not loaded"))),
        }
    }

    fn cancel(&self, id: &str) {
        if let Some(running) = self.running.get(id) {
            running.engine.cancel(id);
        }
    }
}

impl Model {
    fn state(&self, name: &str) -> ModelState {
        match &self.phase {
            Phase::Listening(_) | Phase::Loading => wire::loading_model(name),
            Phase::Ready(engine) => wire::ready_model(name, engine.state()),
            Phase::Following(follower) => wire::following_model(name, follower.state()),
        }
    }

    fn is_loading(&self) -> bool {
        matches!(self.phase, Phase::Listening(_) | Phase::Loading)
    }
}

fn request_event(id: &str, event: GenerateEvent) -> WorkerEvent {
    let generate = WorkerGenerate { request_id: id.into(), event: Some(event) };
    WorkerEvent { kind: Some(worker_event::Kind::Generate(generate)) }
}

fn give_up(phase: Phase) {
    match phase {
        Phase::Ready(engine) => drop_elsewhere(engine),
        Phase::Following(_) | Phase::Listening(_) => _ = thread::spawn(move || drop(phase)),
        Phase::Loading => {}
    }
}

/// The last owner of an engine waits for its threads and frees gigabytes: not while commands wait.
pub(super) fn drop_elsewhere(engine: Arc<dyn Engine>) {
    if Arc::strong_count(&engine) == 1 {
        thread::spawn(move || drop(engine));
    }
}
