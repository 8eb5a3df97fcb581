//! The kernel's own page tables (TTBR1). No mapping is both writable and executable.
//!
//! Each CPU has a root table of its own, a copy of the shared one, so that a part of the address space (the
//! windows) is private to it. The shared root is fixed before the first copy is made, so the copies remain
//! valid.

use crate::memory::{leaf_batches, table_frames};
use crate::sync::SpinLock;
use addr::{AddrRange, Chunk, KernelVa, PhysAddr};
use arch::tlb::Level;
use pagetable::{FixedRoot, Leaf, MapError, Mapping, OutOfTables, PageTable, PerCpuRoot, Stage1, UnmapError};
use spin::Once;

/// Input address bits of the kernel's half.
const INPUT_BITS: u8 = 48;

type KernelTables = PageTable<Stage1, KernelVa>;

static TABLES: SpinLock<Option<KernelTables>> = SpinLock::new(None);
static ROOT: Once<FixedRoot<Stage1, KernelVa>> = Once::new();

/// Allocates empty tables. No CPU walks them until a [`per_cpu_root`] is in TTBR1.
pub fn init() -> Result<(), OutOfTables> {
    *TABLES.lock() = Some(KernelTables::new(&mut table_frames::kernel(), INPUT_BITS)?);
    Ok(())
}

/// Fixes the root table: further mappings are possible only in `areas`, and in the 512 GiB regions that
/// already have a mapping. Called once.
///
/// # Errors
/// Out of tables.
pub fn fix_root(areas: impl IntoIterator<Item = AddrRange<KernelVa>>) -> Result<(), MapError<KernelVa>> {
    let fixed = with(|tables| tables.fix_root(&mut table_frames::kernel(), areas))?;
    ROOT.call_once(|| fixed);
    Ok(())
}

/// Allocates a root table for a CPU's TTBR1, with private tables for the region from `at` on. The caller
/// orders these writes before the CPU uses it.
///
/// # Errors
/// Out of tables.
pub fn per_cpu_root(at: KernelVa) -> Result<PerCpuRoot, OutOfTables> {
    fixed_root().per_cpu_root(&mut table_frames::kernel(), at)
}

/// Returns the first address at which a CPU's root differs from the shared root, apart from its private
/// tables.
pub fn root_mismatch(own: &PerCpuRoot) -> Option<KernelVa> {
    fixed_root().difference(&table_frames::kernel(), own)
}

fn fixed_root() -> &'static FixedRoot<Stage1, KernelVa> {
    match ROOT.get() {
        Some(root) => root,
        None => panic!("the root of the kernel's page tables is not fixed"),
    }
}

/// Maps `chunks` contiguously from `at` on. The mapping is visible to all CPUs when this returns.
///
/// # Safety
/// The caller owns the addresses, and `chunks`, or has the right to map them (a borrow, device registers). No
/// mapping of `chunks` has another memory type.
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

/// Removes all mappings in `range` and invalidates them in the TLBs of all CPUs.
///
/// # Safety
/// The caller owns the addresses of `range`, and they are not accessed any more.
pub unsafe fn unmap(range: AddrRange<KernelVa>) {
    let unmapped = with(|tables| {
        let stale = tables.unmap(&mut table_frames::kernel(), range)?;
        // The next mapping may link another table in place of an unlinked one, which is break-before-make: no
        // TLB may hold the old one when the lock is released (D8.16.1).
        if !stale.is_empty() {
            arch::tlb::kernel(range, Level::Any);
        }
        Ok::<_, UnmapError<_>>(stale)
    });
    match unmapped {
        // Without the lock, since the caller owns the range: nothing else is mapped there meanwhile.
        Ok(stale) if stale.is_empty() => arch::tlb::kernel(range, Level::Last),
        Ok(stale) => stale.release(&mut table_frames::kernel()),
        Err(error) => panic!("kernel unmap of {range:?}: {error:?}"),
    }
}

/// Unmaps `range` as [`unmap`] does, but keeps the tables, so that mapping pages there again allocates
/// nothing.
///
/// # Safety
/// As for [`unmap`].
pub unsafe fn unmap_keeping_tables(range: AddrRange<KernelVa>) {
    if let Err(error) = with(|tables| tables.unmap_keeping_tables(&mut table_frames::kernel(), range)) {
        panic!("kernel unmap of {range:?}: {error:?}");
    }
    arch::tlb::kernel(range, Level::Last);
}

/// Walks the tables in software. `arch::mmu::translate_kernel` translates with the CPU's MMU.
pub fn translate(at: KernelVa) -> Option<Leaf<KernelVa>> {
    with(|tables| tables.translate(&table_frames::kernel(), at))
}

/// Calls `visit` with every mapping in `range`, in ascending order.
pub fn leaves(range: AddrRange<KernelVa>, mut visit: impl FnMut(Leaf<KernelVa>)) {
    leaf_batches::visit(
        range,
        |rest, read| {
            with(|tables| tables.leaves_until(&table_frames::kernel(), rest, |leaf| read(leaf, ())));
        },
        |leaf, ()| visit(leaf),
    );
}

/// Calls `visit` with every shared table; the CPUs' private tables are not among them.
pub fn each_table(visit: impl FnMut(PhysAddr)) {
    with(|tables| tables.each_table(&table_frames::kernel(), visit));
}

#[cfg_attr(feature = "checking", track_caller)]
fn with<R>(f: impl FnOnce(&mut KernelTables) -> R) -> R {
    match TABLES.lock().as_mut() {
        Some(tables) => f(tables),
        None => panic!("the kernel's page tables are not initialized"),
    }
}
