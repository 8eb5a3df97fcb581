//! The memory audit: checks rules about all mappings, page tables and free memory, read from the tables and
//! the allocators themselves. It requires that no other thread changes mappings meanwhile. It runs after each
//! self-test.
//!
//! 1. All CPU mappings of a frame have one memory type (invariant 2). Device mappings have the same, or are
//!    non-cacheable for devices that do not snoop.
//! 2. No free frame, page table or heap frame has a mapping outside of the linear map.
//! 3. No mapping is writable and executable, and each entry is the exact encoding of its memory type and
//!    permissions: so no kernel memory is accessible to a program, and the kernel executes no memory of a
//!    program.
//! 4. Private memory of a program has no second mapping in a program or a kernel window.
//! 5. Each frame is at most once in free memory, the page tables and the heap.
//! 6. Each CPU's root table equals the kernel's except for its windows, and no window is open.
//! 7. Each device mapping is at an address that an attachment or a streaming mapping has allocated.

mod frame_use;
mod mappings;

use addr::{AddrRange, Iova, KernelVa, MemoryType, PhysAddr};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
pub use frame_use::FrameUse;
use frame_use::FrameUses;
use kernel::dma;
use kernel::memory::{heap, kernel_tables, window, zones};
use kernel::process;
use kernel::vm::address_space::VmaBacking;
use mappings::Mappings;
use pagetable::{Access, Leaf};

/// The owner of the tables of a mapping, and the part of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Owner {
    /// The kernel, in the linear map.
    Linear,
    /// The kernel, outside of the linear map.
    Kernel,
    /// A DMA domain, numbered from 0 in the order of creation.
    Domain(usize),
    /// A DMA domain of devices that do not snoop.
    NonCoherentDomain(usize),
    /// A program with this process ID, with shared memory such as a buffer.
    Program(u32),
    /// A program with this process ID, with anonymous memory.
    Private(u32),
}

impl Owner {
    fn is_program(self) -> bool {
        matches!(self, Self::Program(_) | Self::Private(_))
    }
}

/// A violation of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Frames are mapped with two memory types.
    Conflict {
        frames: AddrRange<PhysAddr>,
        /// Two of their mappings.
        mappings: [(Owner, MemoryType); 2],
    },
    /// Free or kernel memory is mapped outside of the linear map.
    UnexpectedMapping {
        frames: AddrRange<PhysAddr>,
        usage: FrameUse,
        /// The owner of the mapping.
        owner: Owner,
    },
    /// Frames have two uses, or the same use twice.
    DoubleUse { frames: AddrRange<PhysAddr>, uses: [FrameUse; 2] },
    /// A mapping is writable and executable.
    WritableCode { frames: AddrRange<PhysAddr>, owner: Owner },
    /// A device that does not snoop has a cacheable mapping.
    CacheableForDevice { frames: AddrRange<PhysAddr>, owner: Owner },
    /// An entry differs from the encoding of its memory type and permissions.
    Irregular { frames: AddrRange<PhysAddr>, owner: Owner },
    /// A device mapping is at an address that is not allocated.
    UnallocatedIova { frames: AddrRange<PhysAddr>, at: Iova, owner: Owner },
    /// Private memory of a program has a second mapping.
    Shared { frames: AddrRange<PhysAddr>, owners: [Owner; 2] },
    /// A CPU's root table differs from the kernel's.
    RootMismatch {
        cpu: usize,
        /// The first address that differs.
        at: KernelVa,
    },
    /// A window is still mapped.
    OpenWindow { frames: AddrRange<PhysAddr> },
    /// The list of free memory could not be allocated.
    OutOfMemory,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { frames, mappings: [(one, first), (other, second)] } => {
                write!(f, "{frames:?} is {first:?} for {one:?} and {second:?} for {other:?}")
            }
            Self::UnexpectedMapping { frames, usage, owner } => {
                write!(f, "{frames:?} is {usage}, and mapped by {owner:?}")
            }
            Self::DoubleUse { frames, uses: [first, second] } if first == second => {
                write!(f, "{frames:?} is {first} twice")
            }
            Self::DoubleUse { frames, uses: [first, second] } => {
                write!(f, "{frames:?} is both {first} and {second}")
            }
            Self::WritableCode { frames, owner } => {
                write!(f, "{frames:?} is mapped writable and executable by {owner:?}")
            }
            Self::CacheableForDevice { frames, owner } => {
                write!(f, "{frames:?} is mapped cacheable by {owner:?}")
            }
            Self::Irregular { frames, owner } => {
                write!(f, "{frames:?} is mapped by {owner:?} with an irregular descriptor")
            }
            Self::UnallocatedIova { frames, at, owner } => {
                write!(f, "{frames:?} is mapped by {owner:?} at {at}, which is not allocated")
            }
            Self::Shared { frames, owners: [one, other] } => {
                write!(f, "{frames:?} is mapped by {one:?} and by {other:?}")
            }
            Self::RootMismatch { cpu, at } => {
                write!(f, "the root table of CPU {cpu} differs from the kernel's at {at}")
            }
            Self::OpenWindow { frames } => write!(f, "{frames:?} is still mapped in a window"),
            Self::OutOfMemory => f.write_str("no memory for the list of free memory"),
        }
    }
}

/// Totals of a clean audit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditSummary {
    /// Pages and blocks in all tables.
    pub leaves: usize,
    /// Bytes of free memory.
    pub free: u64,
    /// Bytes of page tables.
    pub tables: u64,
    /// Bytes of lowmem that the heap has allocated.
    pub heap: u64,
}

impl fmt::Display for AuditSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaves, free, tables, heap } = self;
        write!(
            f,
            "{leaves} pages and blocks; {tables:#x} bytes of tables, {heap:#x} of the heap, {free:#x} free"
        )
    }
}

/// Runs a visit that has no bound on the time with interrupts masked. Only the audit and self-tests make such
/// visits: `action` is not measured.
fn exempt_from_irqsoff<R>(action: impl FnOnce() -> R) -> R {
    #[cfg(feature = "checking")]
    return crate::debug::irqsoff::exempt(action);
    #[cfg(not(feature = "checking"))]
    action()
}

/// [`kernel_tables::leaves`], which has no bound in a run of sparse tables.
pub fn kernel_leaves(range: AddrRange<KernelVa>, visit: impl FnMut(Leaf<KernelVa>)) {
    exempt_from_irqsoff(|| kernel_tables::leaves(range, visit));
}

/// The end of the linear map.
const LINEAR_END: KernelVa = KernelVa::new(0xffff_8000 << 32);

/// Checks all rules. Mappings must not change meanwhile.
///
/// # Errors
/// The first violation, or [`Finding::OutOfMemory`].
pub fn check() -> Result<AuditSummary, Finding> {
    let mut audit = Audit::default();
    audit.add_kernel();
    audit.add_devices();
    audit.add_programs();
    // The list must be consistent.
    let free = exempt_from_irqsoff(zones::free_chunks).ok_or(Finding::OutOfMemory)?;
    free.into_iter().for_each(|chunk| audit.uses.add(chunk, FrameUse::Free));
    audit.verdict()
}

#[derive(Default)]
struct Audit {
    mappings: Mappings,
    uses: FrameUses,
    /// The first violation by a single entry.
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
        kernel_leaves(all, |leaf| {
            let owner = if leaf.at < LINEAR_END { Owner::Linear } else { Owner::Kernel };
            self.add(&leaf, leaf.output(), owner);
        });
        window::leaves(|leaf| {
            self.add(&leaf, leaf.output(), Owner::Kernel);
            self.finding.get_or_insert(Finding::OpenWindow { frames: leaf.output() });
        });
        exempt_from_irqsoff(|| kernel_tables::each_table(|table| self.uses.add_table(table)));
        window::each_table(|table| self.uses.add_table(table));
        heap::each_chunk(|chunk| self.uses.add(chunk, FrameUse::Heap));
    }

    fn add_devices(&mut self) {
        let mut domains: Vec<_> =
            dma::attached_devices().iter().map(|device| device.domain().clone()).collect();
        domains.sort_by_key(Arc::as_ptr);
        domains.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for (number, domain) in domains.iter().enumerate() {
            let non_coherent = domain.is_non_coherent();
            let owner = if non_coherent { Owner::NonCoherentDomain(number) } else { Owner::Domain(number) };
            domain.all_leaves(|leaf, is_allocated| {
                self.add(&leaf, leaf.output(), owner);
                if non_coherent && leaf.memory == MemoryType::WriteBack {
                    self.finding.get_or_insert(Finding::CacheableForDevice { frames: leaf.output(), owner });
                }
                if !is_allocated {
                    self.finding.get_or_insert(Finding::UnallocatedIova {
                        frames: leaf.output(),
                        at: leaf.at,
                        owner,
                    });
                }
            });
            domain.each_table(|table| self.uses.add_table(table));
        }
    }

    fn add_programs(&mut self) {
        for program in process::all() {
            let id = program.id();
            let Some(space) = program.space() else { continue };
            let is_private = VmaBacking::owns_frames;
            for (private, owner) in [(true, Owner::Private(id)), (false, Owner::Program(id))] {
                space.leaves(
                    |area| is_private(&area.backing) == private,
                    |leaf| self.add(&leaf, leaf.output(), owner),
                );
            }
            space.each_table(|table| self.uses.add_table(table));
        }
    }

    fn verdict(mut self) -> Result<AuditSummary, Finding> {
        let uses = self.uses.sorted()?;
        let leaves = self.mappings.leaves();
        let sorted = self.mappings.sorted();
        let mismatch = window::root_mismatch().map(|(cpu, at)| Finding::RootMismatch { cpu, at });
        let finding = self
            .finding
            .or(mismatch)
            .or_else(|| mappings::conflict(sorted))
            .or_else(|| mappings::shared(sorted))
            .or_else(|| uses.first_mapped(sorted));
        let [free, tables, heap] =
            [FrameUse::Free, FrameUse::PageTable, FrameUse::Heap].map(|usage| uses.bytes(usage));
        finding.map_or(Ok(AuditSummary { leaves, free, tables, heap }), Err)
    }
}
