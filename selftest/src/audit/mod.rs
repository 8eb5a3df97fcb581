//! The audit: rules about all mappings there are and all memory that is free, asked of the tables and of the allocators
//! themselves. It can be called at any time when nothing else runs; the self-tests call it after each of them.
//!
//! 1. All mappings of a frame have one memory type (invariant 2).
//! 2. Nothing but the linear map reaches a free frame, a page table or the heap.
//! 3. Nothing can be written and executed, and every entry is one that a mapping is written as: so nothing of the kernel's
//!    is within a program's reach, and the kernel executes nothing of a program's.
//! 4. What a program has for itself, no other program and no window of the kernel has.
//! 5. No frame is two of these three, or one of them twice.
//! 6. Every CPU's tables are the kernel's, but for its windows, and no window is open.
//! 7. What a device reaches, it reaches at addresses that somebody has: an attachment, or a loan.

mod mapped;
mod ownership;

use addr::{AddrRange, Iova, KernelVa, MemoryType, PhysAddr};
use core::fmt;
use kernel::dma::domain;
use kernel::memory::{heap, kernel_tables, window, zones};
use kernel::process;
use kernel::vm::address_space::VmaBacking;
use mapped::Mappings;
pub use ownership::Holder;
use ownership::Shown;
use pagetable::{Access, Leaf};

/// Whose tables a mapping is in, and which part of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Owner {
    /// The kernel's: its view of low memory.
    Linear,
    /// The kernel's: all else.
    Kernel,
    /// A device's, counted from 0 in the order in which domains were made.
    Domain(usize),
    /// A program's, of a buffer.
    Program(u32),
    /// A program's, of memory of its own.
    Private(u32),
}

impl Owner {
    fn is_program(self) -> bool {
        matches!(self, Self::Program(_) | Self::Private(_))
    }
}

/// A rule that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Memory is mapped with two memory types.
    Conflict {
        /// The frames.
        frames: AddrRange<PhysAddr>,
        /// Two of their mappings.
        mappings: [(Owner, MemoryType); 2],
    },
    /// Memory is mapped that is free or the kernel's own.
    Held {
        /// The frames.
        frames: AddrRange<PhysAddr>,
        /// Who has them.
        holder: Holder,
        /// Who maps them.
        owner: Owner,
    },
    /// Memory is free and the kernel's own, or twice either.
    TwoHolders {
        /// The frames.
        frames: AddrRange<PhysAddr>,
        /// Both.
        holders: [Holder; 2],
    },
    /// A mapping is writable and executable.
    WritableCode {
        /// The frames.
        frames: AddrRange<PhysAddr>,
        /// Who maps them.
        owner: Owner,
    },
    /// An entry gives rights that no mapping asks for.
    Irregular {
        /// The frames.
        frames: AddrRange<PhysAddr>,
        /// Who maps them.
        owner: Owner,
    },
    /// A device reaches memory at addresses that nobody has.
    Stray {
        /// The frames.
        frames: AddrRange<PhysAddr>,
        /// Where it does.
        at: Iova,
        /// Whose tables these are.
        owner: Owner,
    },
    /// Memory that a program has for itself has another owner too.
    Shared {
        /// The frames.
        frames: AddrRange<PhysAddr>,
        /// Both.
        owners: [Owner; 2],
    },
    /// A CPU's tables lead elsewhere than the kernel's.
    OtherTables {
        /// Which CPU's.
        cpu: usize,
        /// Where that begins.
        at: KernelVa,
    },
    /// A window shows memory that nobody looks at.
    OpenWindow {
        /// The frames.
        frames: AddrRange<PhysAddr>,
    },
    /// There is no memory for the list of what is free.
    OutOfMemory,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { frames, mappings: [(one, first), (other, second)] } => {
                write!(f, "{frames:?} is {first:?} for {one:?} and {second:?} for {other:?}")
            }
            Self::Held { frames, holder, owner } => {
                write!(f, "{frames:?} is {holder}, and mapped by {owner:?}")
            }
            Self::TwoHolders { frames, holders: [one, other] } if one == other => {
                write!(f, "{frames:?} is {one} twice")
            }
            Self::TwoHolders { frames, holders: [one, other] } => {
                write!(f, "{frames:?} is {one} and {other} at once")
            }
            Self::WritableCode { frames, owner } => {
                write!(f, "{frames:?} can be written and executed by {owner:?}")
            }
            Self::Irregular { frames, owner } => {
                write!(f, "{frames:?} is mapped by {owner:?} as no mapping is")
            }
            Self::Stray { frames, at, owner } => {
                write!(f, "{frames:?} is mapped by {owner:?} at {at}, which is nobody's")
            }
            Self::Shared { frames, owners: [one, other] } => {
                write!(f, "{frames:?} is mapped by {one:?} and by {other:?}")
            }
            Self::OtherTables { cpu, at } => write!(f, "CPU {cpu} has tables of its own from {at} on"),
            Self::OpenWindow { frames } => write!(f, "{frames:?} is left in a window"),
            Self::OutOfMemory => f.write_str("no memory for the list of what is free"),
        }
    }
}

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Pages and blocks of all tables.
    pub leaves: usize,
    /// Bytes without owner.
    pub free: u64,
    /// Bytes of page tables.
    pub tables: u64,
    /// Bytes of lowmem that the heap has.
    pub heap: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaves, free, tables, heap } = self;
        write!(
            f,
            "{leaves} pages and blocks; {tables:#x} bytes of tables, {heap:#x} of the heap, {free:#x} free"
        )
    }
}

/// Where the kernel's view of low memory ends.
const LINEAR_END: KernelVa = KernelVa::new(0xffff_8000 << 32);

/// Asks whether all rules hold now. Mappings may change meanwhile: a verdict needs a machine at rest.
///
/// # Errors
/// The first rule that does not, or that there is no memory to find out.
pub fn check() -> Result<Seen, Finding> {
    let mut audit = Audit::default();
    audit.add_kernel();
    audit.add_devices();
    audit.add_programs();
    let free = zones::free_chunks().ok_or(Finding::OutOfMemory)?;
    free.into_iter().for_each(|chunk| audit.shown.add(chunk, Holder::Nobody));
    audit.verdict()
}

#[derive(Default)]
struct Audit {
    mappings: Mappings,
    shown: Shown,
    /// The first that one entry alone has shown.
    finding: Option<Finding>,
}

impl Audit {
    fn add<A>(&mut self, leaf: &Leaf<A>, frames: AddrRange<PhysAddr>, owner: Owner) {
        self.mappings.add(frames, leaf.memory, owner);
        if leaf.access.contains(Access::WRITE | Access::EXECUTE) {
            self.finding.get_or_insert(Finding::WritableCode { frames, owner });
        }
        if !leaf.regular {
            self.finding.get_or_insert(Finding::Irregular { frames, owner });
        }
    }

    fn add_kernel(&mut self) {
        let all = AddrRange::new(KernelVa::new(0xffff << 48), KernelVa::new(!0 << 12));
        kernel_tables::leaves(all, |leaf| {
            let owner = if leaf.at < LINEAR_END { Owner::Linear } else { Owner::Kernel };
            self.add(&leaf, leaf.output(), owner);
        });
        window::leaves(|leaf| {
            self.add(&leaf, leaf.output(), Owner::Kernel);
            self.finding.get_or_insert(Finding::OpenWindow { frames: leaf.output() });
        });
        kernel_tables::each_table(|table| self.shown.add_table(table));
        window::each_table(|table| self.shown.add_table(table));
        heap::each_chunk(|chunk| self.shown.add(chunk, Holder::Heap));
    }

    fn add_devices(&mut self) {
        for (number, domain) in domain::all().into_iter().enumerate() {
            let owner = Owner::Domain(number);
            domain.all_leaves(|leaf, is_somebodys| {
                self.add(&leaf, leaf.output(), owner);
                if !is_somebodys {
                    self.finding.get_or_insert(Finding::Stray { frames: leaf.output(), at: leaf.at, owner });
                }
            });
            domain.each_table(|table| self.shown.add_table(table));
        }
    }

    fn add_programs(&mut self) {
        for program in process::all() {
            let id = program.id();
            let is_private = |backing: &VmaBacking| matches!(backing, VmaBacking::Anonymous);
            for (private, owner) in [(true, Owner::Private(id)), (false, Owner::Program(id))] {
                program.space.leaves(
                    |area| is_private(&area.backing) == private,
                    |leaf| self.add(&leaf, leaf.output(), owner),
                );
            }
            program.space.each_table(|table| self.shown.add_table(table));
        }
    }

    fn verdict(mut self) -> Result<Seen, Finding> {
        let held = self.shown.sorted()?;
        let leaves = self.mappings.leaves();
        let sorted = self.mappings.sorted();
        let others = window::root_mismatch().map(|(cpu, at)| Finding::OtherTables { cpu, at });
        let finding = self
            .finding
            .or(others)
            .or_else(|| mapped::conflict(sorted))
            .or_else(|| mapped::shared(sorted))
            .or_else(|| held.first_mapped(sorted));
        let [free, tables, heap] =
            [Holder::Nobody, Holder::Table, Holder::Heap].map(|holder| held.bytes(holder));
        finding.map_or(Ok(Seen { leaves, free, tables, heap }), Err)
    }
}
