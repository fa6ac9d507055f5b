//! Profiles: where a guest burns its fuel.
//!
//! Wasmtime stops a guest when it has burnt its yield interval, at the next beginning of a function or head of a loop.
//! Ordinarily that lets other guests run. A profiled store has another interval before each of these stops, and looks at
//! the guest's stack there. So the code that runs is that of every other store, and what it burns is the same.
//!
//! These stops are not charged, because an ordinary run has others. All other charges are.

use crate::explain::name_of;
use crate::store::{FUEL_PER_HOST_CALL, StoreData};
use lifeboat_api::text::Printable;
use lifeboat_profile::{NodeId, Sampler, Tree};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::{CallHook, FrameInfo, Module, StoreContextMut, Trap, WasmBacktrace};

/// The most functions that a profile knows by name. Further ones are called `(others)`.
const FUNCTIONS_MAX: usize = 100_000;

/// A profile that is being made of the calls into an instance.
pub struct Profiler {
    sampler: Sampler,
    names: Names,
    /// How often the guest was continued after it had stopped.
    turns: Arc<AtomicU64>,
    /// The entries into the host that have not returned, the outermost first. A function of the host may run the
    /// guest's allocator, which may enter the host.
    entries: Vec<Entry>,
    /// The fuel in the guest's tank at the last entry into the host, or exit from it.
    fuel_left: u64,
    /// What was counted of the call so far.
    counted: u64,
    limit_fuel: u64,
}

/// An entry into the host: a call of one of its functions, or a stop of the guest.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The number of `turns` then.
    turns: u64,
    /// The stack of the guest, if it was looked at.
    caller: Option<NodeId>,
    /// Whether the guest has run within it, and has entered the host again.
    has_inner: bool,
}

impl Entry {
    /// Returns whether it was a stop of the guest, which is not charged. The number of `turns` is that at its end, and
    /// `owed` is what the host has charged since the guest last left it.
    ///
    /// Each stop ends a turn. So does a function of the host that waits, but that has charged the guest before it
    /// waits: the guest can only wait for responses, and a look for them is charged. So may the stops of the guest
    /// within a function of the host, but there are none within a stop.
    fn is_stop(self, turns: u64, owed: u64) -> bool {
        turns != self.turns && owed == 0 && !self.has_inner
    }
}

impl std::fmt::Debug for Profiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profiler").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

impl Profiler {
    /// Creates a profiler that adds to a sampler.
    #[must_use]
    pub fn new(sampler: Sampler) -> Self {
        Self {
            sampler,
            names: Names::default(),
            turns: Arc::default(),
            entries: Vec::new(),
            fuel_left: 0,
            counted: 0,
            limit_fuel: 0,
        }
    }

    /// Returns the sampler.
    pub fn sampler(&mut self) -> &mut Sampler {
        &mut self.sampler
    }

    /// Returns the sampler, to which nothing more is added.
    #[must_use]
    pub fn into_sampler(self) -> Sampler {
        self.sampler
    }

    pub(crate) fn turns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    /// Returns the fuel after which the guest is to be stopped.
    pub(crate) fn interval(&self) -> u64 {
        self.sampler.wanted_after()
    }

    pub(crate) fn enter(&mut self, fuel: u64) {
        (self.fuel_left, self.limit_fuel, self.counted) = (fuel, fuel, 0);
        self.entries.clear();
    }

    /// Ends a call, which used this fuel.
    pub(crate) fn leave(&mut self, fuel_used: u64) {
        self.sampler.leave(fuel_used.saturating_sub(self.counted));
    }

    /// Counts fuel, and returns how much of it the call had.
    fn count(&mut self, fuel: u64) -> u64 {
        let fuel = fuel.min(self.limit_fuel.saturating_sub(self.counted));
        self.counted += fuel;
        fuel
    }
}

/// The names of functions as a profile shows them. Functions with equal names have different ones there.
#[derive(Default)]
struct Names {
    /// The modules whose functions were met, in that order. A component has few.
    modules: Vec<Module>,
    /// By the places of modules in `modules`, and the indices of functions in them.
    known: HashMap<(usize, u32), String>,
    /// The names in `known`.
    taken: HashSet<String>,
}

impl Names {
    fn get(&mut self, frame: &FrameInfo) -> &str {
        let Self { modules, known, taken } = self;
        let module = modules.iter().position(|known| Module::same(known, frame.module()));
        let module = module.unwrap_or_else(|| {
            modules.push(frame.module().clone());
            modules.len() - 1
        });
        let key = (module, frame.func_index());
        if known.len() >= FUNCTIONS_MAX && !known.contains_key(&key) {
            return lifeboat_profile::OTHERS;
        }
        known.entry(key).or_insert_with(|| {
            let unnamed_before = modules[..module].iter().filter(|module| module.name().is_none()).count();
            let name = distinct(taken, name_of(frame), &numbered(frame, unnamed_before));
            taken.insert(name.clone());
            name
        })
    }
}

/// Returns what stands for the name of a function: its index, after its module. `unnamed_before` counts the modules
/// without a name that were met before its own.
fn numbered(frame: &FrameInfo, unnamed_before: usize) -> String {
    let module = match frame.module().name() {
        Some(name) => format!("{name}!"),
        None if unnamed_before == 0 => String::new(),
        None => format!("module[{unnamed_before}]!"),
    };
    format!("{module}func[{}]", frame.func_index())
}

/// Returns the name of a function as a profile shows it, which is none of those in `taken`: an equal name of another
/// function is followed by the index, as `numbered` has it.
fn distinct(taken: &HashSet<String>, name: Option<String>, numbered: &str) -> String {
    // Long names can be equal once they are cut.
    let shown = |name: &str| {
        let printable = Printable(name).to_string();
        lifeboat_profile::shortened(&printable, lifeboat_profile::LABEL_CHARS_MAX).into_owned()
    };
    let name = shown(name.as_deref().unwrap_or(numbered));
    if taken.contains(&name) { shown(&format!("{name} ({numbered})")) } else { name }
}

/// Adds the stack of a guest to a tree.
fn stack(tree: &mut Tree, names: &mut Names, trace: &WasmBacktrace) -> NodeId {
    // The trace of a deeper stack has one function more than are kept.
    let frames = trace.frames();
    let mut stack = tree.above(frames.len());
    for frame in frames.iter().take(lifeboat_profile::DEPTH_MAX).rev() {
        stack = tree.child(stack, names.get(frame));
    }
    stack
}

/// Charges an entry into the host, or an exit from it, as every store does, and counts it for the profile.
pub(crate) fn pass(
    mut store: StoreContextMut<'_, StoreData>,
    mut profiler: Box<Profiler>,
    hook: CallHook,
) -> wasmtime::Result<()> {
    let fuel_left = store.get_fuel()?;
    let owed = store.data_mut().wasi.take_owed_fuel();
    let burnt = profiler.fuel_left.saturating_sub(fuel_left);
    match hook {
        CallHook::CallingHost => {
            let data = store.data_mut();
            data.wasi.note_time();
            data.charges.note_fuel(fuel_left);
            // This was charged by the function of the host that has run the guest, or else for the start of the call.
            data.charges.add(owed);
            let owed = profiler.count(owed);
            let burnt = profiler.count(burnt);
            let outer = profiler.entries.last_mut().and_then(|outer| {
                outer.has_inner = true;
                outer.caller
            });
            profiler.sampler.charge(outer, owed);
            let Profiler { sampler, names, .. } = &mut *profiler;
            sampler.pass(burnt, |tree| stack(tree, names, &WasmBacktrace::force_capture(&store)));
            let (turns, caller) = (profiler.turns.load(Ordering::Relaxed), profiler.sampler.here());
            profiler.entries.push(Entry { turns, caller, has_inner: false });
        }
        _ => {
            let entry = profiler.entries.pop();
            let burnt = profiler.count(burnt);
            let caller = entry.and_then(|entry| entry.caller);
            profiler.sampler.back(burnt, caller);
            let turns = profiler.turns.load(Ordering::Relaxed);
            let is_stop = entry.is_some_and(|entry| entry.is_stop(turns, owed));
            let charge = if is_stop { 0 } else { owed.saturating_add(FUEL_PER_HOST_CALL) };
            store.data_mut().charges.add(charge);
            let charge = profiler.count(charge);
            profiler.sampler.charge(caller, charge);
        }
    }
    profiler.fuel_left = fuel_left;
    let interval = profiler.interval();
    let charged = store.data_mut().collect_charges();
    store.data_mut().profiler = Some(profiler);
    store.fuel_async_yield_interval(Some(interval))?;
    if fuel_left < charged { Err(Trap::OutOfFuel.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_ends_a_turn_without_a_charge_and_without_an_entry_in_it() {
        let entry = Entry { turns: 5, caller: None, has_inner: false };
        assert!(entry.is_stop(6, 0));
        assert!(!entry.is_stop(5, 0), "a call that does not wait");
        assert!(!entry.is_stop(6, 10), "a call that waits, charged for its look");
        assert!(!Entry { has_inner: true, ..entry }.is_stop(6, 0), "a call in which the guest was stopped");
    }

    #[test]
    fn functions_of_one_name_are_told_apart_by_their_indices() {
        let mut taken = HashSet::new();
        let mut names = Vec::new();
        let long = |end: &str| Some("x".repeat(300) + end);
        for (index, name) in
            [Some("f".to_owned()), Some("f".to_owned()), None, long("a"), long("a"), long("b")].into_iter().enumerate()
        {
            let name = distinct(&taken, name, &format!("func[{index}]"));
            taken.insert(name.clone());
            names.push(name);
        }
        assert_eq!(names[..3], ["f", "f (func[1])", "func[2]"]);
        assert_eq!(taken.len(), names.len(), "{names:?}");
        assert!(names[4].ends_with("xa (func[4])"), "{}", names[4]);
    }
}
