//! Who is alive, and how loaded.

use std::time::Duration;

use mlxcel_protocol::v1::WorkerHealth;

use super::*;
use crate::core::cost::Ask;
use crate::core::fleet::{MEMORY, SILENCE};
use crate::core::member::LOAD_PAUSE;

fn alive(world: &World) -> Vec<&str> {
    world.fleet.alive().map(|(id, _)| id.as_str()).collect()
}

fn load(world: &World, node: &str) -> u32 {
    world.fleet.get(&id(node)).expect("known").load()
}

#[test]
fn silent_node_is_lost_after_three_seconds_and_not_before() {
    let mut world = World::with(&["a", "b"]);
    world.waits(SILENCE - Duration::from_millis(1));
    world.hears("b", ready(0));
    assert!(world.fleet.lose_silent(world.now).is_empty());
    world.waits(Duration::from_millis(1));
    assert_eq!(world.fleet.lose_silent(world.now), [id("a")]);
    assert_eq!(alive(&world), ["b"]);
}

#[test]
fn lost_node_that_reports_again_is_alive_under_a_new_epoch() {
    let mut world = World::with(&["a"]);
    let before = world.fleet.get(&id("a")).expect("known").epoch;
    world.loses("a");
    world.hears("a", ready(0));
    let member = world.fleet.get(&id("a")).expect("known");
    assert!(member.alive());
    assert_ne!(member.epoch, before);
}

#[test]
fn lost_node_is_remembered_for_a_while_and_then_forgotten() {
    let mut world = World::with(&["a"]);
    world.loses("a");
    world.waits(MEMORY - Duration::from_secs(1));
    world.fleet.lose_silent(world.now);
    assert!(world.fleet.get(&id("a")).is_some());
    world.waits(Duration::from_secs(1));
    world.fleet.lose_silent(world.now);
    assert!(world.fleet.get(&id("a")).is_none());
}

#[test]
fn own_picks_count_at_once_and_are_not_counted_twice_when_reported() {
    let mut world = World::with(&["a"]);
    let pick = world.fleet.pick(&id("a"), ("m", Ask::default()), world.now).expect("alive");
    assert_eq!(load(&world, "a"), 1);
    world.hears("a", ready(1));
    assert_eq!(load(&world, "a"), 1);
    world.fleet.release(&pick, world.now);
    assert_eq!(load(&world, "a"), 0);
}

#[test]
fn requests_of_other_routers_are_counted() {
    let mut world = World::with(&["a"]);
    let pick = world.fleet.pick(&id("a"), ("m", Ask::default()), world.now).expect("alive");
    world.hears("a", ready(4));
    assert_eq!(load(&world, "a"), 4);
    world.fleet.release(&pick, world.now);
    assert_eq!(load(&world, "a"), 3);
}

#[test]
fn pick_from_before_a_loss_does_not_lighten_the_returned_node() {
    let mut world = World::with(&["a"]);
    let old = world.fleet.pick(&id("a"), ("m", Ask::default()), world.now).expect("alive");
    world.loses("a");
    world.hears("a", ready(0));
    let _new = world.fleet.pick(&id("a"), ("m", Ask::default()), world.now).expect("alive");
    world.fleet.release(&old, world.now);
    assert_eq!(load(&world, "a"), 1);
}

#[test]
fn lost_node_takes_no_pick() {
    let mut world = World::with(&["a"]);
    world.loses("a");
    assert_eq!(world.fleet.pick(&id("a"), ("m", Ask::default()), world.now), None);
}

#[test]
fn models_of_a_worker_that_is_not_ready_are_known_and_do_not_count() {
    let mut state = ready(3);
    state.workers[0].health = WorkerHealth::Restarting.into();
    let report = Report::new(&state);
    assert!(report.knows("m"));
    assert!(!report.serves("m") && !report.is_loading("m"));
    assert_eq!(report.queued, 0);
}

#[test]
fn failed_load_is_remembered_for_a_while() {
    let mut world = World { fleet: Fleet::default(), now: Instant::now() };
    world.hears("a", loadable());
    assert!(world.fleet.load_begins(&id("a"), "m"));
    assert!(!world.fleet.load_begins(&id("a"), "m"));
    world.fleet.load_ends(&id("a"), "m", Some("broken".into()), world.now);
    let told = |world: &World| {
        world.fleet.get(&id("a")).and_then(|m| m.failed_load("m", world.now)).map(str::to_owned)
    };
    assert_eq!(told(&world).as_deref(), Some("broken"));
    world.waits(LOAD_PAUSE);
    assert_eq!(told(&world), None);
}

#[test]
fn load_cut_short_by_a_loss_is_no_failure() {
    let mut world = World { fleet: Fleet::default(), now: Instant::now() };
    world.hears("a", loadable());
    world.fleet.load_begins(&id("a"), "m");
    world.loses("a");
    world.hears("a", loadable());
    world.fleet.load_ends(&id("a"), "m", Some("node was lost".into()), world.now);
    assert_eq!(world.fleet.get(&id("a")).and_then(|m| m.failed_load("m", world.now)), None);
}
