//! A VM: one incarnation of a service.

use crate::fleet::Lease;
use crate::journal::NetworkRecord;
use lifeboat_api::id::VmId;
use lifeboat_api::meter::{Meter, NetworkAmount};
use lifeboat_api::size::Size;
use lifeboat_vm::instance::Instance;
use std::sync::Arc;

/// One incarnation of a service.
pub(crate) struct Vm {
    pub(crate) id: VmId,
    pub(crate) size: Arc<Size>,
    pub(crate) meter: Meter,
    /// Fuel charged to the meter for queries that no transaction's record states yet.
    unwritten_fuel: u64,
    // This is before the lease because fields are dropped in order: the store is gone before its slot is released.
    pub(crate) instance: Instance,
    /// The VM's slot on its machine.
    pub(crate) lease: Lease,
}

/// What is left of the consumables of a VM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    pub(crate) fuel: u64,
    pub(crate) network: NetworkAmount,
}

impl Rest {
    /// Returns a full tank and a full allowance of network.
    pub(crate) fn full(size: &Size) -> Self {
        Self { fuel: size.fuel, network: size.network() }
    }
}

impl Vm {
    /// A VM with a full tank and a full allowance of network.
    pub(crate) fn new(id: VmId, size: Arc<Size>, lease: Lease, instance: Instance) -> Self {
        let meter = Meter::new(size.fuel, size.network(), size.levels(), instance.levels());
        Self { id, size, meter, unwritten_fuel: 0, instance, lease }
    }

    /// Becomes the next VM of its service, of `size`, with a full tank and allowance, around the same store.
    pub(crate) fn renew(&mut self, size: Arc<Size>) {
        self.id.number += 1;
        self.meter = Meter::new(size.fuel, size.network(), size.levels(), self.instance.levels());
        self.size = size;
        self.unwritten_fuel = 0;
    }

    /// Goes on in another store, with the same tank and allowance. Returns the store before.
    #[must_use]
    pub(crate) fn replace_instance(&mut self, instance: Instance) -> Instance {
        let old = std::mem::replace(&mut self.instance, instance);
        self.observe();
        old
    }

    /// Notes how much of each level the store takes.
    pub(crate) fn observe(&mut self) {
        self.meter.observe(self.instance.levels());
    }

    /// Takes what kept work burnt out of the tank.
    pub(crate) fn charge(&mut self, fuel_used: u64) {
        self.meter.charge(fuel_used, self.instance.levels());
    }

    /// Takes what a transaction did on the network out of the allowance, whether it is kept or not.
    pub(crate) fn charge_network(&mut self, network: &NetworkRecord) {
        self.meter.charge_network(network.charged.calls, network.charged.bytes);
    }

    /// Returns what is left of the tank and of the allowance of network.
    pub(crate) fn rest(&self) -> Rest {
        Rest { fuel: self.meter.cpu.remaining(), network: self.meter.network.remaining() }
    }

    /// The same for a query, whose fuel is written with the next transaction.
    pub(crate) fn charge_query(&mut self, fuel_used: u64) {
        self.charge(fuel_used);
        self.unwritten_fuel += fuel_used;
    }

    /// What queries burnt since the last transaction: it is written now.
    pub(crate) fn take_unwritten_fuel(&mut self) -> u64 {
        std::mem::take(&mut self.unwritten_fuel)
    }

    /// What is written of the fuel that was charged.
    pub(crate) fn written_fuel(&self) -> u64 {
        self.meter.cpu.used.saturating_sub(self.unwritten_fuel)
    }
}
