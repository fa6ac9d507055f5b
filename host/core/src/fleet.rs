//! Machines and their slots: where VMs may run.
//!
//! A fleet is a fixed set of machines. Each machine is a budget of slots, and of bytes of memory and disk. A VM holds a
//! [`Lease`] on one machine for its life. A failover first requests a slot on another machine. If no other machine has
//! room, it uses its own machine, and releases its old lease in the same step. So a replacement of the same size always
//! finds room.
//!
//! Stores beyond those of the VMs come from the maintenance pool, which has its own count. One of them is the fresh
//! store of a failover, which exists before the old one is gone.

use lifeboat_api::meter::Levels;
use lifeboat_api::name::Name;
use lifeboat_api::size::{Bytes, BytesBeside, Size};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The default number of stores beyond those of the VMs. A service waits for one when it moves.
pub const MAINTENANCE_STORES: u32 = 8;

/// The slots, memory and disk that a machine offers.
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
    /// The most that the disks of the sizes of the machine's VMs may add up to, in bytes.
    #[serde(rename = "disk", with = "lifeboat_api::size::byte_size")]
    pub disk_bytes: u64,
}

impl Machine {
    /// Returns two machines, so that a failover has another machine to move to, with the disk of
    /// [`disk_bytes_for`](Self::disk_bytes_for).
    #[must_use]
    pub fn pair(slots: u32, memory_bytes: u64) -> Vec<Self> {
        let disk_bytes = Self::disk_bytes_for(slots, memory_bytes);
        let machine = |name| Self { name: Name::new(name).expect("a literal name"), slots, memory_bytes, disk_bytes };
        ["m1", "m2"].map(machine).to_vec()
    }

    /// Returns the disk of a machine whose definition does not give one: enough for every set of VMs that its slots and
    /// its memory take, if [`Size::disk_bytes_for`] gives the disks of their sizes. So the disks of these VMs are limited
    /// by their sizes alone.
    #[must_use]
    pub fn disk_bytes_for(slots: u32, memory_bytes: u64) -> u64 {
        // A size has the smallest disk, or at most 16 times its memory: those just above a built-in size.
        let of_slots = Size::disk_bytes_for(0).saturating_mul(slots.into());
        of_slots.saturating_add(memory_bytes.saturating_mul(16))
    }

    /// Returns the most that the sizes of the machine's VMs may add up to.
    #[must_use]
    pub fn levels(&self) -> Levels {
        Levels { memory_bytes: self.memory_bytes, disk_bytes: self.disk_bytes }
    }
}

/// No machine has room for a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no machine has a free slot with {} of memory and {} of disk: {machines}",
    Bytes(levels.memory_bytes),
    Bytes(levels.disk_bytes)
)]
pub struct NoRoom {
    levels: Levels,
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
    levels: Levels,
}

impl Occupied {
    fn fits(&self, levels: Levels) -> bool {
        self.slots < self.machine.slots && self.levels.plus(levels).fit(self.machine.levels())
    }

    fn take(&mut self, levels: Levels) {
        self.slots += 1;
        self.levels = self.levels.plus(levels);
    }

    fn release(&mut self, levels: Levels) {
        self.slots -= 1;
        self.levels = self.levels.minus(levels);
    }
}

impl Fleet {
    /// Returns a fleet of empty `machines`.
    #[must_use]
    pub fn new(machines: Vec<Machine>, maintenance_stores: u32) -> Arc<Self> {
        let slots = machines.iter().map(|machine| machine.slots).fold(0, u32::saturating_add);
        let empty = |machine| Occupied { machine, slots: 0, levels: Levels::default() };
        let occupied = machines.into_iter().map(empty).collect();
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
    /// [`NoRoom`] names every machine and its free slots, memory and disk.
    pub fn place(self: &Arc<Self>, size: &Size) -> Result<Lease, NoRoom> {
        let mut occupied = self.lock();
        let index = roomiest(&occupied, size.levels(), None).ok_or_else(|| no_room(&occupied, size))?;
        occupied[index].take(size.levels());
        Ok(self.lease(&occupied, index, size))
    }

    /// Replaces `lease` with a slot for a VM of `size`: on another machine if one has room, else on the same machine.
    ///
    /// # Errors
    /// [`NoRoom`] if no machine has room, which is impossible if `size` takes no more of any level than `lease`. Then
    /// `lease` is left unchanged.
    pub fn replace(self: &Arc<Self>, lease: &mut Lease, size: &Size) -> Result<(), NoRoom> {
        let mut occupied = self.lock();
        let own = lease.index;
        occupied[own].release(lease.levels);
        let elsewhere = roomiest(&occupied, size.levels(), Some(own));
        let index = elsewhere.or_else(|| occupied[own].fits(size.levels()).then_some(own));
        let Some(index) = index else {
            let error = no_room(&occupied, size);
            occupied[own].take(lease.levels);
            return Err(error);
        };
        occupied[index].take(size.levels());
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
        occupied[own].release(lease.levels);
        let fits = roomiest(&occupied, size.levels(), None).is_some();
        occupied[own].take(lease.levels);
        fits
    }

    /// Waits for a store of the maintenance pool. Dropping the permit releases the store.
    pub(crate) async fn maintenance_store(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.maintenance).acquire_owned().await.expect("the semaphore is never closed")
    }

    fn lease(self: &Arc<Self>, occupied: &[Occupied], index: usize, size: &Size) -> Lease {
        let machine = occupied[index].machine.name.clone();
        Lease { fleet: Some(Arc::clone(self)), index, machine, levels: size.levels() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Occupied>> {
        self.occupied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn roomiest(occupied: &[Occupied], levels: Levels, except: Option<usize>) -> Option<usize> {
    occupied
        .iter()
        .enumerate()
        .filter(|(index, machine)| Some(*index) != except && machine.fits(levels))
        .min_by_key(|(_, machine)| machine.slots)
        .map(|(index, _)| index)
}

fn no_room(occupied: &[Occupied], size: &Size) -> NoRoom {
    let machines: Vec<String> = occupied
        .iter()
        .map(|Occupied { machine, slots, levels }| {
            let free = machine.levels().minus(*levels);
            let beside = |bytes, bound| format!("{} of {}", BytesBeside { bytes, bound }, Bytes(bound));
            format!(
                "{} has {} of {} slots, {} of memory and {} of disk free",
                machine.name,
                machine.slots - slots,
                machine.slots,
                beside(free.memory_bytes, machine.memory_bytes),
                beside(free.disk_bytes, machine.disk_bytes),
            )
        })
        .collect();
    NoRoom { levels: size.levels(), machines: machines.join(", ") }
}

/// A slot on a machine, released when this is dropped.
#[derive(Debug)]
pub struct Lease {
    /// None once [`Fleet::replace`] has released the slot.
    fleet: Option<Arc<Fleet>>,
    index: usize,
    machine: Name,
    levels: Levels,
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
            fleet.lock()[self.index].release(self.levels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn size(memory_bytes: u64, disk_bytes: u64) -> Size {
        Size {
            name: "s".into(),
            fuel: 1,
            memory_bytes,
            disk_bytes,
            network_calls: 1,
            network_bytes: 1,
            deadline: Duration::from_secs(1),
        }
    }

    fn pair(slots: u32) -> Arc<Fleet> {
        let machines = Machine::pair(slots, 100).into_iter().map(|machine| Machine { disk_bytes: 50, ..machine });
        Fleet::new(machines.collect(), 1)
    }

    #[test]
    fn a_replacement_goes_to_another_machine_if_one_has_room() -> Result<(), NoRoom> {
        let fleet = pair(1);
        let mut lease = fleet.place(&size(60, 0))?;
        assert_eq!(&**lease.machine(), "m1");
        fleet.replace(&mut lease, &size(60, 0))?;
        assert_eq!(&**lease.machine(), "m2");
        Ok(())
    }

    #[test]
    fn a_replacement_needs_no_second_slot() -> Result<(), NoRoom> {
        let fleet = pair(1);
        let mut first = fleet.place(&size(100, 0))?;
        let _second = fleet.place(&size(100, 0))?;
        fleet.replace(&mut first, &size(100, 0))?;
        assert_eq!(&**first.machine(), "m1");
        assert!(fleet.replace(&mut first, &size(101, 0)).is_err());
        assert!(fleet.place(&size(1, 0)).is_err());
        Ok(())
    }

    #[test]
    fn a_machine_without_room_on_its_disk_takes_no_vm() -> Result<(), NoRoom> {
        let fleet = pair(4);
        let mut first = fleet.place(&size(1, 30))?;
        let _second = fleet.place(&size(1, 30))?;
        let refused = fleet.place(&size(1, 21)).expect_err("both machines have 20 left").to_string();
        assert!(
            refused.contains("m1 has 3 of 4 slots, 99 B of 100 B of memory and 20 B of 50 B of disk free"),
            "{refused}"
        );
        fleet.replace(&mut first, &size(1, 50))?;
        assert_eq!(&**first.machine(), "m1", "its own place is counted as free");
        Ok(())
    }

    proptest! {
        /// A directory of a release without disks starts on the same machines.
        #[test]
        fn a_machine_without_a_disk_takes_every_vm_of_a_size_without_one(
            memories in prop::collection::vec(prop_oneof![0u64..100, 0u64..1 << 32], 1..20),
        ) {
            let slots = u32::try_from(memories.len()).expect("few");
            let memory_bytes = memories.iter().sum();
            let disk_bytes = Machine::disk_bytes_for(slots, memory_bytes);
            let name = Name::new("m").expect("a name");
            let fleet = Fleet::new(vec![Machine { name, slots, memory_bytes, disk_bytes }], 1);
            let mut leases = Vec::new();
            for memory_bytes in memories {
                let placed = fleet.place(&size(memory_bytes, Size::disk_bytes_for(memory_bytes)));
                prop_assert!(placed.is_ok(), "{:?}", placed);
                leases.push(placed);
            }
        }

        #[test]
        fn no_sequence_of_leases_exceeds_a_budget_or_leaks_it(steps in prop::collection::vec((0u8..3, 0usize..8, 1u64..60, 0u64..30), 1..80)) {
            let fleet = pair(3);
            let mut leases: Vec<Lease> = Vec::new();
            for (step, which, memory_bytes, disk_bytes) in steps {
                let size = size(memory_bytes, disk_bytes);
                match step {
                    0 => leases.extend(fleet.place(&size).ok()),
                    1 if !leases.is_empty() => {
                        let index = which % leases.len();
                        let before = leases[index].levels;
                        let replaced = fleet.replace(&mut leases[index], &size).is_ok();
                        prop_assert!(replaced || !size.levels().fit(before));
                    }
                    _ if !leases.is_empty() => drop(leases.swap_remove(which % leases.len())),
                    _ => {}
                }
                for (index, machine) in fleet.lock().iter().enumerate() {
                    let on_it = leases.iter().filter(|lease| lease.index == index);
                    let sum = on_it.clone().fold(Levels::default(), |sum, lease| sum.plus(lease.levels));
                    prop_assert_eq!(machine.levels, sum);
                    prop_assert_eq!(machine.slots as usize, on_it.count());
                    prop_assert!(machine.levels.fit(machine.machine.levels()) && machine.slots <= 3);
                }
            }
            drop(leases);
            prop_assert!(fleet.lock().iter().all(|machine| machine.slots == 0 && machine.levels == Levels::default()));
        }
    }
}
