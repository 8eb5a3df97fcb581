//! Memory: which RAM there is, who gets which frame, and how the kernel reaches it.
//!
//! `doc/memory-map.md` draws it.

pub mod early_device;
pub mod heap;
mod heap_cache;
pub mod kernel_tables;
pub mod layout;
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

/// Of lowmem, one part in this many is never given to buffers and programs that could as well be in highmem: the kernel
/// has nowhere else to go.
const KERNEL_RESERVE_DIVISOR: u64 = 8;

static LAYOUT: Once<Layout> = Once::new();

/// What the boot arguments say about memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// `lowmem=`
    pub lowmem: Option<u64>,
    /// `vmalloc=`
    pub vmalloc: Option<u64>,
}

/// Why memory cannot be set up.
#[derive(Debug)]
pub enum InitError {
    /// RAM cannot be divided.
    Layout(LayoutError),
    /// `vmalloc=` is too small or too large.
    Vmalloc(u64),
    /// Lowmem has no run of that many free bytes for the first tables.
    NoPool(u64),
    /// The first tables do not fit into what was set aside for them: a miscount of ours.
    OutOfTables(OutOfTables),
    /// The same, later on.
    Map(MapError<KernelVa>),
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(error) => error.fmt(f),
            Self::Vmalloc(bytes) => {
                let (least, most) = VMALLOC_LIMITS.into_inner();
                write!(f, "vmalloc={bytes:#x}: at least {} and at most {}", Size(least), Size(most))
            }
            Self::NoPool(bytes) => {
                write!(f, "lowmem has no {} in a row for the first page tables", Size(*bytes))
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

/// Divides RAM, sets the zones up and builds the kernel's tables. [`init_cpu`] and [`activate`] start using them.
///
/// `reserved` is everything in RAM that somebody has already, the image included.
///
/// # Safety
/// `ram` is RAM, and nothing but `reserved` of it is in use. Called once.
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
    // SAFETY: the layout's free ranges are the caller's `ram` without `reserved`, each address in one of them.
    unsafe { zones::init(layout.low_end, layout.low_free.iter().chain(&layout.high_free).copied()) };
    zones::set_reserve(layout.lowmem_bytes() / PAGE_SIZE / KERNEL_RESERVE_DIVISOR);
    alloc_table_pool(layout)?;
    kernel_tables::init()?;
    map_image()?;
    // The image is not in the linear map: its text would be writable there.
    // SAFETY: `lowmem` is a part of the caller's `ram`; all other mappings of it are write-back too.
    unsafe { linear::init(layout::subtract(&layout.lowmem, &[boot.image]).into_iter()) }?;
    kernel_tables::fix_root(vmalloc::init(vmalloc))?;
    Ok(())
}

/// How RAM was divided.
pub fn layout() -> &'static Layout {
    match LAYOUT.get() {
        Some(layout) => layout,
        None => panic!("memory is not set up"),
    }
}

/// Sets frames aside for the first tables, and maps them where the linear map will have them.
fn alloc_table_pool(layout: &Layout) -> Result<(), InitError> {
    let bytes = table_frames::pool_bytes(&layout.lowmem);
    let order = Order::covering(bytes.div_ceil(PAGE_SIZE)).unwrap_or(Order::MAX).max(Order::BLOCK_2M);
    let pool = zones::alloc(order, Reach::LOW).ok_or(InitError::NoPool(order.bytes()))?;
    let pool = pool.release();
    arch::boot::map_early_linear(pool);
    // SAFETY: the chunk was just taken from the zones and mapped, and is zeroed; the linear map will keep it mapped.
    unsafe {
        arch::memory::zero(linear::range_of(pool.range()));
        table_frames::init(pool, &layout.lowmem);
    }
    Ok(())
}

/// Maps the image's parts, each with its own rights, as they are mapped already in the first tables.
fn map_image() -> Result<(), InitError> {
    for section in arch::boot::sections() {
        let mapping = match section.kind {
            SectionKind::Text => Mapping::code(),
            SectionKind::Rodata => Mapping::read_only(MemoryType::WriteBack),
            SectionKind::Data | SectionKind::Stack => Mapping::read_write(MemoryType::WriteBack),
        };
        let phys = AddrRange::new(section.phys, section.phys + section.virt.len());
        // Pages only: the tables in use map the same pages, so that no size changes under the running code.
        // SAFETY: the image owns its addresses and frames; the mappings in use are write-back too.
        unsafe { kernel_tables::map(section.virt.start(), Chunk::of_range(phys), mapping.pages_only()) }?;
    }
    Ok(())
}

/// Switches this CPU to `root`, which [`init_cpu`] made for it. Boot's early mappings (UART, device tree) end here.
pub fn activate(root: CpuRoot) {
    assert_eq!(root.cpu, arch::cpu::index(), "a root of another CPU has that CPU's windows");
    // SAFETY: neither the kernel's tables nor a CPU's root are ever freed, and `init` mapped the whole image, this stack
    // included.
    unsafe { arch::mmu::replace_ttbr1(root.address) };
}

/// The root table for one CPU's TTBR1: the kernel's tables, and the CPU's windows.
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

/// Makes the windows of CPU `cpu`, and its root table. Called once per CPU before it runs.
///
/// # Errors
/// [`InitError::OutOfTables`].
pub fn init_cpu(cpu: usize) -> Result<CpuRoot, InitError> {
    Ok(CpuRoot { cpu, address: window::init_cpu(cpu)? })
}
