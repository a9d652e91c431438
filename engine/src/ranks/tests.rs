//! Two ranks on threads of this process, each with its own stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxcel_mlx_bridge::{Array, Device, Dtype, ErrorKind, set_default_device};
use mlxcel_transport::collective::{Group, GroupConfig};
use mlxcel_transport::inprocess::Network;
use mlxcel_transport::{PeerId, Transport};

use super::*;

fn two_ranks<T: Send>(work: impl Fn(HostRanks, &dyn Transport) -> T + Sync) -> Vec<T> {
    set_default_device(Device::CPU).expect("there is a CPU");
    let network = Network::new();
    let ends = [network.endpoint(), network.endpoint()];
    let names: Vec<PeerId> = ends.iter().map(|end| end.id()).collect();
    let soon = Instant::now() + Duration::from_secs(5);
    let mut connecting = ends[0].connect(names[1], &ends[1].addresses(), soon);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(connecting.as_mut().poll(&mut context).is_ready(), "endpoints of one process connect at once");
    std::thread::scope(|scope| {
        let start = |end: &Arc<_>| {
            let (end, names, work) = (Arc::clone(end) as Arc<dyn Transport>, &names, &work);
            scope.spawn(move || {
                let group =
                    Group::form(Arc::clone(&end), names, GroupConfig::new(1)).expect("both take part");
                work(HostRanks::new(group), &*end)
            })
        };
        let threads: Vec<_> = ends.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("ranks do not panic")).collect()
    })
}

fn floats(values: &[f32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape).expect("an array")
}

#[test]
fn ranks_sum_and_gather_inside_a_graph() {
    let results = two_ranks(|ranks, _| {
        let rank = ranks.rank() as f32;
        let x = floats(&[rank, 1.0, 2.0, 10.0 * rank], &[2, 2]);
        // Nothing is evaluated before the end: the sum feeds a product, which is gathered.
        let sum = ranks.all_sum(&x).and_then(|sum| sum.matmul(&x)).expect("a node");
        let all = ranks.all_gather(&sum).expect("a node");
        (all.shape().to_vec(), all.to_vec::<f32>().expect("values"))
    });
    let expected = vec![4.0, 1.0, 20.0, 4.0, 5.0, 21.0, 24.0, 104.0];
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0].0, [4, 2]);
    assert_eq!(results[0].1, expected);
}

#[test]
fn half_precision_is_summed_in_its_own_type() {
    let results = two_ranks(|ranks, _| {
        let x = floats(&[1.0, 2.5], &[2]).astype(Dtype::Bfloat16).expect("an array");
        let sum = ranks.all_sum(&x).expect("a node");
        assert_eq!(sum.dtype(), Dtype::Bfloat16);
        sum.astype(Dtype::Float32).and_then(|sum| sum.to_vec::<f32>()).expect("values")
    });
    assert_eq!(results, [[2.0, 5.0], [2.0, 5.0]]);
}

#[test]
fn a_lost_rank_fails_what_is_evaluated() {
    let results = two_ranks(|ranks, transport| {
        if ranks.rank() == 1 {
            transport.disconnect(transport.domain().peers()[0]);
            return None;
        }
        let sum = ranks.all_sum(&floats(&[1.0; 100_000], &[100_000])).expect("a node");
        Some(sum.to_vec::<f32>().expect_err("a rank is missing"))
    });
    let error = results[0].as_ref().expect("rank 0 evaluated");
    assert_eq!(error.kind, ErrorKind::Kernel);
    assert!(error.to_string().contains("rank 1 was lost"), "{error}");
}

#[test]
fn integers_are_refused_when_the_node_is_built() {
    two_ranks(|ranks, _| {
        let x = Array::from_slice(&[1_i32], &[1]).expect("an array");
        assert!(ranks.all_sum(&x).is_err_and(|error| error.kind == ErrorKind::Argument));
    });
}
