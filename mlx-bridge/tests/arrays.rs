//! Arrays: values in and out, ownership of memory, threads, typed errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use mlxcel_mlx_bridge::{
    Array, Device, DeviceKind, Dtype, Error, ErrorKind, Stream, async_eval, default_device, eval, memory,
    version,
};

static_assertions::assert_not_impl_any!(Array: Send, Sync);
static_assertions::assert_not_impl_any!(Stream: Send, Sync);
static_assertions::assert_impl_all!(Error: Send, Sync, std::error::Error);

fn floats(shape: &[i32]) -> Array {
    let size: i32 = shape.iter().product();
    let values: Vec<f32> = (0..size).map(|i| i as f32).collect();
    Array::from_slice(&values, shape).expect("an array")
}

#[test]
fn the_pinned_version_is_loaded() {
    let lock = include_str!("../mlx.lock.toml");
    assert!(lock.contains(&format!("version = \"{}\"", version())), "{}", version());
}

#[test]
fn values_survive_the_round_trip_in_every_dtype() {
    macro_rules! round_trip {
        ($($t:ty: $values:expr),*) => {$(
            let values: Vec<$t> = $values;
            let array = Array::from_slice(&values, &[values.len() as i32]).expect("an array");
            assert_eq!(array.to_vec::<$t>().expect("values"), values);
        )*};
    }
    round_trip!(
        u8: vec![0, 255], u16: vec![0, 65535], u32: vec![0, u32::MAX], u64: vec![0, u64::MAX],
        i8: vec![-128, 127], i16: vec![-32768, 1], i32: vec![i32::MIN, 1], i64: vec![i64::MIN, 1],
        f16: vec![f16::from_f32(0.5)], bf16: vec![bf16::from_f32(-2.0)], f32: vec![1.5, -0.0], f64: vec![1e300]
    );
}

#[test]
fn a_transposed_array_reads_out_in_its_own_order() {
    let array = floats(&[2, 3]).transpose(&[1, 0]).expect("a transpose");
    assert_eq!(array.shape(), [3, 2]);
    assert_eq!(array.to_vec::<f32>().expect("values"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
}

#[test]
fn reading_by_another_type_is_an_argument_error() {
    let error = floats(&[2]).to_vec::<u32>().expect_err("a wrong type");
    assert_eq!((error.op, error.kind), ("to_vec", ErrorKind::Argument));
    assert!(error.operands.contains("float32[2]"), "{error}");
}

#[test]
fn item_of_several_elements_is_an_argument_error() {
    let error = floats(&[2]).item::<f32>().expect_err("two elements");
    assert_eq!(error.kind, ErrorKind::Argument);
}

#[test]
fn a_shape_that_does_not_fill_the_data_is_refused() {
    for shape in [&[3][..], &[-2], &[2, 2], &[i32::MAX, i32::MAX, i32::MAX]] {
        let error = Array::from_slice(&[1.0f32, 2.0], shape).expect_err("a wrong shape");
        assert_eq!(error.kind, ErrorKind::Argument, "{error}");
    }
}

#[test]
fn wrong_operand_shapes_name_the_operation_and_the_operands() {
    let error = floats(&[2, 3]).matmul(&floats(&[4, 5])).expect_err("inner sizes differ");
    assert_eq!((error.op, error.kind), ("matmul", ErrorKind::Argument));
    assert_eq!(error.operands, " of float32[2, 3], float32[4, 5]");
}

#[test]
fn a_slice_past_the_end_is_refused() {
    let error = floats(&[4]).slice(&[2], &[5]).expect_err("past the end");
    assert_eq!(error.kind, ErrorKind::Argument);
}

#[test]
fn an_array_larger_than_the_memory_limit_is_out_of_memory() {
    let shape = [1 << 20, 1 << 20, 16];
    let error = Array::zeros(&shape, Dtype::Float32).expect_err("64 TiB");
    assert_eq!(error.kind, ErrorKind::OutOfMemory, "{error}");
}

#[test]
fn a_large_broadcast_is_no_memory_error() {
    let scalar = Array::scalar(1.0f32).expect("a scalar");
    let large = scalar.broadcast_to(&[1 << 20, 1 << 20, 16]).expect("a view");
    let part = large.slice(&[0, 0, 0], &[1, 1, 1]).map(|part| part.to_vec::<f32>());
    // A view of the view counts as an array of its own, which is small here.
    assert_eq!(part.expect("a slice").expect("values"), [1.0]);
}

#[test]
fn as_slice_lends_evaluated_elements() {
    let sum = floats(&[3]).add(&floats(&[3])).expect("a sum");
    assert_eq!(sum.as_slice::<f32>().expect("elements"), [0.0, 2.0, 4.0]);
}

#[test]
fn as_slice_of_a_transposed_array_is_refused() {
    let array = floats(&[2, 3]).transpose(&[]).expect("a transpose");
    eval(&[&array]).expect("evaluated");
    assert_eq!(array.as_slice::<f32>().expect_err("not contiguous").kind, ErrorKind::Argument);
}

struct Counted {
    bytes: Vec<u8>,
    drops: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

fn counted(values: &[f32]) -> (Counted, Arc<AtomicUsize>) {
    let drops = Arc::new(AtomicUsize::new(0));
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (Counted { bytes, drops: drops.clone() }, drops)
}

#[test]
fn an_owned_range_is_used_in_place_on_the_cpu() {
    let (owner, _) = counted(&[1.0, 2.0, 3.0, 4.0]);
    let address = owner.bytes.as_ptr().addr();
    let array = Array::from_owner(owner, 4..16, Dtype::Float32, &[3]).expect("an array");
    let slice = array.as_slice::<f32>().expect("elements");
    assert_eq!(slice, [2.0, 3.0, 4.0]);
    if !Device::gpu(0).is_available().expect("an answer") {
        assert_eq!(slice.as_ptr().addr(), address + 4);
    }
}

#[test]
fn an_owner_is_dropped_once_when_its_last_array_is_gone() {
    let (owner, drops) = counted(&[1.0, 2.0]);
    let array = Array::from_owner(owner, 0..8, Dtype::Float32, &[2]).expect("an array");
    let sum = array.add(&array).expect("a sum");
    drop(array);
    assert_eq!(sum.to_vec::<f32>().expect("values"), [2.0, 4.0]);
    drop(sum);
    // The stream lets go of its inputs after the work, in its own time.
    mlxcel_mlx_bridge::synchronize().expect("idle");
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

#[test]
fn a_misaligned_range_is_copied() {
    let (owner, drops) = counted(&[1.0, 2.0, 3.0]);
    let odd = (1..4).find(|at| (owner.bytes.as_ptr().addr() + at) % 4 != 0).expect("an odd place");
    let expected = owner.bytes[odd..odd + 4].to_vec();
    let array = Array::from_owner(owner, odd..odd + 4, Dtype::Float32, &[1]).expect("an array");
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert_eq!(array.to_vec::<f32>().expect("values")[0].to_le_bytes(), expected[..]);
}

#[test]
fn a_range_outside_the_owner_is_refused_and_the_owner_dropped() {
    let (owner, drops) = counted(&[1.0]);
    let error = Array::from_owner(owner, 0..8, Dtype::Float32, &[2]).expect_err("past the end");
    assert_eq!(error.kind, ErrorKind::Argument);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

#[test]
fn async_eval_delivers_when_read() {
    let mut array = floats(&[64, 64]);
    for _ in 0..10 {
        array = array.multiply_scalar(0.5).expect("a product");
        async_eval(&[&array]).expect("started");
    }
    assert_eq!(array.as_slice::<f32>().expect("elements")[1024], 1.0);
}

#[test]
fn the_cpu_is_there_and_says_what_it_is() {
    assert!(Device::CPU.is_available().expect("an answer"));
    assert_eq!(Device::count(DeviceKind::Cpu).expect("a count"), 1);
    assert!(!Device::CPU.info().expect("properties").properties.is_empty());
    assert!(default_device().expect("a device").is_available().expect("an answer"));
}

#[test]
fn an_absent_gpu_is_a_device_error() {
    let error = Device::gpu(99).info().expect_err("no such GPU");
    assert_eq!(error.kind, ErrorKind::Device, "{error}");
}

#[test]
fn memory_figures_move_with_the_arrays() {
    memory::reset_peak().expect("reset");
    let array = Array::zeros(&[1 << 20], Dtype::Float32).expect("zeros");
    eval(&[&array]).expect("evaluated");
    assert!(memory::active().expect("bytes") >= 4 << 20);
    assert!(memory::peak().expect("bytes") >= 4 << 20);
}

#[test]
fn work_follows_the_default_stream() {
    let device = default_device().expect("a device");
    let stream = Stream::new(device).expect("a stream");
    stream.make_default().expect("set");
    assert_eq!(Stream::default_of(device).expect("a stream"), stream);
    let sum = floats(&[2]).add(&floats(&[2])).expect("a sum");
    async_eval(&[&sum]).expect("started");
    stream.synchronize().expect("idle");
    assert_eq!(sum.to_vec::<f32>().expect("values"), [0.0, 2.0]);
}
