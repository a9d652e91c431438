//! Prefixes that one engine computes and another takes over: the same answers, and nothing held.

#![allow(clippy::expect_used, reason = "tests")]

mod real;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use mlxcel_engine::transfer::{
    BlockSink, BlockSource, ImagePlace, ImportError, Prefix, PrefixDoor, TransferPlan,
};
use mlxcel_engine::{AnswerOptions, Engine, Event, Finish, KvDtype, LoadOptions, Request};

use real::{request, scored, smollm2, submit, tiny};

const BLOCK: usize = 32;

/// Images by layer, side and block, and in which order layers were given.
#[derive(Default)]
struct Images {
    images: Mutex<HashMap<(usize, usize, usize), Vec<u8>>>,
    given: Mutex<Vec<(usize, Range<usize>)>>,
}

impl BlockSink for Images {
    fn image(&self, place: ImagePlace, image: &[u8]) {
        let key = (place.layer, place.side, place.block);
        self.images.lock().expect("no panic").insert(key, image.to_vec());
    }

    fn complete(&self, layer: usize, blocks: Range<usize>) {
        self.given.lock().expect("no panic").push((layer, blocks));
    }
}

impl BlockSource for Images {
    fn read(&self, place: ImagePlace, image: &mut [u8]) {
        let key = (place.layer, place.side, place.block);
        image.copy_from_slice(&self.images.lock().expect("no panic")[&key]);
    }
}

fn door(engine: &dyn Engine) -> &dyn PrefixDoor {
    engine.prefixes().expect("a whole model's cache can be described")
}

/// Has an engine compute a prefix, and waits for it.
fn computed(engine: &dyn Engine, prefix: &Prefix) -> (Arc<Images>, Result<Finish, String>) {
    let (images, (sender, events)) = (Arc::new(Images::default()), channel());
    let sink = Box::new(move |event| drop(sender.send(event)));
    door(engine).compute("prefix", prefix.clone(), images.clone(), sink);
    let ended = events.iter().find_map(|event| match event {
        Event::Finished(finish) => Some(Ok(finish)),
        Event::Failed(error) => Some(Err(error.to_string())),
        _ => None,
    });
    (images, ended.expect("every request ends"))
}

/// The images of a prefix's blocks as another engine stores them.
fn mapped(images: &Images, prefix: &Prefix, from: &dyn PrefixDoor, to: &dyn PrefixDoor) -> Arc<Images> {
    let [from, to] = [from, to].map(|door| door.description().layout.clone());
    let plan = TransferPlan::new(vec![from], vec![to.clone()]).expect("one model");
    let mapped = Images::default();
    for (&(layer, side, block), image) in images.images.lock().expect("no panic").iter() {
        let bytes = to.image_bytes(&to.layers[layer]);
        let mut room = vec![0; prefix.blocks.len() * bytes];
        let tokens = prefix.blocks.start * BLOCK..prefix.blocks.end * BLOCK;
        for portion in plan.portions(0, layer) {
            plan.carry(portion, (block, image), tokens.clone(), &mut room);
        }
        let at = (block - prefix.blocks.start) * bytes;
        mapped.image(ImagePlace { layer, side, block }, &room[at..at + bytes]);
    }
    Arc::new(mapped)
}

fn prompt(tokens: u32, seed: u32) -> Vec<u32> {
    (0..tokens).map(|at| 3 + (seed * 31 + at * at * 7 + at) % 200).collect()
}

fn asking(id: &str, prompt: &[u32], tokens: u32) -> Request {
    let answer = AnswerOptions { logprobs: Some(0), ..AnswerOptions::default() };
    Request { answer, ..request(id, prompt, tokens) }
}

/// A greedy answer's tokens, and what it cost.
fn answer(engine: &dyn Engine, prompt: &[u32], tokens: u32) -> (Vec<u32>, Finish) {
    let (tokens, finish) = scored(&submit(engine, asking("answer", prompt, tokens)));
    (tokens.iter().map(|token| token.chosen.id).collect(), finish)
}

/// Moves what `to` lacks of a prompt from one engine to the other; how many blocks.
fn moved(from: &dyn Engine, to: &dyn Engine, prompt: &[u32]) -> usize {
    let prefix = door(to).missing(request("missing", prompt, 1)).expect("the prompt is good");
    let (images, finish) = computed(from, &prefix);
    finish.expect("the prefix is computed");
    let images = mapped(&images, &prefix, door(from), door(to));
    door(to).import(prefix, images).expect("there is room")
}

#[test]
fn an_answer_behind_a_prefix_from_another_engine_is_the_engines_own() {
    let [alone, prefill, decode] = [(); 3].map(|()| smollm2(LoadOptions::default()));
    let prompt: Vec<u32> = (0..300u32).map(|at| 1000 + (at * 37) % 5000).collect();
    let (expected, finish) = answer(alone.as_ref(), &prompt, 24);
    assert_eq!(finish.cached_tokens, 0);
    assert_eq!(moved(prefill.as_ref(), decode.as_ref(), &prompt), 9);
    let (found, finish) = answer(decode.as_ref(), &prompt, 24);
    assert_eq!((found, finish.cached_tokens), (expected, 9 * 32));
}

#[test]
fn only_what_is_missing_is_moved() {
    let [prefill, decode] = [(); 2].map(|()| tiny(LoadOptions::default()));
    let first = prompt(100, 1);
    let longer = [&first[..], &prompt(60, 2)].concat();
    answer(decode.as_ref(), &first, 1);
    let missing = door(decode.as_ref()).missing(request("m", &longer, 1)).expect("the prompt is good");
    assert_eq!((missing.blocks.clone(), missing.tokens.len()), (3..4, 4 * BLOCK));
    assert_eq!(moved(prefill.as_ref(), decode.as_ref(), &longer), 1);
    let after = door(decode.as_ref()).missing(request("m", &longer, 1)).expect("the prompt is good");
    assert!(after.blocks.is_empty());
    let (_, finish) = answer(decode.as_ref(), &longer, 1);
    assert_eq!(finish.cached_tokens, 128);
    // What the giver has cached itself is given all the same.
    let other = tiny(LoadOptions::default());
    assert_eq!(moved(prefill.as_ref(), other.as_ref(), &longer), 4);
}

#[test]
fn engines_that_store_differently_exchange_prefixes() {
    let stored = |dtype| tiny(LoadOptions { kv_dtype: Some(dtype), ..LoadOptions::default() });
    let prompt = prompt(130, 3);
    for (from, to) in
        [(KvDtype::F32, KvDtype::F16), (KvDtype::Int8, KvDtype::Int8), (KvDtype::F32, KvDtype::Int8)]
    {
        let [from, to, alone] = [from, to, to].map(stored);
        assert_eq!(moved(from.as_ref(), to.as_ref(), &prompt), 4);
        let (found, finish) = answer(to.as_ref(), &prompt, 8);
        assert_eq!((found, finish.cached_tokens), (answer(alone.as_ref(), &prompt, 8).0, 128));
    }
}

#[test]
fn every_layer_is_given_while_the_prompt_is_computed() {
    let engine = smollm2(LoadOptions::default());
    let tokens: Vec<u32> = (0..20 * 32u32).map(|at| 1000 + (at * 41) % 5000).collect();
    let (images, finish) = computed(engine.as_ref(), &Prefix { tokens, blocks: 2..20 });
    finish.expect("it is computed");
    let given = images.given.lock().expect("no panic");
    // Two steps, each layer by layer: a step's blocks in all layers before the next step's.
    let expected =
        [2..16, 16..20].into_iter().flat_map(|blocks| (0..30).map(move |layer| (layer, blocks.clone())));
    assert_eq!(*given, expected.collect::<Vec<_>>());
}

#[test]
fn an_engine_keeps_nothing_of_a_sink_whose_request_has_ended() {
    let engine = tiny(LoadOptions::default());
    let (images, finish) = computed(engine.as_ref(), &Prefix { tokens: prompt(128, 4), blocks: 0..4 });
    finish.expect("it is computed");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while Arc::strong_count(&images) > 1 {
        assert!(std::time::Instant::now() < until, "an idle engine holds on to it");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_prefix_whose_beginning_is_not_cached_is_refused_and_nothing_is_held() {
    let [prefill, decode] = [(); 2].map(|()| tiny(LoadOptions::default()));
    let before = decode.state().kv_blocks_available;
    let prefix = Prefix { tokens: prompt(128, 5), blocks: 1..4 };
    let (images, finish) = computed(prefill.as_ref(), &prefix);
    finish.expect("the giver computes what precedes as well");
    let refused = door(decode.as_ref()).import(prefix, images.clone());
    assert_eq!(refused, Err(ImportError::PrefixGone { wanted: 1, cached: 0 }));
    let uneven = Prefix { tokens: prompt(100, 5), blocks: 1..4 };
    assert!(matches!(door(decode.as_ref()).import(uneven.clone(), images), Err(ImportError::Failed(_))));
    let (_, refused) = computed(prefill.as_ref(), &uneven);
    assert!(refused.expect_err("it is no prefix").contains("not the last ones"));
    assert_eq!(decode.state().kv_blocks_available, before);
}

#[test]
fn a_pool_without_room_refuses_a_prefix_and_serves_on() {
    let small = tiny(LoadOptions { kv_tokens: Some(4 * 32), ..LoadOptions::default() });
    let prefill = tiny(LoadOptions::default());
    let prefix = Prefix { tokens: prompt(160, 6), blocks: 0..5 };
    let (images, finish) = computed(prefill.as_ref(), &prefix);
    finish.expect("it is computed");
    assert!(matches!(door(small.as_ref()).import(prefix, images), Err(ImportError::NoRoom(_))));
    assert_eq!(answer(small.as_ref(), &prompt(100, 7), 8).0.len(), 8);
    assert_eq!(small.state().kv_blocks_available, 4);
}

#[test]
fn engines_of_one_checkpoint_know_each_other_and_others_do_not() {
    let identity = |engine: &dyn Engine| door(engine).description().model;
    let [one, same] = [(); 2].map(|()| tiny(LoadOptions::default()));
    let quantised = tiny(LoadOptions {
        quantize: Some(mlxcel_engine::Quantization::Affine { bits: 8, group_size: 32 }),
        ..LoadOptions::default()
    });
    assert_eq!(identity(one.as_ref()), identity(same.as_ref()));
    assert_ne!(identity(one.as_ref()), identity(quantised.as_ref()));
    assert_ne!(identity(one.as_ref()), identity(smollm2(LoadOptions::default()).as_ref()));
}
