//! Plans for clusters that people have, and rules that hold for all.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::cost::usable;
use super::*;

/// Llama 3.1 of 8, 70 or 405 billion parameters, with weights of `bits` bits (4 come with scales).
fn llama(billions: usize, bits: f64) -> ModelSize {
    let (layers, hidden, inner, heads, kv_heads) = match billions {
        8 => (32, 4096, 14336, 32, 8),
        70 => (80, 8192, 28672, 64, 8),
        _ => (126, 16384, 53248, 128, 8),
    };
    let weights = hidden * (hidden + 2 * kv_heads * 128 + heads * 128 + 3 * inner);
    let stored = if bits < 8.0 { bits + 0.5 } else { bits };
    let bytes = |elements: usize| (elements as f64 * stored / 8.0) as u64;
    ModelSize {
        layers,
        layer_bytes: bytes(weights),
        layer_flops: 2.0 * weights as f64,
        embedding_bytes: bytes(128_256 * hidden),
        head_bytes: bytes(128_256 * hidden),
        hidden_bytes: 2 * hidden as u64,
        kv_bytes: 2 * 2 * 128 * kv_heads as u64,
        most_ranks: heads,
    }
}

fn plan(cluster: &str, model: &ModelSize, sequences: usize) -> String {
    let cluster = Cluster::parse(cluster).expect("it describes a cluster");
    match cluster.place(model, Demand { sequences, context: 4096 }) {
        Ok(plan) => plan.to_string(),
        Err(missing) => missing.to_string(),
    }
}

const TWO_MACS: &str = r#"
    [[host]]
    name = "studio"
    device = [{ memory_gb = 64, bandwidth_gb_s = 800, tflops = 28 }]
    [[host]]
    name = "book"
    device = [{ memory_gb = 36, bandwidth_gb_s = 300, tflops = 14 }]
    [[link]]
    hosts = ["studio", "book"]
    latency_us = 100
    gb_s = 1.1
"#;

const MAC_AND_PC: &str = r#"
    [[host]]
    name = "studio"
    device = [{ memory_gb = 128, bandwidth_gb_s = 800, tflops = 28 }]
    [[host]]
    name = "pc"
    device = [{ memory_gb = 24, bandwidth_gb_s = 1000, tflops = 160 }]
"#;

const FOUR_H200: &str = r#"
    [[host]]
    name = "dgx"
    device = [{ memory_gb = 141, bandwidth_gb_s = 4000, tflops = 700, count = 4 }]
    within = { latency_us = 8, gb_s = 400 }
"#;

const WITH_WINDOWS: &str = r#"
    [[host]]
    name = "linux"
    device = [{ memory_gb = 24, bandwidth_gb_s = 1000, tflops = 160 }]
    [[host]]
    name = "mac"
    device = [{ memory_gb = 24, bandwidth_gb_s = 270, tflops = 9 }]
    [[host]]
    name = "windows"
    device = [{ memory_gb = 16, bandwidth_gb_s = 500, tflops = 80 }]
    standalone = true
"#;

#[test]
fn two_macs_hold_together_what_neither_holds_alone() {
    assert_snapshot!(plan(TWO_MACS, &llama(70, 8.0), 1));
}

#[test]
fn a_fast_small_machine_and_a_slow_large_one_share_layers_by_time() {
    assert_snapshot!(plan(MAC_AND_PC, &llama(70, 4.0), 1));
}

#[test]
fn four_gpus_share_every_layer_for_one_sequence() {
    assert_snapshot!(plan(FOUR_H200, &llama(70, 16.0), 1));
}

#[test]
fn a_standalone_host_gets_whole_models_only() {
    assert_snapshot!("whole_models", plan(WITH_WINDOWS, &llama(8, 4.0), 32));
    assert_snapshot!("too_large", plan(WITH_WINDOWS, &llama(70, 4.0), 1));
}

#[test]
fn descriptions_that_cannot_be_are_refused_by_name() {
    let refused = |text: &str| Cluster::parse(text).expect_err("it is refused").to_string();
    let cases = [
        ("36", "-36", "book: memory_gb must be more than 0, got -36"),
        ("\"book\"]", "\"boot\"]", "a link names boot, which is no host of the description"),
        ("name = \"book\"", "name = \"studio\"", "two hosts are called studio; give each a name of its own"),
    ];
    for (from, to, said) in cases {
        assert_eq!(refused(&TWO_MACS.replace(from, to)), said);
    }
}

/// A host: memory in GB and rates of its devices, and how many it has.
type Host = ((u64, f64, f64), usize, bool);

fn hosts() -> impl Strategy<Value = Vec<Host>> {
    let device = (4_u64..200, 50.0..4000.0_f64, 1.0..800.0_f64);
    prop::collection::vec((device, 1_usize..5, prop::bool::weighted(0.8)), 1..7)
}

fn cluster(hosts: &[Host], reversed: bool) -> Cluster {
    let devices =
        hosts.iter().enumerate().flat_map(|(at, ((memory, bandwidth, tflops), count, distributed))| {
            (0..*count).map(move |index| Device {
                host: format!("host-{at}"),
                index,
                memory: memory * 1_000_000_000,
                bandwidth: bandwidth * 1e9,
                compute: tflops * 1e12,
                distributed: *distributed,
            })
        });
    let mut devices: Vec<Device> = devices.collect();
    if reversed {
        devices.reverse();
    }
    Cluster::new(devices, BTreeMap::new(), BTreeMap::new())
}

proptest! {
    #[test]
    fn plans_keep_to_memory_and_beat_single_devices(
        hosts in hosts(),
        billions in prop::sample::select(vec![8_usize, 70, 405]),
        bits in prop::sample::select(vec![4.0, 8.0, 16.0]),
        sequences in 1_usize..40,
    ) {
        let (model, demand) = (llama(billions, bits), Demand { sequences, context: 2048 });
        let cluster = cluster(&hosts, false);
        let placed = cluster.place(&model, demand);
        let alone = |device: &Device| {
            let one = Cluster::new(vec![device.clone()], BTreeMap::new(), BTreeMap::new());
            one.place(&model, demand).ok().map(|plan| plan.tokens_per_second)
        };
        let best = cluster.devices().iter().filter_map(alone).fold(0.0, f64::max);
        let Ok(plan) = placed else {
            prop_assert_eq!(best, 0.0, "a device could hold it");
            return Ok(());
        };
        prop_assert!(plan.tokens_per_second >= best * 0.999_999, "{} < {}", plan.tokens_per_second, best);
        prop_assert_eq!(plan.replicas.iter().map(|replica| replica.sequences).sum::<usize>(), sequences);
        let mut used = std::collections::BTreeSet::new();
        for replica in &plan.replicas {
            let mut next = 0;
            for stage in &replica.stages {
                prop_assert_eq!(stage.layers.start, next);
                next = stage.layers.end;
                let divided = replica.stages.len() > 1 || stage.ranks.len() > 1;
                for rank in &stage.ranks {
                    prop_assert!(rank.bytes <= rank.usable, "{rank:?}");
                    prop_assert!(used.insert((rank.host.clone(), rank.device)), "a device is used once");
                    let of = |device: &&Device| device.host == rank.host && device.index == rank.device;
                    let device = cluster.devices().iter().find(of).expect("it is one of them");
                    prop_assert!(device.distributed || !divided, "standalone devices hold whole models");
                    prop_assert_eq!(rank.usable, usable(device));
                }
            }
            prop_assert_eq!(next, model.layers);
        }
    }

    #[test]
    fn the_order_of_hosts_changes_nothing(hosts in hosts(), sequences in 1_usize..9) {
        let (model, demand) = (llama(70, 4.0), Demand { sequences, context: 2048 });
        prop_assert_eq!(
            cluster(&hosts, false).place(&model, demand),
            cluster(&hosts, true).place(&model, demand)
        );
    }
}
