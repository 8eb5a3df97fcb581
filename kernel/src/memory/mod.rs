//! Memory management: the division of RAM, the frame allocator, the kernel's page tables and its heap.
//!
//! `doc/memory-map.md` has a diagram.

pub mod early_device;
pub mod heap;
mod heap_cache;
pub mod kernel_tables;
pub mod layout;
pub mod leaf_batches;
pub mod linear;
pub mod magazines;
pub mod stack;
pub mod table_frames;
pub mod vmalloc;
pub mod window;
pub mod zones;

use crate::board::Reservation;
use addr::{AddrRange, Chunk, KernelVa, MemoryType, Order, PAGE_SIZE, PhysAddr, Size};
use arch::boot::{BootInfo, SectionKind};
use core::fmt;
use layout::{Layout, LayoutError};
use memory::Reach;
use pagetable::{MapError, Mapping, OutOfTables};
use spin::Once;
use vmalloc::VMALLOC_LIMITS;

/// One part in this many of lowmem is reserved for the kernel, which cannot use highmem: buffers and programs
/// do not get it.
const KERNEL_RESERVE_DIVISOR: u64 = 8;

static LAYOUT: Once<Layout> = Once::new();

/// The memory sizes in the boot arguments, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// `lowmem=`
    pub lowmem: Option<u64>,
    /// `vmalloc=`
    pub vmalloc: Option<u64>,
}

/// Memory initialization failed.
#[derive(Debug)]
pub enum InitError {
    /// RAM cannot be divided into lowmem and highmem.
    Layout(LayoutError),
    /// This value of `vmalloc=` is out of range.
    Vmalloc(u64),
    /// Lowmem has no contiguous free range of this many bytes for the first page tables.
    NoPool(u64),
    /// The pool for the first page tables is exhausted: [`table_frames::pool_bytes`] is wrong.
    OutOfTables(OutOfTables),
    /// A mapping failed, for example because the pool is exhausted.
    Map(MapError<KernelVa>),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(error) => error.fmt(f),
            Self::Vmalloc(bytes) => {
                let (least, most) = VMALLOC_LIMITS.into_inner();
                write!(f, "vmalloc={bytes:#x}: must be between {} and {}", Size(least), Size(most))
            }
            Self::NoPool(bytes) => {
                write!(f, "lowmem has no contiguous {} for the first page tables", Size(*bytes))
            }
            Self::OutOfTables(error) => write!(f, "first page tables: {error:?}"),
            Self::Map(error) => write!(f, "first page tables: {error:?}"),
        }
    }
}

impl From<LayoutError> for InitError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<OutOfTables> for InitError {
    fn from(error: OutOfTables) -> Self {
        Self::OutOfTables(error)
    }
}

impl From<MapError<KernelVa>> for InitError {
    fn from(error: MapError<KernelVa>) -> Self {
        Self::Map(error)
    }
}

/// Divides RAM, initializes the zones and builds the kernel's page tables. [`init_cpu`] and [`activate`]
/// switch a CPU to them.
///
/// `reserved` are the ranges of RAM that are in use already, including the image.
///
/// # Safety
/// `ram` is RAM, and only `reserved` of it is in use. Called once.
pub unsafe fn init(
    boot: &BootInfo,
    ram: &[AddrRange<PhysAddr>],
    reserved: &[Reservation],
    sizes: Sizes,
) -> Result<(), InitError> {
    let vmalloc = sizes.vmalloc.unwrap_or(vmalloc::VMALLOC_DEFAULT);
    if !VMALLOC_LIMITS.contains(&vmalloc) {
        return Err(InitError::Vmalloc(vmalloc));
    }
    let layout = Layout::new(ram, reserved, sizes.lowmem)?;
    let layout = LAYOUT.call_once(|| layout);
    // SAFETY: the layout's free ranges are the caller's `ram` without `reserved`, and do not overlap.
    unsafe { zones::init(layout.low_end, layout.low_free.iter().chain(&layout.high_free).copied()) };
    zones::set_reserve(layout.lowmem_bytes() / PAGE_SIZE / KERNEL_RESERVE_DIVISOR);
    alloc_table_pool(layout)?;
    kernel_tables::init()?;
    map_image()?;
    // The image is not in the linear map: its text would have a writable alias there.
    // SAFETY: `lowmem` is a part of the caller's `ram`; all other mappings of it are write-back too.
    unsafe { linear::init(layout::subtract(&layout.lowmem, &[boot.image]).into_iter()) }?;
    kernel_tables::fix_root(vmalloc::init(vmalloc))?;
    Ok(())
}

/// The division of RAM.
pub fn layout() -> &'static Layout {
    match LAYOUT.get() {
        Some(layout) => layout,
        None => panic!("memory is not initialized"),
    }
}

/// Allocates the pool for the first page tables, and maps it in the early tables at its address in the linear
/// map.
fn alloc_table_pool(layout: &Layout) -> Result<(), InitError> {
    let bytes = table_frames::pool_bytes(&layout.lowmem);
    let order = Order::covering(bytes.div_ceil(PAGE_SIZE)).unwrap_or(Order::MAX).max(Order::BLOCK_2M);
    let pool = zones::alloc(order, Reach::LOW).ok_or(InitError::NoPool(order.bytes()))?;
    let pool = pool.release();
    // SAFETY: the chunk was just allocated, in the only call of this function.
    unsafe { arch::boot::map_early_linear(pool) };
    // SAFETY: the chunk was just allocated and mapped, and is zeroed here; the linear map will keep it
    // mapped.
    unsafe {
        arch::memory::zero(linear::range_of(pool.range()));
        table_frames::init(pool, &layout.lowmem);
    }
    Ok(())
}

/// Maps the image's sections with the permissions that they have in the early tables.
fn map_image() -> Result<(), InitError> {
    for section in arch::boot::sections() {
        let mapping = match section.kind {
            SectionKind::Text => Mapping::code(),
            SectionKind::Rodata => Mapping::read_only(MemoryType::WriteBack),
            SectionKind::Data | SectionKind::Stack => Mapping::read_write(MemoryType::WriteBack),
        };
        let phys = AddrRange::new(section.phys, section.phys + section.virt.len());
        // Pages only, as in the early tables: the block size of the running code's mapping must not change
        // without break-before-make.
        // SAFETY: the image owns its addresses and frames; the early mappings are write-back too.
        unsafe { kernel_tables::map(section.virt.start(), Chunk::of_range(phys), mapping.pages_only()) }?;
    }
    Ok(())
}

/// Installs `root`, which [`init_cpu`] returned for this CPU, in TTBR1. The early mappings (UART, device
/// tree) are gone afterwards.
pub fn activate(root: CpuRoot) {
    assert_eq!(root.cpu, arch::cpu::index(), "the root table of another CPU");
    // SAFETY: neither the kernel's tables nor a CPU's root table are ever freed, and `init` mapped the whole
    // image, including this stack.
    unsafe { arch::mmu::replace_ttbr1(root.address) };
}

/// The root table for one CPU's TTBR1. It links the kernel's tables and the tables of the CPU's windows.
#[derive(Clone, Copy, Debug)]
pub struct CpuRoot {
    cpu: usize,
    address: PhysAddr,
}

impl CpuRoot {
    /// The address of the table.
    pub fn address(self) -> PhysAddr {
        self.address
    }
}

/// Allocates the window tables and the root table of CPU `cpu`. Called once per CPU before it runs.
///
/// # Errors
/// [`InitError::OutOfTables`].
pub fn init_cpu(cpu: usize) -> Result<CpuRoot, InitError> {
    Ok(CpuRoot { cpu, address: window::init_cpu(cpu)? })
}
