//! Machines and their slots: where VMs may run.
//!
//! A fleet is a fixed set of machines. Each machine is a budget of slots and of bytes of linear memory. A VM holds a
//! [`Lease`] on one machine for its life. A failover first requests a slot on another machine. If no other machine has
//! room, it uses its own machine, and releases its old lease in the same step. So a replacement of the same size always
//! finds room.
//!
//! Stores beyond those of the VMs come from the maintenance pool, which has its own count. One of them is the fresh
//! store of a failover, which exists before the old one is gone.

use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, BytesBeside, Size};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The default number of stores beyond those of the VMs. A service waits for one when it moves.
pub const MAINTENANCE_STORES: u32 = 8;

/// The slots and memory that a machine offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The name that operators give the machine.
    pub name: Name,
    /// The number of VMs that the machine holds at once.
    pub slots: u32,
    /// The most linear memory that the sizes of the machine's VMs may add up to, in bytes.
    #[serde(rename = "memory", with = "lifeboat_api::size::byte_size")]
    pub memory_bytes: u64,
}

impl Machine {
    /// Returns the machines of `lifeboat run`: two, so that a failover has another machine to move to.
    #[must_use]
    pub fn pair(slots: u32, memory_bytes: u64) -> Vec<Self> {
        ["m1", "m2"].map(|name| Self { name: Name::new(name).expect("a literal name"), slots, memory_bytes }).to_vec()
    }
}

/// No machine has room for a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no machine has a free slot with {} of memory: {machines}", Bytes(*memory_bytes))]
pub struct NoRoom {
    memory_bytes: u64,
    machines: String,
}

/// The machines, and how much of each is taken.
#[derive(Debug)]
pub struct Fleet {
    occupied: Mutex<Vec<Occupied>>,
    maintenance: Arc<Semaphore>,
    slots: u32,
}

#[derive(Debug)]
struct Occupied {
    machine: Machine,
    slots: u32,
    memory_bytes: u64,
}

impl Occupied {
    fn fits(&self, memory_bytes: u64) -> bool {
        self.slots < self.machine.slots && self.memory_bytes.saturating_add(memory_bytes) <= self.machine.memory_bytes
    }

    fn take(&mut self, memory_bytes: u64) {
        self.slots += 1;
        self.memory_bytes += memory_bytes;
    }

    fn give_back(&mut self, memory_bytes: u64) {
        self.slots -= 1;
        self.memory_bytes -= memory_bytes;
    }
}

impl Fleet {
    /// Returns a fleet of empty `machines`.
    #[must_use]
    pub fn new(machines: Vec<Machine>, maintenance_stores: u32) -> Arc<Self> {
        let slots = machines.iter().map(|machine| machine.slots).fold(0, u32::saturating_add);
        let occupied = machines.into_iter().map(|machine| Occupied { machine, slots: 0, memory_bytes: 0 }).collect();
        let maintenance = Arc::new(Semaphore::new(maintenance_stores.max(1) as usize));
        Arc::new(Self { occupied: Mutex::new(occupied), maintenance, slots })
    }

    /// Returns how many VMs the machines hold together.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Takes a slot for a VM of `size`, on the machine with the fewest VMs among those with room.
    ///
    /// # Errors
    /// [`NoRoom`] names every machine and its free slots and memory.
    pub fn place(self: &Arc<Self>, size: &Size) -> Result<Lease, NoRoom> {
        let mut occupied = self.lock();
        let index = roomiest(&occupied, size.memory_bytes, None).ok_or_else(|| no_room(&occupied, size))?;
        occupied[index].take(size.memory_bytes);
        Ok(self.lease(&occupied, index, size))
    }

    /// Replaces `lease` with a slot for a VM of `size`: on another machine if one has room, else on the same machine.
    ///
    /// # Errors
    /// [`NoRoom`] if no machine has room, which is impossible if `size` takes no more memory than `lease`. Then `lease`
    /// is left unchanged.
    pub fn replace(self: &Arc<Self>, lease: &mut Lease, size: &Size) -> Result<(), NoRoom> {
        let mut occupied = self.lock();
        let own = lease.index;
        occupied[own].give_back(lease.memory_bytes);
        let elsewhere = roomiest(&occupied, size.memory_bytes, Some(own));
        let index = elsewhere.or_else(|| occupied[own].fits(size.memory_bytes).then_some(own));
        let Some(index) = index else {
            let error = no_room(&occupied, size);
            occupied[own].take(lease.memory_bytes);
            return Err(error);
        };
        occupied[index].take(size.memory_bytes);
        let fresh = self.lease(&occupied, index, size);
        let old = std::mem::replace(lease, fresh);
        // Its slot was released above, under the same lock.
        old.forget();
        Ok(())
    }

    /// Returns whether [`replace`](Self::replace) would find a place now.
    pub(crate) fn has_room(&self, lease: &Lease, size: &Size) -> bool {
        let mut occupied = self.lock();
        let own = lease.index;
        occupied[own].give_back(lease.memory_bytes);
        let fits = roomiest(&occupied, size.memory_bytes, None).is_some();
        occupied[own].take(lease.memory_bytes);
        fits
    }

    /// Waits for a store of the maintenance pool. Dropping the permit releases the store.
    pub(crate) async fn maintenance_store(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.maintenance).acquire_owned().await.expect("the semaphore is never closed")
    }

    fn lease(self: &Arc<Self>, occupied: &[Occupied], index: usize, size: &Size) -> Lease {
        let machine = occupied[index].machine.name.clone();
        Lease { fleet: Some(Arc::clone(self)), index, machine, memory_bytes: size.memory_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Occupied>> {
        self.occupied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn roomiest(occupied: &[Occupied], memory_bytes: u64, except: Option<usize>) -> Option<usize> {
    occupied
        .iter()
        .enumerate()
        .filter(|(index, machine)| Some(*index) != except && machine.fits(memory_bytes))
        .min_by_key(|(_, machine)| machine.slots)
        .map(|(index, _)| index)
}

fn no_room(occupied: &[Occupied], size: &Size) -> NoRoom {
    let machines: Vec<String> = occupied
        .iter()
        .map(|Occupied { machine, slots, memory_bytes }| {
            format!(
                "{} has {} of {} slots and {} of {} free",
                machine.name,
                machine.slots - slots,
                machine.slots,
                BytesBeside { bytes: machine.memory_bytes - memory_bytes, bound: machine.memory_bytes },
                Bytes(machine.memory_bytes)
            )
        })
        .collect();
    NoRoom { memory_bytes: size.memory_bytes, machines: machines.join(", ") }
}

/// A slot on a machine, released when this is dropped.
#[derive(Debug)]
pub struct Lease {
    /// None once [`Fleet::replace`] has released the slot.
    fleet: Option<Arc<Fleet>>,
    index: usize,
    machine: Name,
    memory_bytes: u64,
}

impl Lease {
    /// Returns the machine's name.
    #[must_use]
    pub fn machine(&self) -> &Name {
        &self.machine
    }

    fn forget(mut self) {
        self.fleet = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(fleet) = self.fleet.take() {
            fleet.lock()[self.index].give_back(self.memory_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn size(memory_bytes: u64) -> Size {
        Size { name: "s".into(), fuel: 1, memory_bytes, deadline: Duration::from_secs(1) }
    }

    #[test]
    fn a_replacement_goes_to_another_machine_if_one_has_room() -> Result<(), NoRoom> {
        let fleet = Fleet::new(Machine::pair(1, 100), 1);
        let mut lease = fleet.place(&size(60))?;
        assert_eq!(&**lease.machine(), "m1");
        fleet.replace(&mut lease, &size(60))?;
        assert_eq!(&**lease.machine(), "m2");
        Ok(())
    }

    #[test]
    fn a_replacement_needs_no_second_slot() -> Result<(), NoRoom> {
        let fleet = Fleet::new(Machine::pair(1, 100), 1);
        let mut first = fleet.place(&size(100))?;
        let _second = fleet.place(&size(100))?;
        fleet.replace(&mut first, &size(100))?;
        assert_eq!(&**first.machine(), "m1");
        assert!(fleet.replace(&mut first, &size(101)).is_err());
        assert!(fleet.place(&size(1)).is_err());
        Ok(())
    }

    proptest! {
        #[test]
        fn no_sequence_of_leases_exceeds_a_budget_or_leaks_it(steps in prop::collection::vec((0u8..3, 0usize..8, 1u64..60), 1..80)) {
            let fleet = Fleet::new(Machine::pair(3, 100), 1);
            let mut leases: Vec<Lease> = Vec::new();
            for (step, which, memory_bytes) in steps {
                match step {
                    0 => leases.extend(fleet.place(&size(memory_bytes)).ok()),
                    1 if !leases.is_empty() => {
                        let index = which % leases.len();
                        let before = leases[index].memory_bytes;
                        let replaced = fleet.replace(&mut leases[index], &size(memory_bytes)).is_ok();
                        prop_assert!(replaced || memory_bytes > before);
                    }
                    _ if !leases.is_empty() => drop(leases.swap_remove(which % leases.len())),
                    _ => {}
                }
                for (index, machine) in fleet.lock().iter().enumerate() {
                    let on_it = leases.iter().filter(|lease| lease.index == index);
                    prop_assert_eq!(machine.memory_bytes, on_it.clone().map(|lease| lease.memory_bytes).sum::<u64>());
                    prop_assert_eq!(machine.slots as usize, on_it.count());
                    prop_assert!(machine.memory_bytes <= 100 && machine.slots <= 3);
                }
            }
            drop(leases);
            prop_assert!(fleet.lock().iter().all(|machine| machine.slots == 0 && machine.memory_bytes == 0));
        }
    }
}
