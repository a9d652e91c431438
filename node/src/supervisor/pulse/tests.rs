use super::*;

/// A worker in virtual time that is looked at as often as it wants to be.
struct Worker {
    pulse: Pulse,
    now: Instant,
    beat: EngineBeat,
}

impl Worker {
    fn ready() -> Self {
        let now = Instant::now();
        let mut pulse = Pulse::new(Bounds::default());
        pulse.begins(now);
        Self { pulse, now, beat: EngineBeat { model: "m".into(), ..EngineBeat::default() } }
    }

    /// Computes steps of so many tokens that take so long each.
    fn computes(&mut self, steps: u32, tokens: u32, each: Duration) -> Finding {
        let mut worst = Finding::Well;
        self.beat.step_tokens = tokens;
        for _ in 0..steps {
            worst = worst.worse(self.stays(each));
            self.beat.steps += 1;
            self.beat.tokens += u64::from(tokens);
        }
        worst
    }

    /// Beats for so long, with nothing new to say.
    fn stays(&mut self, time: Duration) -> Finding {
        let until = self.now + time;
        let mut worst = Finding::Well;
        while self.now < until {
            self.now = (self.now + LOOK).min(until);
            let beat = WorkerBeat { engines: vec![self.beat.clone()], command_micros: 0 };
            self.pulse.beats(&beat, self.now);
            worst = worst.worse(self.pulse.judge(self.now));
        }
        worst
    }

    /// Says nothing for so long.
    fn falls_silent(&mut self, time: Duration) -> Finding {
        let until = self.now + time;
        let mut worst = Finding::Well;
        while self.now < until {
            self.now = (self.now + LOOK).min(until);
            worst = worst.worse(self.pulse.judge(self.now));
        }
        worst
    }
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn stalled(finding: &Finding) -> bool {
    matches!(finding, Finding::Stalled(_))
}

#[test]
fn an_idle_worker_is_well_while_it_beats() {
    let mut worker = Worker::ready();
    assert_eq!(worker.stays(secs(3600.0)), Finding::Well);
}

#[test]
fn a_silent_worker_is_stalled_until_it_beats_again_and_hangs_in_the_end() {
    let mut worker = Worker::ready();
    worker.stays(secs(1.0));
    assert_eq!(worker.falls_silent(secs(0.6)), Finding::Well);
    assert_eq!(worker.falls_silent(secs(0.2)), Finding::Stalled("no sign of life for 0.8 s".into()));
    assert_eq!(worker.stays(secs(0.2)), Finding::Well);
    assert!(stalled(&worker.falls_silent(secs(29.0))));
    assert!(matches!(worker.falls_silent(secs(2.0)), Finding::Hung(_)));
}

#[test]
fn a_step_that_does_not_end_stalls_and_then_hangs() {
    let mut worker = Worker::ready();
    assert_eq!(worker.computes(100, 1, secs(0.02)), Finding::Well);
    assert_eq!(worker.stays(secs(1.5)), Finding::Well);
    assert!(stalled(&worker.stays(secs(50.0))));
    assert!(matches!(worker.stays(secs(15.0)), Finding::Hung(_)));
}

/// Decoding measures what a token costs at most, so that a chunk of a prompt may take its time.
#[test]
fn a_slow_chunk_of_a_prompt_is_no_hang() {
    let mut worker = Worker::ready();
    // A large model on a slow CPU: 0.8 s a token, and 170 s for a chunk of 512.
    assert_eq!(worker.computes(20, 1, secs(0.8)), Finding::Well);
    assert_eq!(worker.computes(8, 512, secs(170.0)), Finding::Well);
}

#[test]
fn the_first_step_of_a_model_may_take_minutes() {
    let mut worker = Worker::ready();
    assert!(stalled(&worker.computes(1, 512, secs(500.0))));
    assert_eq!(worker.computes(10, 512, secs(1.0)), Finding::Well);
}

#[test]
fn what_steps_took_is_known_of_the_next_process_too() {
    let mut worker = Worker::ready();
    worker.computes(100, 1, secs(0.02));
    worker.pulse.ends();
    assert_eq!(worker.falls_silent(secs(100.0)), Finding::Well);
    worker.pulse.begins(worker.now);
    assert!(stalled(&worker.stays(secs(10.0))));
    assert!(matches!(worker.stays(secs(52.0)), Finding::Hung(_)));
}

#[test]
fn a_node_that_was_stopped_itself_blames_nobody() {
    let mut worker = Worker::ready();
    worker.computes(100, 1, secs(0.02));
    worker.now += secs(300.0);
    assert_eq!(worker.pulse.judge(worker.now), Finding::Well);
    assert_eq!(worker.stays(secs(1.0)), Finding::Well);
}

#[test]
fn a_command_may_take_its_time_but_not_for_ever() {
    let mut worker = Worker::ready();
    let mut taken = Duration::ZERO;
    let mut at = |seconds: f64| {
        let mut worst = Finding::Well;
        while taken < secs(seconds) {
            taken += LOOK;
            worker.now += LOOK;
            let command_micros = u64::try_from(taken.as_micros()).expect("short");
            worker.pulse.beats(&WorkerBeat { engines: Vec::new(), command_micros }, worker.now);
            worst = worst.worse(worker.pulse.judge(worker.now));
        }
        worst
    };
    assert_eq!(at(1.8), Finding::Well);
    assert!(stalled(&at(119.0)));
    assert!(matches!(at(121.0), Finding::Hung(_)));
}
