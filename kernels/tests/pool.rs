//! The fork-join pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlxcel_kernels::Pool;

/// How often each of `tasks` ran.
fn counts(tasks: usize) -> Vec<AtomicUsize> {
    (0..tasks).map(|_| AtomicUsize::new(0)).collect()
}

fn all_once(counts: &[AtomicUsize]) -> bool {
    counts.iter().all(|count| count.load(Ordering::Relaxed) == 1)
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads);
        for tasks in [0, 1, 2, 7, 1000] {
            let ran = counts(tasks);
            pool.parallel_for(tasks, |task| {
                ran[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(all_once(&ran), "{tasks} tasks on {threads} threads");
        }
    }
}

#[test]
fn many_short_loops_in_a_row_all_finish() {
    let pool = Pool::new(4);
    let sum = AtomicUsize::new(0);
    for _ in 0..20_000 {
        pool.parallel_for(3, |task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
    }
    assert_eq!(sum.into_inner(), 60_000);
}

#[test]
fn workers_that_fell_asleep_do_not_lose_a_loop() {
    let pool = Pool::new(3);
    for _ in 0..50 {
        std::thread::sleep(Duration::from_micros(200));
        let ran = counts(16);
        pool.parallel_for(16, |task| {
            ran[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(all_once(&ran));
    }
}

#[test]
fn a_loop_inside_a_task_runs_there() {
    let pool = Pool::new(3);
    let ran = counts(64);
    pool.parallel_for(8, |outer| {
        pool.parallel_for(8, |inner| {
            ran[outer * 8 + inner].fetch_add(1, Ordering::Relaxed);
        });
    });
    assert!(all_once(&ran));
}

#[test]
fn loops_from_several_threads_all_finish() {
    let pool = Pool::new(3);
    let sum = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    pool.parallel_for(5, |_| {
                        sum.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 10_000);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let pool = Pool::new(3);
    for culprit in 0..20 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.parallel_for(20, |task| assert!(task != culprit, "task {task} fails"));
        }));
        let payload = result.expect_err("a panic");
        let message = payload.downcast_ref::<String>().expect("a message");
        assert!(message.contains(&format!("task {culprit} fails")), "{message}");
        let ran = counts(9);
        pool.parallel_for(9, |task| {
            ran[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(all_once(&ran));
    }
}
