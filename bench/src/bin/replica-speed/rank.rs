//! A rank, as a process: says where it listens, meets the others, and does what it is told on standard input.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead as _;
use std::net::Ipv4Addr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::executor::block_on;
use mlxcel_engine::replica::{Follower, Layout, ReplicaOptions, StageLayout};
use mlxcel_engine::{
    AnswerOptions, Engine, Event, Limits, LoadOptions, Prompt, Request, SamplingParams, Turn, load_leader,
    sizes,
};
use mlxcel_transport::tcp::{Security, Tcp, TcpConfig};
use mlxcel_transport::{Address, Domain, Kind, PeerId, Transport};

use super::{Args, parse};

pub(crate) fn run(args: &Args, rank: usize) -> Result<()> {
    let stages = parse(&args.layouts[0])?;
    let (transport, ranks) = meet(rank)?;
    let layout = layout(args, &stages)?;
    let micro_batches = args.micro_batches;
    let options =
        ReplicaOptions { layout, rank, ranks, transport, blocks: 512, step_tokens: 512, micro_batches };
    let load = LoadOptions::default();
    let (failed, failure) = mpsc::channel();
    let on_failure = Box::new(move |reason: String| drop(failed.send(reason)));
    if rank == options.layout.leader() {
        let engine = load_leader(&args.model, &load, options, on_failure, &mut |_| {})?;
        println!("ready");
        return lead(args, &*engine);
    }
    let _follower = Follower::start(&args.model, &load, options, on_failure, &mut |_| {})?;
    println!("ready");
    // Killed when all has been measured.
    bail!(failure.recv()?)
}

/// Stages as equal as they can be: the output head, which the last one has, counts for as many layers as it has bytes of.
fn layout(args: &Args, stages: &[usize]) -> Result<Layout> {
    let (sizes, count) = (sizes(&args.model)?, stages.len());
    let head = sizes.head_bytes as f64 / sizes.layer_bytes as f64;
    let each = (sizes.layers as f64 + head) / count as f64;
    let bound = |stage: usize| match stage {
        // Every stage has a layer, however large the head is.
        stage if stage < count => ((stage as f64 * each).round() as usize).min(sizes.layers + stage - count),
        _ => sizes.layers,
    };
    let stages = stages
        .iter()
        .enumerate()
        .map(|(stage, ranks)| StageLayout { layers: bound(stage)..bound(stage + 1), ranks: *ranks });
    Ok(Layout::new(stages.collect())?)
}

/// Connects with the others, whose names and addresses come on standard input.
fn meet(rank: usize) -> Result<(Arc<dyn Transport>, Vec<PeerId>)> {
    let end = Tcp::new(&Domain::new(), TcpConfig::new(Security::Plain).bound_to(Ipv4Addr::LOCALHOST.into()))?;
    println!("{:032x} {}", u128::from_be_bytes(end.domain().id().to_bytes()), end.addresses()[0].socket);
    let mut roster = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let Some((id, socket)) = line.split_once(' ') else { break };
        let id = PeerId::from_bytes(u128::from_str_radix(id, 16)?.to_be_bytes());
        roster.push((id, Address { kind: Kind::Tcp, socket: socket.parse()? }));
    }
    let soon = Instant::now() + Duration::from_secs(30);
    for (at, (id, address)) in roster.iter().enumerate() {
        match at.cmp(&rank) {
            std::cmp::Ordering::Less => block_on(end.connect(*id, &[*address], soon))?,
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => block_on(end.domain().connected(*id, soon))?,
        }
    }
    Ok((Arc::new(end), roster.into_iter().map(|(id, _)| id).collect()))
}

/// Reads numbers of sequences, and says how many tokens a second they get, and a digest of these.
fn lead(args: &Args, engine: &dyn Engine) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let (rate, digest) = decode(engine, line?.trim().parse()?, args.tokens)?;
        println!("{rate} {digest:016x}");
    }
    Ok(())
}

/// Tokens a second of so many sequences at a time, counted from when all have their first; and a digest of all tokens.
fn decode(engine: &dyn Engine, sequences: usize, tokens: u32) -> Result<(f64, u64)> {
    let (events, all) = mpsc::channel();
    for at in 0..sequences {
        let events = events.clone();
        let prompt = Prompt::Tokens((0..16).map(|token| 100 + 31 * at as u32 + token).collect());
        let limits = Limits { max_tokens: Some(tokens), ignore_eos: true, ..Limits::default() };
        let (sampling, answer) = (SamplingParams::default(), AnswerOptions::default());
        let request = Request { id: at.to_string(), prompt, sampling, limits, turn: Turn::default(), answer };
        engine.submit(request, Box::new(move |event| drop(events.send((at, event, Instant::now())))));
    }
    drop(events);
    let mut ids = vec![Vec::new(); sequences];
    let (mut begun, mut counted, mut from, mut until) = (vec![false; sequences], 0_usize, None, None);
    for (at, event, when) in all {
        match event {
            Event::Delta(delta) => {
                begun[at] = true;
                ids[at].extend_from_slice(&delta.token_ids);
                if from.is_some() {
                    counted += delta.token_ids.len();
                    until = Some(when);
                } else if begun.iter().all(|begun| *begun) {
                    from = Some(when);
                }
            }
            Event::Failed(error) => bail!(error),
            Event::Started { .. } | Event::Finished(_) => {}
        }
    }
    let (from, until) = (from.context("nothing came")?, until.context("too few tokens")?);
    let mut digest = DefaultHasher::new();
    ids.hash(&mut digest);
    Ok((counted as f64 / until.saturating_duration_since(from).as_secs_f64(), digest.finish()))
}
