//! A fork-join pool for loops of a few microseconds.
//!
//! Workers claim one task at a time from a shared counter, spin briefly when there is none and then sleep;
//! the caller works too, and waits only for tasks somebody has begun. Knows nothing of what a task computes;
//! kernels decide how much work is worth a task.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Threads that run loops together with their caller.
///
/// One loop runs at a time. A loop begun while another runs (from a second thread, or from inside a task) is
/// run by its caller alone, so nothing waits for anything but its own tasks.
pub struct Pool {
    shared: Arc<Shared>,
    threads: usize,
}

impl Pool {
    /// A pool of `threads` threads, the caller of each loop counted as one.
    ///
    /// A thread the system refuses to start is done without.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut started = 1;
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let worker = thread::Builder::new().name(format!("kernels-{index}"));
            started += usize::from(worker.spawn(move || shared.work()).is_ok());
        }
        Self { shared, threads: started }
    }

    /// Threads that take part in a loop, its caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, in any order and on any thread, and returns when all have.
    ///
    /// # Panics
    /// With the payload of the first task that panicked; tasks not begun by then are left out.
    pub fn parallel_for<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        let alone = tasks <= 1 || self.threads == 1;
        if alone || self.shared.busy.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(task);
            return;
        }
        self.shared.run(tasks, &task);
        let payload = lock(&self.shared.panic).take();
        self.shared.busy.store(false, Ordering::Release);
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let _guard = lock(&self.shared.gate);
        self.shared.work_ready.notify_all();
    }
}

/// The process-wide pool, started by its first use.
pub fn pool() -> &'static Pool {
    POOL.get_or_init(|| {
        let limit = THREAD_LIMIT.load(Ordering::Relaxed);
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Pool::new(cores.min(limit.max(1)))
    })
}

/// Limits [`pool`] to `threads` threads; `false` when it has already started and keeps its size.
///
/// Without a limit it has as many threads as the process may use cores.
pub fn limit_threads(threads: usize) -> bool {
    THREAD_LIMIT.store(threads, Ordering::Relaxed);
    POOL.get().is_none()
}

static POOL: OnceLock<Pool> = OnceLock::new();
static THREAD_LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// How long an idle worker, or a caller at the end of its loop, spins before it sleeps. A sleeping thread
/// takes about 50 us to wake, and the gaps between the loops of a decode step are shorter than that.
const SPIN: Duration = Duration::from_micros(40);

/// A loop body with its type erased.
#[derive(Clone, Copy)]
struct Body {
    call: unsafe fn(*const (), usize),
    data: *const (),
    tasks: usize,
}

struct Shared {
    /// Tasks of the current loop nobody has claimed; above 0 only while `body` is valid.
    unclaimed: AtomicUsize,
    /// Tasks of the current loop not finished.
    unfinished: AtomicUsize,
    body: UnsafeCell<Body>,
    /// A loop is running.
    busy: AtomicBool,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closed: AtomicBool,
    /// Held to sleep and to wake sleepers.
    gate: Mutex<()>,
    sleepers: AtomicUsize,
    work_ready: Condvar,
    caller_asleep: AtomicBool,
    work_done: Condvar,
}

// SAFETY: `body` is written only by the thread that set `busy`, while `unclaimed` is 0 and no task is
// unfinished, and read only after claiming a task of it; the counters order the two. The closure behind
// `data` is `Sync`, and outlives the loop because `run` returns only when no task is unfinished.
unsafe impl Sync for Shared {}
// SAFETY: as above; `data` is never dereferenced outside a loop.
unsafe impl Send for Shared {}

impl Default for Shared {
    fn default() -> Self {
        let body = Body { call: |_, _| (), data: std::ptr::null(), tasks: 0 };
        Self {
            unclaimed: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            body: UnsafeCell::new(body),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            closed: AtomicBool::new(false),
            gate: Mutex::new(()),
            sleepers: AtomicUsize::new(0),
            work_ready: Condvar::new(),
            caller_asleep: AtomicBool::new(false),
            work_done: Condvar::new(),
        }
    }
}

impl Shared {
    /// Publishes a loop, works on it, and waits for the tasks others have claimed.
    fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: &F) {
        // SAFETY: `busy` is ours, and the last loop has no unclaimed or unfinished task: nobody reads `body`.
        unsafe {
            *self.body.get() = Body { call: call::<F>, data: std::ptr::from_ref(task).cast(), tasks };
        }
        self.panicked.store(false, Ordering::Relaxed);
        self.unfinished.store(tasks, Ordering::Relaxed);
        // SeqCst here and in `sleep`: either we see the sleeper or it sees the work.
        self.unclaimed.store(tasks, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.gate);
            self.work_ready.notify_all();
        }
        while self.claim_and_call() {}
        self.wait_for_others();
    }

    fn wait_for_others(&self) {
        if spin_until(|| self.unfinished.load(Ordering::Acquire) == 0) {
            return;
        }
        let mut guard = lock(&self.gate);
        self.caller_asleep.store(true, Ordering::SeqCst);
        while self.unfinished.load(Ordering::SeqCst) != 0 {
            guard = self.work_done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_asleep.store(false, Ordering::SeqCst);
    }

    /// Runs one task of the current loop; `false` when none is left to claim.
    fn claim_and_call(&self) -> bool {
        let claim = |left: usize| left.checked_sub(1);
        let Ok(left) = self.unclaimed.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim) else {
            return false;
        };
        // SAFETY: we hold a claimed, unfinished task, so `body` is the current loop's and stays.
        let body = unsafe { *self.body.get() };
        if !self.panicked.load(Ordering::Relaxed) {
            // SAFETY: `call` and `data` belong together (`run`), and the closure lives as above.
            let result =
                catch_unwind(AssertUnwindSafe(|| unsafe { (body.call)(body.data, body.tasks - left) }));
            if let Err(payload) = result {
                self.panicked.store(true, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(payload);
            }
        }
        let was_last = self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1;
        if was_last && self.caller_asleep.load(Ordering::SeqCst) {
            let _guard = lock(&self.gate);
            self.work_done.notify_all();
        }
        true
    }

    /// A worker's life.
    fn work(&self) {
        while !self.closed.load(Ordering::SeqCst) {
            while self.claim_and_call() {}
            if !spin_until(|| self.unclaimed.load(Ordering::Relaxed) != 0) {
                self.sleep();
            }
        }
    }

    fn sleep(&self) {
        let mut guard = lock(&self.gate);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.unclaimed.load(Ordering::SeqCst) == 0 && !self.closed.load(Ordering::SeqCst) {
            guard = self.work_ready.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// # Safety
/// `data` must point to a live `F`.
unsafe fn call<F: Fn(usize)>(data: *const (), index: usize) {
    // SAFETY: promised by the caller.
    unsafe { (*data.cast::<F>())(index) }
}

/// Whether `ready` came true within [`SPIN`].
fn spin_until(ready: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        for _ in 0..16 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begun.elapsed() > SPIN {
            return false;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
