//! A profile: where a guest burns its fuel, and what its transactions and queries need.
//!
//! ```text
//!   1. plain ------ the transactions, then each query once: what each of them burns and needs
//!   2. profiled --- the same, while the guest's stack is looked at: the functions that burn it
//! ```
//!
//! The first run decides how often the second one is interrupted. It also has the yields that an ordinary run is charged
//! for, so that the fuel of the profile is that of the first run to the unit.

use crate::input::Input;
use crate::lab::{Lab, Setting};
use crate::network::{Script, Scripted};
use lifeboat_api::call::CallRecord;
use lifeboat_api::meter::Levels;
use lifeboat_api::size::Size;
use lifeboat_api::transaction::{Answer, Cause, Outcome};
use lifeboat_profile::{Plan, Sampler, Tree, YIELDS};
use lifeboat_vm::instance::{Attempt, Instance, MoveError};
use lifeboat_vm::network::Network;
use lifeboat_vm::profile::Profiler;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The time that a transaction has while it is profiled. It takes longer then, and it has ended in time before.
const PROFILED_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// The label of the fuel of transactions and queries that did not end in time. They are not profiled.
const LATE: &str = "(beyond the deadline)";

/// What one transaction or query needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// How it ended.
    pub outcome: Outcome,
    /// The fuel that it burnt, with the charges of the host.
    pub fuel: u64,
    /// The calls to the network that it made.
    pub calls: u64,
    /// The bytes of the requests and responses of these calls.
    pub call_bytes: u64,
    /// Whether it was ended at its deadline.
    is_late: bool,
}

/// Where a workload burns its fuel.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Profile {
    /// The name of the workload's file.
    pub workload: String,
    /// The transactions, in order.
    pub transactions: Vec<Spent>,
    /// The queries, in order. Each was asked once, after the transactions.
    pub queries: Vec<Spent>,
    /// The most memory and disk that was in use after a transaction or query.
    pub peak: Levels,
    /// The functions that burnt the fuel, as they called one another.
    pub tree: Tree,
    /// Whether every function call and loop was looked at. Otherwise the fuel of functions is estimated.
    pub is_exact: bool,
    /// The number of times that the guest's stack was looked at.
    pub checkpoints: u64,
}

impl Profile {
    /// Returns the fuel of all transactions and queries.
    #[must_use]
    pub fn fuel(&self) -> u64 {
        self.transactions.iter().chain(&self.queries).map(|spent| spent.fuel).fold(0, u64::saturating_add)
    }
}

/// Makes a profile.
///
/// # Errors
/// The guest cannot be started, or not be brought back after a failed transaction.
pub(crate) async fn profile(
    lab: &Lab,
    input: &Input,
    progress: &dyn Fn(&'static str, usize, usize),
) -> Result<Profile, MoveError> {
    let mut plain = Run::start(lab, input, None).await?;
    plain.run(&[], &|done, of| progress("plain run", done, of)).await?;
    let Run { spent, peak, .. } = plain;
    let plan = Plan::for_fuel(spent.iter().map(|spent| spent.fuel).fold(0, u64::saturating_add));
    let patient = Lab::new(
        Arc::clone(&lab.engine),
        Arc::clone(&lab.program),
        Size { deadline: PROFILED_DEADLINE, ..lab.size.clone() },
    );
    let profiler = Box::new(Profiler::new(Sampler::new(plan)));
    let mut profiled = Run::start(&patient, input, Some(profiler)).await?;
    profiled.run(&spent, &|done, of| progress("profiled run", done, of)).await?;
    let sampler = profiled.profiler.map(|profiler| profiler.into_sampler()).unwrap_or_else(|| Sampler::new(plan));
    let checkpoints = sampler.checkpoints();
    let mut transactions = spent;
    let queries = transactions.split_off(input.transactions.len());
    Ok(Profile {
        workload: lab.program.workload().name.clone(),
        transactions,
        queries,
        peak,
        tree: sampler.finish(),
        is_exact: plan.is_exact(),
        checkpoints,
    })
}

/// A run of the transactions and queries.
struct Run<'a> {
    lab: &'a Lab,
    input: &'a Input,
    instance: Instance,
    /// The transactions that were kept, by their places, with their calls.
    kept: Vec<(usize, Arc<[CallRecord]>)>,
    profiler: Option<Box<Profiler>>,
    spent: Vec<Spent>,
    peak: Levels,
}

impl<'a> Run<'a> {
    async fn start(lab: &'a Lab, input: &'a Input, profiler: Option<Box<Profiler>>) -> Result<Self, MoveError> {
        let instance = lab.start().await?;
        Ok(Self { lab, input, instance, kept: Vec::new(), profiler, spent: Vec::new(), peak: Levels::default() })
    }

    /// Runs everything. `before` is what an earlier run has spent.
    async fn run(&mut self, before: &[Spent], progress: &dyn Fn(usize, usize)) -> Result<(), MoveError> {
        let (transactions, queries) = (self.input.transactions.len(), self.input.queries.len());
        for index in 0..transactions + queries {
            progress(index, transactions + queries);
            let before = before.get(index);
            if let (Some(Spent { is_late: true, fuel, .. }), Some(profiler)) = (before, &mut self.profiler) {
                profiler.sampler().add_beside(LATE, *fuel);
                continue;
            }
            if let Some(profiler) = self.profiler.take() {
                self.instance.start_profile(profiler);
            }
            let (attempt, call_bytes) = match index.checked_sub(transactions) {
                None => self.execute(index + 1).await,
                Some(query) => (self.query(query).await, 0),
            };
            self.profiler = self.instance.end_profile();
            if let (Some(before), Some(profiler)) = (before, &mut self.profiler) {
                profiler.sampler().add_beside(YIELDS, before.fuel.saturating_sub(attempt.fuel_used));
            }
            self.instance.take_log();
            self.note(&attempt, call_bytes);
            let is_kept = attempt.answer.is_kept();
            if is_kept && index < transactions {
                self.kept.push((index + 1, attempt.calls.into()));
            } else if self.instance.is_dead() {
                self.bring_back().await?;
            }
        }
        Ok(())
    }

    /// Executes the transaction of a place. Returns the bytes of its calls as well.
    async fn execute(&mut self, place: usize) -> (Attempt, u64) {
        let call = Setting::default().call(place, &self.input.transactions[place - 1]);
        let allowance = self.lab.allowance();
        if !self.lab.has_network {
            return (self.instance.execute(call, allowance, Network::None).await, 0);
        }
        let (network, scripted) = Scripted::new(Script::Answer, Arc::default());
        let bytes = scripted.bytes();
        let attempt = scripted.serve(self.instance.execute(call, allowance, network)).await;
        (attempt, bytes.load(Ordering::Relaxed))
    }

    async fn query(&mut self, index: usize) -> Attempt {
        let (user, body) = &self.input.queries[index];
        let place = self.input.transactions.len();
        self.lab.query(&mut self.instance, Setting::default(), place, (user, body)).await
    }

    fn note(&mut self, attempt: &Attempt, call_bytes: u64) {
        let Levels { memory_bytes, disk_bytes } = self.instance.levels();
        self.peak = Levels {
            memory_bytes: self.peak.memory_bytes.max(memory_bytes),
            disk_bytes: self.peak.disk_bytes.max(disk_bytes),
        };
        self.spent.push(Spent {
            outcome: attempt.answer.outcome(),
            fuel: attempt.fuel_used,
            calls: attempt.calls.len() as u64,
            call_bytes,
            is_late: matches!(attempt.answer, Answer::Failed(Cause::Deadline { .. })),
        });
    }

    /// Brings the guest back to its state after the last transaction that was kept, as the host does.
    async fn bring_back(&mut self) -> Result<(), MoveError> {
        self.instance = self.lab.start().await?;
        for (place, calls) in &self.kept {
            let call = Setting::default().call(*place, &self.input.transactions[place - 1]);
            self.lab.repeat(&mut self.instance, call, calls).await;
        }
        self.instance.take_log();
        Ok(())
    }
}
