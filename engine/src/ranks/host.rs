//! Ranks over the transport's collectives: a node of the graph computes with the others on the stream's own thread.
//!
//! Nodes of one stream run in the order they were built, which is what keeps the ranks in step.

use std::sync::{Arc, Mutex, PoisonError};

use mlxcel_mlx_bridge::{Array, Dtype, Error, FailureWatch, HostInput, HostOutput, Result, host_op_single};
use mlxcel_transport::collective::{Collective, Element, Reduction};

use super::{Ranks, SumWithin};

/// A group of the transport, for arrays of the CPU.
#[derive(Clone)]
pub struct HostRanks {
    group: Arc<Mutex<dyn Collective>>,
    watch: Arc<FailureWatch>,
    rank: usize,
    size: usize,
}

impl HostRanks {
    /// Takes the group over: nothing else may use it.
    #[must_use]
    pub fn new(group: impl Collective + 'static) -> Self {
        let (rank, size) = (group.rank(), group.size());
        Self { group: Arc::new(Mutex::new(group)), watch: Arc::default(), rank, size }
    }

    fn node(
        &self,
        name: &'static str,
        x: &Array,
        shape: &[i32],
        run: impl Fn(&mut dyn Collective, &[u8], &mut [u8]) -> std::result::Result<(), String>
        + Send
        + Sync
        + 'static,
    ) -> Result<Array> {
        let (group, watch) = (Arc::clone(&self.group), Arc::clone(&self.watch));
        let kernel = move |inputs: &[HostInput<'_>], output: &mut HostOutput<'_>| {
            // Others would go on with what a failure left here.
            watch.check()?;
            // A panic in another operation has broken the group, which says so itself.
            let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
            run(&mut *group, inputs[0].bytes(), output.bytes_mut())
        };
        host_op_single(name, &[x], shape, x.dtype(), kernel)
    }
}

impl Ranks for HostRanks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_sum(&self, x: &Array) -> Result<Array> {
        let element = element(x)?;
        self.node("all_sum", x, x.shape(), move |group, mine, sum| {
            sum.copy_from_slice(mine);
            group.all_reduce(sum, element, Reduction::Sum).map_err(|error| error.to_string())
        })
    }

    fn sum_within(&self) -> Option<SumWithin> {
        let (group, watch) = (Arc::clone(&self.group), Arc::clone(&self.watch));
        Some(Arc::new(move |values: &mut [f32]| {
            watch.check()?;
            let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
            let sum = group.all_reduce(bytemuck::cast_slice_mut(values), Element::F32, Reduction::Sum);
            sum.map_err(|error| error.to_string())
        }))
    }

    fn all_gather(&self, x: &Array) -> Result<Array> {
        let Some((first, rest)) = x.shape().split_first() else {
            return Err(Error::argument("all_gather", "a scalar has no first axis to gather along"));
        };
        let ranks = i32::try_from(self.size).expect("a group has at most 256 ranks");
        let shape: Vec<i32> = [first * ranks].into_iter().chain(rest.iter().copied()).collect();
        self.node("all_gather", x, &shape, |group, mine, all| {
            group.all_gather(mine, all).map_err(|error| error.to_string())
        })
    }
}

fn element(x: &Array) -> Result<Element> {
    match x.dtype() {
        Dtype::Float32 => Ok(Element::F32),
        Dtype::Float16 => Ok(Element::F16),
        Dtype::Bfloat16 => Ok(Element::Bf16),
        other => Err(Error::argument("all_sum", format!("ranks sum floats, not {other}"))),
    }
}
