//! The kernel's own translation tree (TTBR1): what is mapped where, and nothing writable that is executable.

use crate::memory::tables;
use crate::sync::SpinLock;
use addr::{AddrRange, Chunk, KernelVa, PhysAddr};
use arch::tlb::Level;
use pagetable::{Leaf, MapError, Mapping, OutOfTables, PageTable, Stage1, Window};

/// Bits of a kernel address that are translated.
const INPUT_BITS: u8 = 48;

type Tree = PageTable<Stage1, KernelVa>;

static TREE: SpinLock<Option<Tree>> = SpinLock::new(None);

/// Makes an empty tree. Nothing walks it until [`root`] is in TTBR1.
pub fn init() -> Result<(), OutOfTables> {
    *TREE.lock() = Some(Tree::new(&mut tables::kernel(), INPUT_BITS)?);
    Ok(())
}

/// What goes into TTBR1.
pub fn root() -> PhysAddr {
    with(|tree| tree.root())
}

/// Maps `chunks` one after the other from `at` on, for all CPUs from the moment this returns.
pub fn map(
    at: KernelVa,
    chunks: impl Iterator<Item = Chunk>,
    mapping: Mapping,
) -> Result<(), MapError<KernelVa>> {
    with(|tree| tree.map(&mut tables::kernel(), at, chunks, mapping))?;
    arch::barrier::dsb_ishst();
    arch::barrier::isb();
    Ok(())
}

/// Takes all mappings in `range` away, and returns when no CPU can use one any more.
pub fn unmap(range: AddrRange<KernelVa>) {
    match with(|tree| tree.unmap(&mut tables::kernel(), range)) {
        Ok(stale) => {
            arch::tlb::kernel(range, if stale.is_empty() { Level::Last } else { Level::Any });
            stale.release(&mut tables::kernel());
        }
        Err(error) => panic!("kernel unmap of {range:?}: {error:?}"),
    }
}

/// Takes all mappings in `range` away as [`unmap`] does, and keeps the tables: mapping pages there again needs no memory.
pub fn unmap_keeping_tables(range: AddrRange<KernelVa>) {
    if let Err(error) = with(|tree| tree.unmap_keeping_tables(&mut tables::kernel(), range)) {
        panic!("kernel unmap of {range:?}: {error:?}");
    }
    arch::tlb::kernel(range, Level::Last);
}

/// The table of the 2 MiB from `at` on, for somebody who fills it without the tree; `None` if its last page is not
/// mapped.
pub fn window(at: KernelVa) -> Option<Window<'static>> {
    let table = with(|tree| tree.last_table(&tables::kernel(), at))?;
    Window::new(tables::entries(table))
}

/// What the tree says of an address. The CPU's own view is `arch::mmu::translate_kernel`.
pub fn translate(at: KernelVa) -> Option<Leaf<KernelVa>> {
    with(|tree| tree.translate(&tables::kernel(), at))
}

/// Shows every mapping in `range`, lowest first.
pub fn leaves(range: AddrRange<KernelVa>, show: impl FnMut(Leaf<KernelVa>)) {
    with(|tree| tree.leaves(&tables::kernel(), range, show));
}

fn with<R>(f: impl FnOnce(&mut Tree) -> R) -> R {
    match TREE.lock().as_mut() {
        Some(tree) => f(tree),
        None => panic!("no kernel tables yet"),
    }
}
