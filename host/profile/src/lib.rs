//! Where the fuel of a guest goes: call stacks with the fuel that was burnt in them.
//!
//! ```text
//!   checkpoints of a run --Sampler--> Tree of stacks --+--> table(): functions by their own fuel
//!                                                      +--> folded(): lines `a;b;c 123`
//!                                                      +--> svg(): a flame graph
//! ```
//!
//! Nothing here runs a guest or touches a file. The same checkpoints give the same bytes.

#![forbid(unsafe_code)]

mod folded;
mod sampler;
mod svg;
mod table;
mod tree;

pub use folded::folded;
pub use sampler::{BURST_FUEL, EXACT_FUEL_MAX, Plan, Sampler};
pub use svg::{SVG_BOXES_MAX, svg};
pub use table::{Row, table};
pub use tree::{DEPTH_MAX, LABEL_CHARS_MAX, Node, NodeId, STACKS_MAX, Tree, shortened};

/// The label of what the host charged for calls of its functions.
pub const HOST: &str = "(host)";

/// The label of stacks beyond [`STACKS_MAX`].
pub const OTHERS: &str = "(others)";

/// The label of the outer functions of a stack that is deeper than [`DEPTH_MAX`].
pub const CUT: &str = "(cut)";

/// The label of fuel that was burnt between two bursts when there was no further burst.
pub const UNSAMPLED: &str = "(not sampled)";

/// The label of fuel that was burnt where no stack was known.
pub const UNKNOWN: &str = "(unknown)";

/// The label of what the host charged because the guest yielded to others.
pub const YIELDS: &str = "(yields)";
