//! Which node has what of a prompt.

use std::time::Duration;

use mlxcel_protocol::v1::Finished;

use super::*;
use crate::core::attempt::{Attempt, Step};
use crate::core::cost::Ask;
use crate::core::fleet::Pick;
use crate::core::prefixes::{Cuts, Prefixes};

/// A prompt of so many bytes, all of them this letter, behind `head`.
fn prompt(head: &str, letter: char, bytes: usize) -> String {
    head.to_owned() + &letter.to_string().repeat(bytes)
}

fn cuts(text: &str) -> Cuts {
    Cuts::new("m", &[text.as_bytes()])
}

fn share(prefixes: &Prefixes, text: &str, node: &str) -> f64 {
    prefixes.overlaps(&cuts(text)).get(&id(node)).copied().unwrap_or(0.0)
}

#[test]
fn a_prompt_that_goes_on_is_known_as_far_as_the_first_went() {
    let mut prefixes = Prefixes::default();
    let first = prompt("", 'x', 1024);
    prefixes.note(&cuts(&first), &id("a"));
    assert_eq!(share(&prefixes, &prompt(&first, 'y', 1024), "a"), 0.5);
    assert_eq!(share(&prefixes, &first, "a"), 1.0);
    assert_eq!(share(&prefixes, &prompt("", 'z', 1024), "a"), 0.0, "it begins otherwise");
    assert_eq!(share(&prefixes, &first, "b"), 0.0);
    assert_eq!(prefixes.overlaps(&Cuts::new("n", &[first.as_bytes()])).len(), 0, "another model");
}

#[test]
fn equal_cuts_behind_different_beginnings_are_different() {
    let mut prefixes = Prefixes::default();
    prefixes.note(&cuts(&prompt(&"1".repeat(256), 'x', 2048)), &id("a"));
    assert_eq!(share(&prefixes, &prompt(&"2".repeat(256), 'x', 2048), "a"), 0.0);
}

#[test]
fn each_node_has_what_it_was_sent_and_nothing_once_it_is_lost() {
    let mut prefixes = Prefixes::default();
    let long = prompt("", 'x', 2048);
    prefixes.note(&cuts(&long[..1024]), &id("a"));
    prefixes.note(&cuts(&long), &id("b"));
    assert_eq!((share(&prefixes, &long, "a"), share(&prefixes, &long, "b")), (0.5, 1.0));
    prefixes.lose(&id("b"));
    assert_eq!((share(&prefixes, &long, "a"), share(&prefixes, &long, "b")), (0.5, 0.0));
}

#[test]
fn what_was_not_asked_for_longest_is_forgotten() {
    let mut prefixes = Prefixes::default();
    let text = |number: usize| prompt(&format!("{number:0256}"), 'x', 64 * 1024);
    prefixes.note(&cuts(&text(0)), &id("a"));
    prefixes.note(&cuts(&text(1)), &id("a"));
    for number in 2..2000 {
        prefixes.note(&cuts(&text(number)), &id("a"));
        // This one is asked for again and again.
        prefixes.note(&cuts(&text(0)), &id("a"));
    }
    assert_eq!(share(&prefixes, &text(1), "a"), 0.0);
    assert!(share(&prefixes, &text(0), "a") > 0.99);
}

/// Two nodes of known and equal speed.
fn known() -> World {
    let mut world = World::with(&["a", "b"]);
    // The first answer of each says nothing.
    for node in ["a", "b", "a", "b"] {
        let pick = world.fleet.pick(&id(node), ("m", Ask::default()), world.now).expect("alive");
        finish(&mut world, &pick, 0);
    }
    world
}

fn finish(world: &mut World, pick: &Pick, cached_tokens: u32) {
    let finished = Finished {
        prompt_tokens: 1000,
        cached_tokens,
        prefill_micros: u64::from(1000 - cached_tokens) * 1000,
        completion_tokens: 11,
        decode_micros: 100_000,
        ..Finished::default()
    };
    world.fleet.learn(pick, &finished);
    world.fleet.release(pick, world.now);
}

/// Where a prompt goes, and what the router takes the node to have of it.
fn sends(world: &mut World, text: &str) -> Pick {
    let ask = Ask { bytes: text.len(), ..Ask::default() };
    let mut attempt = Attempt::new("m", Duration::from_secs(30)).asking(ask, cuts(text));
    let Step::Generate(node) = attempt.next(&world.fleet, world.now) else { panic!("nodes are free") };
    let pick = world.fleet.pick(&node, ("m", attempt.ask()), world.now).expect("alive");
    world.fleet.note(attempt.cuts(), &node);
    pick
}

#[test]
fn a_conversation_stays_where_its_beginning_was_computed() {
    let mut world = known();
    let mut text = prompt("", 'x', 4096);
    let first = sends(&mut world, &text);
    finish(&mut world, &first, 0);
    for _ in 0..5 {
        text = prompt(&text, 'y', 512);
        let next = sends(&mut world, &text);
        assert_eq!(next.node, first.node);
        finish(&mut world, &next, 900);
    }
}

#[test]
fn a_cached_beginning_is_left_where_its_node_has_too_much_to_do() {
    let mut world = known();
    let text = prompt("", 'x', 4096);
    let first = sends(&mut world, &text);
    finish(&mut world, &first, 0);
    // Other prompts, none of which begins so, that all go there.
    for _ in 0..20 {
        let ask = Ask { bytes: 4096, ..Ask::default() };
        world.fleet.pick(&first.node, ("m", ask), world.now).expect("alive");
    }
    assert_ne!(sends(&mut world, &text).node, first.node);
}

#[test]
fn a_node_that_keeps_nothing_is_no_longer_counted_on() {
    let mut world = known();
    let text = prompt("", 'x', 4096);
    let first = sends(&mut world, &text);
    finish(&mut world, &first, 0);
    let believed = |world: &World| world.fleet.overlaps(&cuts(&text)).get(&first.node).copied();
    assert_eq!(believed(&world), Some(1.0));
    for _ in 0..40 {
        let ask = Ask { bytes: 4096, had: believed(&world).unwrap_or(0.0), ..Ask::default() };
        let pick = world.fleet.pick(&first.node, ("m", ask), world.now).expect("alive");
        finish(&mut world, &pick, 0);
    }
    assert!(believed(&world).is_some_and(|share| share < 0.25), "{:?}", believed(&world));
}
