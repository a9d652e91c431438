//! Models that no device holds alone.

use mlxcel_protocol::v1::{Device, DeviceKind, ModelSize, NodeInfo, Role};

use super::*;
use crate::core::assembly::Assembly;
use crate::core::dispatch::{Absence, Choice, Standing, Wish, choose};
use crate::core::fleet::{ASSEMBLY_PAUSE, Failed};

const MODEL: &str = "org/m";

/// A node with a device of so many megabytes, and the model, of ten layers of 100 MB, in its store.
fn node(megabytes: u64) -> NodeState {
    let device = Device {
        kind: DeviceKind::Cpu.into(),
        memory_bytes: megabytes * 1_000_000,
        bandwidth_bytes_per_second: 10e9,
        operations_per_second: 1e11,
        ..Device::default()
    };
    let size = ModelSize {
        name: MODEL.into(),
        layers: 10,
        layer_bytes: 100_000_000,
        layer_operations: 1e8,
        embedding_bytes: 10_000_000,
        head_bytes: 10_000_000,
        hidden_size: 1024,
        kv_bytes: 256,
        heads: 8,
        max_context: 1024,
        weight_bytes: 1_010_000_000,
    };
    let roles = vec![Role::Worker.into(), Role::Rank.into()];
    let node = Some(NodeInfo { devices: vec![device], roles, ..NodeInfo::default() });
    let workers = vec![WorkerState { health: WorkerHealth::Ready.into(), ..WorkerState::default() }];
    let (loadable_models, model_sizes) = (vec![MODEL.into()], vec![size]);
    NodeState { node, workers, loadable_models, model_sizes, ..NodeState::default() }
}

fn world_of(nodes: &[(&str, NodeState)]) -> World {
    let mut world = World::with(&[]);
    nodes.iter().for_each(|(name, state)| world.hears(name, state.clone()));
    world
}

fn chosen(world: &World) -> Choice {
    choose(&world.fleet, MODEL, world.now, |_, _| Standing::Free, &Wish::default())
}

#[track_caller]
fn assembly(world: &World) -> Assembly {
    match chosen(world) {
        Choice::Assemble(assembly) => assembly,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn missing(world: &World) -> String {
    match chosen(world) {
        Choice::Nowhere(Absence::LoadFailed(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn nodes_of(assembly: &Assembly) -> Vec<&str> {
    assembly.ranks.iter().map(|rank| rank.node.as_str()).collect()
}

#[test]
fn a_node_that_could_hold_the_model_is_asked_rather_than_one_that_could_not() {
    let world = world_of(&[("small", node(900)), ("large", node(2000))]);
    assert_eq!(chosen(&world), Choice::Load(id("large")));
}

#[test]
fn nodes_that_hold_it_together_are_planned_with_every_layer_once() {
    let world = world_of(&[("a", node(700)), ("b", node(700))]);
    let planned = assembly(&world);
    let mut nodes = nodes_of(&planned);
    nodes.sort_unstable();
    assert_eq!(nodes, ["a", "b"]);
    assert_eq!(planned.stages.iter().map(|(layers, _)| layers).sum::<u32>(), 10);
    assert!(planned.kv_blocks > 0 && planned.step_tokens > 0);
}

#[test]
fn what_is_missing_is_said() {
    let world = world_of(&[("a", node(500)), ("b", node(500))]);
    assert!(missing(&world).contains("cannot be divided over the 0.9 GB"), "{}", missing(&world));
}

#[test]
fn memory_that_other_models_have_is_not_planned_with_and_that_of_the_same_one_is() {
    let with = |name: &str| {
        let mut state = node(700);
        let model = ModelState { name: name.into(), weight_bytes: 300_000_000, ..ModelState::default() };
        state.workers[0].models = vec![ModelState { status: ModelStatus::Following.into(), ..model }];
        state
    };
    missing(&world_of(&[("a", with("other")), ("b", with("other"))]));
    // What is left of a replica that is over.
    assembly(&world_of(&[("a", with(MODEL)), ("b", with(MODEL))]));
}

#[test]
fn standalone_nodes_are_left_out() {
    let mut standalone = node(700);
    standalone.node.as_mut().expect("a node").roles = vec![Role::Worker.into()];
    missing(&world_of(&[("a", node(700)), ("b", standalone)]));
}

#[test]
fn nodes_without_the_files_take_part_where_those_that_have_them_do_not_suffice() {
    let mut without = node(700);
    without.loadable_models.clear();
    without.model_sizes.clear();
    let world = world_of(&[("a", node(700)), ("b", without.clone())]);
    assert_eq!(nodes_of(&assembly(&world)).len(), 2);
    let world = world_of(&[("a", node(700)), ("b", without), ("c", node(700))]);
    assert!(!nodes_of(&assembly(&world)).contains(&"b"));
}

#[test]
fn a_layout_that_is_told_is_kept_or_refused() {
    let mut world = world_of(&[("a", node(700)), ("b", node(700)), ("c", node(700))]);
    world.fleet.set_layout(Some(vec![2, 1]));
    let planned = assembly(&world);
    assert_eq!((planned.stages, planned.ranks.len()), (vec![(6, 2), (4, 1)], 3));
    world.fleet.set_layout(Some(vec![4]));
    assert!(missing(&world).contains("wants 4 devices, there are 3"));
}

#[test]
fn gpus_share_no_layers() {
    let gpu = || {
        let mut state = node(700);
        state.node.as_mut().expect("a node").devices[0].kind = DeviceKind::Cuda.into();
        state
    };
    let mut world = world_of(&[("a", gpu()), ("b", gpu()), ("c", gpu())]);
    assert!(assembly(&world).stages.iter().all(|(_, ranks)| *ranks == 1));
    world.fleet.set_layout(Some(vec![2, 1]));
    assert!(missing(&world).contains("2 ranks share layers, 1 of these"), "{}", missing(&world));
}

#[test]
fn a_replica_is_formed_once_at_a_time_and_a_lost_node_costs_a_pause() {
    let mut world = world_of(&[("a", node(700)), ("b", node(700))]);
    assert!(world.fleet.assembly_begins(MODEL));
    assert!(!world.fleet.assembly_begins(MODEL));
    assert_eq!(chosen(&world), Choice::Loading);
    world.fleet.assembly_ends(MODEL, Err(Failed::ForNow), world.now);
    assert_eq!(chosen(&world), Choice::Nowhere(Absence::Away));
    world.waits(ASSEMBLY_PAUSE);
    assembly(&world);
    world.fleet.assembly_ends(MODEL, Err(Failed::ForGood("no such file".into())), world.now);
    world.waits(ASSEMBLY_PAUSE);
    assert_eq!(missing(&world), "no such file");
    world.fleet.assembly_ends(MODEL, Ok(&id("b")), world.now);
    assert_eq!(chosen(&world), Choice::Serve(id("b")));
}
