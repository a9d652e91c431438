//! Which node is chosen.

use mlxcel_protocol::v1::ModelStatus;

use super::*;
use crate::core::cost::Ask;
use crate::core::dispatch::{Absence, Choice, Standing, Wish, choose};

fn chosen(world: &World) -> Choice {
    choose(&world.fleet, "m", world.now, |_, _| Standing::Free, &Wish::default())
}

fn chosen_regarding(world: &World, node: &str, standing: Standing) -> Choice {
    choose(
        &world.fleet,
        "m",
        world.now,
        |id, _| match id.as_str() == node {
            true => standing,
            false => Standing::Free,
        },
        &Wish::default(),
    )
}

fn world_of(nodes: &[(&str, NodeState)]) -> World {
    let mut world = World::with(&[]);
    for (node, state) in nodes {
        world.hears(node, state.clone());
    }
    world
}

#[test]
fn choice_follows_what_the_nodes_say() {
    let loading = || with_model(ModelStatus::Loading, 0);
    let serve = |node| Choice::Serve(id(node));
    let nowhere = Choice::Nowhere;
    let other = || {
        let mut state = ready(0);
        state.workers[0].models[0].name = "other".into();
        state
    };
    let workerless = || NodeState { loadable_models: vec!["m".into()], ..NodeState::default() };
    let cases = [
        ("the least loaded", vec![("a", ready(2)), ("b", ready(1))], serve("b")),
        ("the first id among equals", vec![("b", ready(1)), ("a", ready(1))], serve("a")),
        ("not a draining one", vec![("a", draining()), ("b", ready(9))], serve("b")),
        ("ready before loadable", vec![("a", loadable()), ("b", ready(9))], serve("b")),
        ("load where nobody has it", vec![("a", other()), ("b", loadable())], Choice::Load(id("b"))),
        ("wait for a load under way", vec![("a", loadable()), ("b", loading())], Choice::Loading),
        ("nobody there", vec![], nowhere(Absence::NoNodes)),
        ("nobody knows it", vec![("a", other())], nowhere(Absence::Unknown)),
        ("only draining ones", vec![("a", draining())], nowhere(Absence::Away)),
        ("no worker to load with", vec![("a", workerless())], nowhere(Absence::Away)),
    ];
    for (what, nodes, expected) in cases {
        assert_eq!(chosen(&world_of(&nodes)), expected, "{what}");
    }
}

#[test]
fn load_is_weighed_by_ready_workers() {
    let mut two_workers = ready(2);
    two_workers.workers.push(ready(1).workers.remove(0));
    let world = world_of(&[("a", ready(2)), ("b", two_workers)]);
    assert_eq!(chosen(&world), Choice::Serve(id("b")));
}

#[test]
fn equal_nodes_take_turns() {
    let mut world = World::with(&["a", "b", "c"]);
    let mut turns = Vec::new();
    for _ in 0..6 {
        let Choice::Serve(node) = chosen(&world) else { panic!("all are ready") };
        let pick = world.fleet.pick(&node, ("m", Ask::default()), world.now).expect("alive");
        world.fleet.release(&pick, world.now);
        turns.push(node.as_str().to_owned());
    }
    assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn failed_node_is_left_out() {
    let world = world_of(&[("a", ready(0)), ("b", ready(9))]);
    assert_eq!(chosen_regarding(&world, "a", Standing::Failed), Choice::Serve(id("b")));
}

#[test]
fn busy_node_is_waited_for_rather_than_loading_elsewhere() {
    let world = world_of(&[("a", ready(0)), ("b", loadable())]);
    assert_eq!(chosen_regarding(&world, "a", Standing::Busy), Choice::Busy);
    assert_eq!(chosen_regarding(&world, "a", Standing::Failed), Choice::Load(id("b")));
}

#[test]
fn lost_nodes_model_is_away_rather_than_unknown() {
    let mut world = world_of(&[("a", ready(0)), ("b", loadable())]);
    world.loses("a");
    world.loses("b");
    assert_eq!(chosen(&world), Choice::Nowhere(Absence::Away));
}

#[test]
fn load_already_asked_for_is_waited_for() {
    let mut world = world_of(&[("a", loadable()), ("b", loadable())]);
    world.fleet.load_begins(&id("b"), "m");
    assert_eq!(chosen(&world), Choice::Loading);
}

#[test]
fn load_that_failed_goes_to_another_node_and_then_to_nobody() {
    let mut world = world_of(&[("a", loadable()), ("b", loadable())]);
    for node in ["a", "b"] {
        assert_eq!(chosen(&world), Choice::Load(id(node)));
        world.fleet.load_begins(&id(node), "m");
        world.fleet.load_ends(&id(node), "m", Some(format!("broken on {node}")), world.now);
    }
    assert_eq!(chosen(&world), Choice::Nowhere(Absence::LoadFailed("broken on a".into())));
}

#[test]
fn model_just_loaded_is_served_before_the_node_reports_it() {
    let mut world = world_of(&[("a", loadable())]);
    world.fleet.load_begins(&id("a"), "m");
    world.fleet.load_ends(&id("a"), "m", None, world.now);
    assert_eq!(chosen(&world), Choice::Serve(id("a")));
}
