//! The kernel's own translation tree (TTBR1): what is mapped where, and nothing writable that is executable.
//!
//! Each CPU walks from a root of its own, a copy of the tree's: so a part of the addresses can be that CPU's alone. Before
//! the first copy the tree's root is fixed, so that a copy never has to follow it.

use crate::memory::table_frames;
use crate::sync::SpinLock;
use addr::{AddrRange, Chunk, KernelVa, PhysAddr};
use arch::tlb::Level;
use pagetable::{FixedRoot, Leaf, MapError, Mapping, OutOfTables, PageTable, PerCpuRoot, Stage1};
use spin::Once;

/// Bits of a kernel address that are translated.
const INPUT_BITS: u8 = 48;

type KernelTables = PageTable<Stage1, KernelVa>;

static TABLES: SpinLock<Option<KernelTables>> = SpinLock::new(None);
static ROOT: Once<FixedRoot<Stage1, KernelVa>> = Once::new();

/// Makes an empty tree. Nothing walks it until a [`per_cpu_root`] is in TTBR1.
pub fn init() -> Result<(), OutOfTables> {
    *TABLES.lock() = Some(KernelTables::new(&mut table_frames::kernel(), INPUT_BITS)?);
    Ok(())
}

/// Ends the making of the tree's root: from now on things are mapped in `areas`, and in the 512 GiB around what is mapped
/// already. Called once.
///
/// # Errors
/// Out of tables.
pub fn fix_root(areas: impl IntoIterator<Item = AddrRange<KernelVa>>) -> Result<(), MapError<KernelVa>> {
    let fixed = with(|tables| tables.fix_root(&mut table_frames::kernel(), areas))?;
    ROOT.call_once(|| fixed);
    Ok(())
}

/// A root for a CPU's TTBR1, which has tables of its own from `at` on. The CPU comes to it later than what is written now.
///
/// # Errors
/// Out of tables.
pub fn per_cpu_root(at: KernelVa) -> Result<PerCpuRoot, OutOfTables> {
    fixed_root().per_cpu_root(&mut table_frames::kernel(), at)
}

/// The first address, if any, at which a CPU's root leads elsewhere than the tree, besides its own tables.
pub fn root_mismatch(own: &PerCpuRoot) -> Option<KernelVa> {
    fixed_root().difference(&table_frames::kernel(), own)
}

fn fixed_root() -> &'static FixedRoot<Stage1, KernelVa> {
    match ROOT.get() {
        Some(root) => root,
        None => panic!("the root of the kernel's tables is not fixed yet"),
    }
}

/// Maps `chunks` one after the other from `at` on, for all CPUs from the moment this returns.
///
/// # Safety
/// The caller owns the addresses, and `chunks`, or has the right to map them (a borrow, device registers). No mapping of
/// `chunks` has another memory type.
pub unsafe fn map(
    at: KernelVa,
    chunks: impl Iterator<Item = Chunk>,
    mapping: Mapping,
) -> Result<(), MapError<KernelVa>> {
    with(|tables| tables.map(&mut table_frames::kernel(), at, chunks, mapping))?;
    arch::barrier::dsb_ishst();
    arch::barrier::isb();
    Ok(())
}

/// Takes all mappings in `range` away, and returns when no CPU can use one any more.
///
/// # Safety
/// The caller owns the addresses of `range`, and nothing uses them any more.
pub unsafe fn unmap(range: AddrRange<KernelVa>) {
    match with(|tables| tables.unmap(&mut table_frames::kernel(), range)) {
        Ok(stale) => {
            arch::tlb::kernel(range, if stale.is_empty() { Level::Last } else { Level::Any });
            stale.release(&mut table_frames::kernel());
        }
        Err(error) => panic!("kernel unmap of {range:?}: {error:?}"),
    }
}

/// Takes all mappings in `range` away as [`unmap`] does, and keeps the tables: mapping pages there again needs no memory.
///
/// # Safety
/// As for [`unmap`].
pub unsafe fn unmap_keeping_tables(range: AddrRange<KernelVa>) {
    if let Err(error) = with(|tables| tables.unmap_keeping_tables(&mut table_frames::kernel(), range)) {
        panic!("kernel unmap of {range:?}: {error:?}");
    }
    arch::tlb::kernel(range, Level::Last);
}

/// What the tree says of an address. The CPU's own view is `arch::mmu::translate_kernel`.
pub fn translate(at: KernelVa) -> Option<Leaf<KernelVa>> {
    with(|tables| tables.translate(&table_frames::kernel(), at))
}

/// Shows every mapping in `range`, lowest first.
pub fn leaves(range: AddrRange<KernelVa>, show: impl FnMut(Leaf<KernelVa>)) {
    with(|tables| tables.leaves(&table_frames::kernel(), range, show));
}

/// Shows every table of the tree; what CPUs have of their own is not in it.
pub fn each_table(show: impl FnMut(PhysAddr)) {
    with(|tables| tables.each_table(&table_frames::kernel(), show));
}

fn with<R>(f: impl FnOnce(&mut KernelTables) -> R) -> R {
    match TABLES.lock().as_mut() {
        Some(tables) => f(tables),
        None => panic!("no kernel tables yet"),
    }
}
