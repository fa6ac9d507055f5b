//! The replacement of a service's workload by another one, which continues with the state.
//!
//! ```text
//!   snapshot of the old workload -> restore in an instance of the new one -> the next VM, with a full tank
//!        |                               |
//!        +-- it fails                    +-- refused: the old workload continues, and its state is unchanged
//! ```
//!
//! The order takes its place in the queue, so it is carried out between two transactions. The new workload need not
//! answer earlier transactions in the same way. Therefore nothing is replayed: the snapshot has all of them. From there
//! the new workload's state is tried like that of a new service.
//!
//! Only services whose history is in memory have this. The history of a durable service is for one workload.

use super::handle::gone;
use super::misses::DeadlineMisses;
use super::trial::Trial;
use super::{ReplayTerms, Service, Stopped, check_memory};
use crate::service::Status;
use crate::service::moves::Moved;
use lifeboat_api::event::Event;
use lifeboat_api::id::VmId;
use lifeboat_api::name::Name;
use lifeboat_api::size::Bytes;
use lifeboat_api::transaction::Denial;
use lifeboat_vm::engine::Program;
use lifeboat_vm::instance::{Instance, MoveError};
use lifeboat_vm::rehydrate::INSTANTIATE_OVERHEAD_FUEL;
use lifeboat_vm::workload::LoadError;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// A service with another workload.
#[derive(Debug)]
pub struct Replaced {
    /// Its status.
    pub status: Status,
    /// The last VM of the workload before.
    pub from: VmId,
    /// The state that the new workload has restored, in bytes.
    pub state_bytes: u64,
    /// The time for which the service was paused.
    pub pause: Duration,
}

/// The reason why a workload was not replaced. The service continues with the one that it had, unless it is stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The order was denied, or the service has no state.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// The service is durable.
    #[error("the workload of durable service '{service}' cannot be replaced; create another service")]
    Durable {
        /// The name of the service.
        service: Name,
    },
    /// One of the workloads is a program, and the other is not: they have no state in common.
    #[error(
        "service '{service}' runs {}, and the new workload is {}; create another service",
        kind(!*is_program),
        kind(*is_program)
    )]
    OtherKind {
        /// The name of the service.
        service: Name,
        /// Whether the new workload is a program.
        is_program: bool,
    },
    /// The size of the serving VM does not hold the new workload.
    #[error(transparent)]
    Size(#[from] LoadError),
    /// The new workload takes more memory for the state than the serving VM has.
    #[error(
        "the new workload of '{service}' takes {} of memory for the state, and size {size} has {}; begin with a larger size",
        Bytes(*used_bytes), Bytes(*limit_bytes)
    )]
    Memory {
        /// The name of the service.
        service: Name,
        /// The memory after the restore, in bytes.
        used_bytes: u64,
        /// The name of the VM's size.
        size: String,
        /// The memory of that size, in bytes.
        limit_bytes: u64,
    },
    /// The old workload cannot export its state.
    #[error("the state of '{service}' cannot be exported: {reason}")]
    Export {
        /// The name of the service.
        service: Name,
        /// The reason.
        reason: String,
    },
    /// The new workload cannot be instantiated.
    #[error("the new workload of '{service}' cannot be started: {}", error.detailed())]
    Instantiate {
        /// The name of the service.
        service: Name,
        /// The error of the instance.
        error: MoveError,
    },
    /// The new workload does not accept the state.
    #[error("the new workload of '{service}' does not accept the state: {}", error.detailed())]
    Restore {
        /// The name of the service.
        service: Name,
        /// The error of the instance.
        error: MoveError,
    },
}

fn kind(is_program: bool) -> &'static str {
    if is_program { "a program" } else { "a workload of the world" }
}

impl Service {
    /// Continues with `program`, which the engine of this host has compiled, in the next VM of the service.
    pub(super) async fn replace(&mut self, program: Arc<Program>) -> Result<Replaced, ReplaceError> {
        let service = self.name.clone();
        if self.snapshot_writer.is_some() {
            return Err(ReplaceError::Durable { service });
        }
        let is_program = program.workload().is_program();
        if is_program != self.terms.program.workload().is_program() {
            return Err(ReplaceError::OtherKind { service, is_program });
        }
        check_memory(&program, &self.vm.size, &self.policy.thresholds)?;
        let program = match is_program {
            true => program.with_command_line(self.terms.program.command_line().clone()),
            false => program,
        };
        self.revive().await?;
        let (start, from) = (Instant::now(), self.vm.id.clone());
        match self.take_snapshot().await {
            Ok(Moved::Fresh) => {}
            Ok(Moved::Not | Moved::Rehydrated(_)) => {
                return Err(ReplaceError::Export { service, reason: self.conditions.why_not_moved() });
            }
            Err(Stopped(reason)) => return Err(Denial::Stopped { service, reason }.into()),
        }
        self.go_on_with(program).await?;
        let (status, state_bytes, pause) = (self.status(), self.snapshots.last().state_bytes(), start.elapsed());
        let (to, workload) = (status.vm.clone(), self.terms.program.workload().hash);
        self.emit(Event::Replaced { from: from.clone(), to, workload, state_bytes, pause });
        Ok(Replaced { status, from, state_bytes, pause })
    }

    /// Restores the last snapshot in an instance of `program`, and continues there. What the guest prints on the way is
    /// logged, also if it refuses the state.
    async fn go_on_with(&mut self, program: Arc<Program>) -> Result<(), ReplaceError> {
        let service = self.name.clone();
        let snapshot = Arc::clone(self.snapshots.last());
        let permit = self.context.fleet.maintenance_store().await;
        let allowance = self.context.maintenance.allowance();
        let mut instance = Instance::create(&program, self.terms.secret, allowance, snapshot.disk().clone())
            .await
            .map_err(|error| ReplaceError::Instantiate { service: service.clone(), error })?;
        let restored = instance.restore(&snapshot, allowance).await;
        let lines = instance.take_log();
        self.log(lines);
        let fuel_used = restored.map_err(|error| ReplaceError::Restore { service: service.clone(), error })?;
        // The restore had the memory of a slot. What it took must fit in the VM that goes on.
        let (used, size) = (instance.levels(), Arc::clone(&self.vm.size));
        if used.memory_bytes > size.memory_bytes {
            let (used_bytes, limit_bytes, size) = (used.memory_bytes, size.memory_bytes, size.name.clone());
            return Err(ReplaceError::Memory { service, used_bytes, size, limit_bytes });
        }
        self.counters.maintained(fuel_used.saturating_add(INSTANTIATE_OVERHEAD_FUEL));
        let ReplayTerms { secret, ref accepted_divergences, maintenance, .. } = *self.terms;
        let accepted_divergences = accepted_divergences.clone();
        self.terms = Arc::new(ReplayTerms { program, secret, accepted_divergences, maintenance });
        self.adopt(instance, permit);
        self.vm.renew(Arc::clone(&self.vm.size));
        // What was found out about the old workload does not hold for the new one.
        self.trial = Trial::waiting(0);
        self.misses = DeadlineMisses::default();
        self.vain_cures = 0;
        self.has_reported_open = false;
        if self.policy.has_headroom(used, &size) {
            self.recover();
        }
        Ok(())
    }
}

impl super::ServiceHandle {
    /// Continues with another workload, once everything that was sent before is done.
    pub(crate) async fn replace(&self, program: Arc<Program>) -> Result<Replaced, ReplaceError> {
        let place = self.order_place().await;
        let (done, answered) = tokio::sync::oneshot::channel();
        self.order(super::Message::Replace { program, done, _place: place })?;
        answered.await.map_err(|_| gone(&self.name))?
    }
}
