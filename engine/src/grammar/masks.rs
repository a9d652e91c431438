//! Threads that work out which tokens may come next, while the device computes the step that will ask.
//!
//! Each job moves one matcher on by a token; when it is done its owner is told. Knows no order among jobs but
//! that of their arrival.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A piece of work for these threads.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// Has a job done on another thread; on this one where there is none.
pub(super) fn spawn(job: Job) {
    static JOBS: OnceLock<Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(start);
    if let Err(refused) = jobs.send(job) {
        (refused.0)();
    }
}

fn start() -> Sender<Job> {
    let (jobs, inbox) = channel();
    let inbox = Arc::new(Mutex::new(inbox));
    // A mask takes some 50 us: a few threads serve hundreds of sequences.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for index in 0..(cores / 4).clamp(1, 4) {
        let inbox = Arc::clone(&inbox);
        // Threads the system refuses to start are done without.
        drop(std::thread::Builder::new().name(format!("grammar-{index}")).spawn(move || work(&inbox)));
    }
    jobs
}

fn work(inbox: &Mutex<Receiver<Job>>) {
    loop {
        let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
