//! Host operations: values, order, lifetimes, and what becomes of errors and panics.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mlxcel_mlx_bridge::{Array, Dtype, ErrorKind, FailureWatch, async_eval, eval, host_op, host_op_single};

fn floats(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).expect("an array")
}

fn doubled(x: &Array) -> Array {
    host_op_single("double", &[x], x.shape(), Dtype::Float32, |inputs, out| {
        for (o, i) in out.as_f32_mut()?.iter_mut().zip(inputs[0].as_f32()?) {
            *o = i * 2.0;
        }
        Ok(())
    })
    .expect("a node")
}

fn failing(x: &Array) -> Array {
    host_op_single("failing", &[x], &[1], Dtype::Float32, |_, _| Err("no luck".into())).expect("a node")
}

#[test]
fn a_kernel_computes_between_mlx_operations() {
    let x = floats(&[1.0, 2.0]);
    let y = doubled(&x.add(&x).expect("a sum")).add(&x).expect("a sum");
    assert_eq!(y.to_vec::<f32>().expect("values"), [5.0, 10.0]);
}

#[test]
fn inputs_arrive_row_contiguous() {
    let x =
        Array::arange(0.0, 24.0, 1.0, Dtype::Float32).and_then(|x| x.reshape(&[2, 3, 4])).expect("an array");
    let views = [
        x.transpose(&[2, 0, 1]),
        x.slice_strided(&[0, 0, 1], &[2, 3, 4], &[1, 2, 2]),
        x.slice(&[1, 0, 0], &[2, 1, 4]).and_then(|s| s.broadcast_to(&[3, 2, 4])),
    ];
    for view in views {
        let view = view.expect("a view");
        let expected: Vec<f32> = view.to_vec::<f32>().expect("values").iter().map(|v| v * 2.0).collect();
        assert_eq!(doubled(&view).to_vec::<f32>().expect("values"), expected);
    }
}

#[test]
fn several_outputs_keep_their_shapes_and_dtypes() {
    let x = floats(&[3.0, 1.0, 2.0]);
    let parts =
        host_op("minmax", &[&x], &[(&[], Dtype::Float32), (&[1, 2], Dtype::Uint32)], |inputs, outputs| {
            let x = inputs[0].as_f32()?;
            let [least, places] = outputs else {
                return Err("two outputs".into());
            };
            least.as_f32_mut()?[0] = x.iter().copied().fold(f32::MAX, f32::min);
            places.as_u32_mut()?.copy_from_slice(&[0, x.len() as u32]);
            Ok(())
        });
    let parts = parts.expect("two nodes");
    eval(&[&parts[0], &parts[1]]).expect("evaluated");
    assert_eq!(parts[0].item::<f32>().expect("a value"), 1.0);
    assert_eq!((parts[1].shape(), parts[1].to_vec::<u32>().expect("values")), (&[1, 2][..], vec![0, 3]));
}

#[test]
fn empty_arrays_pass_through() {
    let x = Array::from_slice::<f32>(&[], &[0, 4]).expect("an array");
    assert_eq!(doubled(&x).to_vec::<f32>().expect("values"), [] as [f32; 0]);
}

#[test]
fn an_error_surfaces_where_the_result_is_evaluated() {
    let error = eval(&[&failing(&floats(&[1.0]))]).expect_err("a failing kernel");
    assert_eq!(error.kind, ErrorKind::Kernel);
    assert!(error.message.contains("no luck") && error.message.contains("failing"), "{error}");
}

#[test]
fn an_error_reaches_whatever_depends_on_the_result() {
    let y = doubled(&failing(&floats(&[1.0])));
    assert_eq!(y.to_vec::<f32>().expect_err("a failing kernel").kind, ErrorKind::Kernel);
}

#[test]
fn an_error_after_async_eval_surfaces_when_read() {
    let y = failing(&floats(&[1.0]));
    let started = async_eval(&[&y]);
    let outcome = started.and_then(|()| y.to_vec::<f32>().map(drop));
    assert_eq!(outcome.expect_err("a failing kernel").kind, ErrorKind::Kernel);
}

#[test]
fn a_panic_becomes_an_error() {
    let x = floats(&[1.0]);
    let y = host_op_single("panicking", &[&x], &[1], Dtype::Float32, |_, _| panic!("out of cheese"))
        .expect("a node");
    let error = y.to_vec::<f32>().expect_err("a panicking kernel");
    assert_eq!(error.kind, ErrorKind::Kernel);
    assert!(error.message.contains("out of cheese"), "{error}");
}

#[test]
fn evaluation_works_again_after_an_error() {
    let x = floats(&[1.0]);
    for _ in 0..3 {
        eval(&[&failing(&x)]).expect_err("a failing kernel");
        assert_eq!(doubled(&x).to_vec::<f32>().expect("values"), [2.0]);
    }
}

#[test]
fn effects_happen_once_in_the_order_of_the_graph() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut x = floats(&[0.0]);
    for step in 0..200 {
        let log = log.clone();
        x = host_op_single("step", &[&x], &[1], Dtype::Float32, move |inputs, out| {
            log.lock().map_err(|e| e.to_string())?.push(step);
            out.as_f32_mut()?[0] = inputs[0].as_f32()?[0] + 1.0;
            Ok(())
        })
        .expect("a node");
    }
    assert_eq!(x.item::<f32>().expect("a value"), 200.0);
    assert_eq!(x.item::<f32>().expect("a value"), 200.0);
    assert_eq!(*log.lock().expect("a log"), (0..200).collect::<Vec<_>>());
}

#[test]
fn the_closure_is_dropped_after_the_evaluation() {
    let alive = Arc::new(AtomicUsize::new(0));
    let held = alive.clone();
    let x = floats(&[1.0]);
    let y = host_op_single("hold", &[&x], &[1], Dtype::Float32, move |_, out| {
        held.fetch_add(1, Ordering::SeqCst);
        out.as_f32_mut()?[0] = 0.0;
        Ok(())
    })
    .expect("a node");
    eval(&[&y]).expect("evaluated");
    mlxcel_mlx_bridge::synchronize().expect("idle");
    assert_eq!((alive.load(Ordering::SeqCst), Arc::strong_count(&alive)), (1, 1));
}

#[test]
fn an_array_dropped_after_async_eval_is_still_written_safely() {
    let x = floats(&vec![1.0; 1 << 16]);
    for _ in 0..50 {
        let y = doubled(&x);
        async_eval(&[&y]).expect("started");
    }
    assert_eq!(doubled(&x).as_slice::<f32>().expect("elements")[7], 2.0);
}

#[test]
fn a_watch_notices_what_failed_on_its_stream_since_it_began() {
    let watch = Arc::new(FailureWatch::default());
    let watched = |x: &Array| {
        let watch = watch.clone();
        host_op_single("watched", &[x], &[1], Dtype::Float32, move |_, out| {
            out.as_f32_mut()?[0] = 1.0;
            watch.check()
        })
    };
    let broken = || host_op_single("broken", &[], &[1], Dtype::Float32, |_, _| Err("no".to_owned()));
    // What failed before is nobody's concern.
    broken().and_then(|x| x.to_vec::<f32>()).expect_err("it fails");
    watched(&floats(&[0.0])).and_then(|x| x.to_vec::<f32>()).expect("nothing has failed since");
    broken().and_then(|x| x.to_vec::<f32>()).expect_err("it fails");
    let error = watched(&floats(&[0.0])).and_then(|x| x.to_vec::<f32>()).expect_err("it is noticed");
    assert!(error.message.contains("depends on has failed"), "{error}");
}

#[test]
fn a_wrong_dtype_in_the_kernel_is_an_error_not_a_panic() {
    let x = floats(&[1.0]);
    let y = host_op_single("mistyped", &[&x], &[1], Dtype::Float32, |inputs, _| inputs[0].as_u32().map(drop));
    let error = y.and_then(|y| y.to_vec::<f32>()).expect_err("a mistyped kernel");
    assert!(error.message.contains("float32"), "{error}");
}

#[test]
fn no_outputs_or_a_negative_size_are_refused() {
    assert_eq!(host_op("none", &[], &[], |_, _| Ok(())).expect_err("no outputs").kind, ErrorKind::Argument);
    let error =
        host_op("negative", &[], &[(&[-1], Dtype::Float32)], |_, _| Ok(())).expect_err("a negative size");
    assert_eq!(error.kind, ErrorKind::Argument);
}

#[test]
fn an_output_that_cannot_exist_is_out_of_memory() {
    let error =
        host_op_single("large", &[], &[1 << 24, 1 << 24], Dtype::Float32, |_, _| Ok(())).expect_err("a PiB");
    assert_eq!(error.kind, ErrorKind::OutOfMemory);
}
