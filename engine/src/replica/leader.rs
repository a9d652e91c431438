//! The rank that leads: tells the others each step's plan, and computes its own part.

use mlxcel_mlx_bridge::{Array, Error, Result};
use mlxcel_transport::PeerId;

use super::member::Member;
use super::plans::PlanSender;
use crate::decoder::{Drawn, Execution, SampledTokens, StepOutput};
use crate::sampling::Draw;
use crate::schedule::StepPlan;
use crate::serving::StepExecutor;

/// The leader's steps.
pub(crate) struct Leader {
    member: Member,
    plans: PlanSender,
    stages: usize,
}

impl Leader {
    /// Leads the replica that `member` is in.
    pub(crate) fn new(member: Member) -> Self {
        let attendance = member.attendance();
        let others: Vec<PeerId> = attendance.others().map(|(_, peer)| peer).collect();
        let plans = PlanSender::new(attendance.options.transport.clone(), others);
        let stages = attendance.options.micro_batches();
        Self { member, plans, stages }
    }
}

impl StepExecutor for Leader {
    fn forward(&mut self, plan: StepPlan, _: Option<&SampledTokens>) -> Result<StepOutput> {
        if let Some(lost) = self.failure() {
            return Err(Error::argument("step", lost));
        }
        self.plans.send(&plan).map_err(|error| Error::argument("step", error))?;
        self.member.forward(plan)
    }

    fn draw(&self, logits: &Array, draws: &[Draw]) -> Result<Option<Drawn>> {
        self.member.rank.draw(logits, draws)
    }

    fn execution(&self) -> Execution {
        self.member.rank.execution()
    }

    fn kv_block_bytes(&self) -> u64 {
        self.member.rank.kv_block_bytes()
    }

    fn stages(&self) -> usize {
        self.stages
    }

    /// Only the leader chooses tokens, and tells them with the next plan.
    fn chains(&self) -> bool {
        false
    }

    fn failure(&self) -> Option<String> {
        self.member.attendance.lost()
    }
}
