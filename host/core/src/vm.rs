//! A VM: one incarnation of a service.

use crate::fleet::Lease;
use lifeboat_api::id::VmId;
use lifeboat_api::meter::Meter;
use lifeboat_api::size::Size;
use lifeboat_vm::instance::Instance;
use std::sync::Arc;

/// One incarnation of a service.
pub(crate) struct Vm {
    pub(crate) id: VmId,
    pub(crate) size: Arc<Size>,
    pub(crate) meter: Meter,
    // This is before the lease because fields are dropped in order: the store is gone before its slot is released.
    pub(crate) instance: Instance,
    /// The VM's slot on its machine.
    pub(crate) lease: Lease,
}
