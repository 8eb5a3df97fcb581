//! Kernel mappings outside of the linear map: kernel views of scattered buffers (vmalloc, of limited size),
//! stacks, and device registers. Each has an area of its own, in which a guard page follows every mapping.

use crate::debug::{self, FailPoint};
use crate::memory::kernel_tables;
use crate::perf_counters::{Gauge, Reading};
use crate::sync::SpinLock;
use addr::{AddrRange, Address, Chunk, KernelVa, MemoryType, PAGE_SIZE, PhysAddr};
use core::fmt;
use memory::{RangeAllocator, RangeError};
use pagetable::{MapError, Mapping};

/// A mapping cannot be created.
#[derive(Debug)]
pub enum VmallocError {
    /// The area has no free range of this length.
    OutOfRange(RangeError<KernelVa>),
    /// No frame for a page table.
    Map(MapError<KernelVa>),
}

/// A device's registers cannot be mapped.
#[derive(Debug)]
pub enum MapRegistersError {
    /// The mapping cannot be created.
    Map(VmallocError),
    /// According to the device tree, the registers are in RAM.
    Ram(PhysAddr),
    /// No device responds at this address from the device tree.
    NoResponse(PhysAddr),
}

impl fmt::Display for MapRegistersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => write!(f, "registers: {error:?}"),
            Self::Ram(at) => write!(f, "registers at {at} are in RAM"),
            Self::NoResponse(at) => write!(f, "no device responds at {at}"),
        }
    }
}

/// An address range of the kernel half, with an allocator.
pub struct KernelArea {
    start: KernelVa,
    ranges: SpinLock<Option<RangeAllocator<KernelVa>>>,
    used: Gauge,
}

const VMALLOC_START: KernelVa = KernelVa::new(0xffff_9000_0000_0000);
const STACKS_START: KernelVa = KernelVa::new(0xffff_9800_0000_0000);

/// Kernel views of buffers.
pub static VMALLOC: KernelArea = KernelArea::new(VMALLOC_START);
/// Kernel stacks.
pub static STACKS: KernelArea = KernelArea::new(STACKS_START);
/// Device registers and other permanent mappings.
pub static REGISTERS: KernelArea = KernelArea::new(KernelVa::new(0xffff_a000_0000_0000));

/// The limits of `vmalloc=`: one page and its guard page, and the start of the stacks' area.
pub const VMALLOC_LIMITS: core::ops::RangeInclusive<u64> =
    2 * PAGE_SIZE..=STACKS_START.raw() - VMALLOC_START.raw();
/// The default of `vmalloc=`.
pub const VMALLOC_DEFAULT: u64 = 512 << 20;
/// The size of the stacks' area: about 100 000 stacks of 16 KiB, each followed by a guard page.
const STACKS_BYTES: u64 = 2 << 30;
/// The size of the registers' area. Each ECAM alone takes 256 MiB.
const REGISTERS_BYTES: u64 = 64 << 30;

/// Initializes the areas and returns their ranges. `vmalloc` is the size of [`VMALLOC`] in bytes.
pub fn init(vmalloc: u64) -> [AddrRange<KernelVa>; 3] {
    [(&VMALLOC, vmalloc), (&STACKS, STACKS_BYTES), (&REGISTERS, REGISTERS_BYTES)]
        .map(|(area, bytes)| area.init(bytes))
}

impl KernelArea {
    const fn new(start: KernelVa) -> Self {
        Self { start, ranges: SpinLock::new(None), used: Gauge::new() }
    }

    fn init(&self, bytes: u64) -> AddrRange<KernelVa> {
        let space = AddrRange::new(self.start, self.start + bytes);
        *self.ranges.lock() = Some(RangeAllocator::with_guard(space, PAGE_SIZE));
        space
    }

    /// Maps `chunks` contiguously, in order, at an address of this area that is a multiple of `align`.
    ///
    /// # Safety
    /// The caller owns `chunks`, or has the right to map them (a borrow, device registers), until the mapping
    /// is dropped. No mapping of them has another memory type.
    pub unsafe fn map(
        &'static self,
        chunks: impl Iterator<Item = Chunk> + Clone,
        align: u64,
        mapping: Mapping,
    ) -> Result<KernelMapping, VmallocError> {
        let len = chunks.clone().map(Chunk::bytes).sum();
        // Dropped on an error, which frees the range.
        let mut guard = KernelMapping { area: self, range: self.reserve(len, align)?, mapped: false };
        if debug::fail_point(FailPoint::Maps) {
            return Err(VmallocError::Map(MapError::OutOfTables));
        }
        // SAFETY: passed on to the caller; the addresses were just reserved.
        unsafe { kernel_tables::map(guard.range.start(), chunks, mapping) }.map_err(VmallocError::Map)?;
        guard.mapped = true;
        Ok(guard)
    }

    fn reserve(&self, len: u64, align: u64) -> Result<AddrRange<KernelVa>, VmallocError> {
        let highest = KernelVa::new(u64::MAX);
        if debug::fail_point(FailPoint::Vmalloc) {
            return Err(VmallocError::OutOfRange(RangeError::OutOfRange { len, highest }));
        }
        let range = self.with(|ranges| ranges.alloc(len, align, highest));
        let range = range.map_err(VmallocError::OutOfRange)?;
        self.used.add(len);
        Ok(range)
    }

    fn free(&self, range: AddrRange<KernelVa>) {
        self.used.sub(range.len());
        if let Err(error) = self.with(|ranges| ranges.free(range)) {
            panic!("kernel range {range:?} freed: {error:?}");
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut RangeAllocator<KernelVa>) -> R) -> R {
        match self.ranges.lock().as_mut() {
            Some(ranges) => f(ranges),
            None => panic!("the kernel area at {} is not initialized", self.start),
        }
    }

    /// The size of the area in bytes.
    pub fn bytes(&self) -> u64 {
        self.ranges.lock().as_ref().map_or(0, |ranges| ranges.space().len())
    }

    /// The bytes in use.
    pub fn usage(&self) -> Reading {
        self.used.read()
    }
}

/// A mapping in a [`KernelArea`]. Dropping it unmaps it, invalidates it in the TLBs of all CPUs and frees its
/// addresses.
#[derive(Debug)]
pub struct KernelMapping {
    area: &'static KernelArea,
    range: AddrRange<KernelVa>,
    mapped: bool,
}

impl KernelMapping {
    /// The address range.
    pub fn range(&self) -> AddrRange<KernelVa> {
        self.range
    }

    /// Makes the mapping permanent.
    pub fn leak(self) -> AddrRange<KernelVa> {
        let range = self.range;
        core::mem::forget(self);
        range
    }
}

impl Drop for KernelMapping {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: this value owns the addresses, and its owner drops it, so they are not accessed again.
            unsafe { kernel_tables::unmap(self.range) };
        }
        self.area.free(self.range);
    }
}

impl core::fmt::Debug for KernelArea {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "KernelArea({})", self.start)
    }
}

/// Maps a device's registers permanently, as Device memory, and returns their range. Reads the first register
/// to detect a missing device, so the kernel's own page tables must be in use.
///
/// # Safety
/// The caller is the driver of a device that has `registers`, and a read of the first has no side effect.
pub unsafe fn map_registers(
    registers: AddrRange<PhysAddr>,
) -> Result<AddrRange<KernelVa>, MapRegistersError> {
    // SAFETY: passed on to the caller.
    unsafe { probe(map(registers, MemoryType::Device)?, registers) }
}

/// [`map_registers`] as Device-nGnRnE memory, for PCIe configuration space: its writes are non-posted (PCIe
/// 5.0, 7.2.2), so nothing on the way may acknowledge them in place of the function.
///
/// # Safety
/// As for [`map_registers`].
pub unsafe fn map_non_posted_registers(
    registers: AddrRange<PhysAddr>,
) -> Result<AddrRange<KernelVa>, MapRegistersError> {
    // SAFETY: passed on to the caller.
    unsafe { probe(map(registers, MemoryType::DeviceNonPosted)?, registers) }
}

/// Reads the first of `registers`, mapped at `at`.
///
/// # Safety
/// As for [`map_registers`].
unsafe fn probe(
    at: AddrRange<KernelVa>,
    registers: AddrRange<PhysAddr>,
) -> Result<AddrRange<KernelVa>, MapRegistersError> {
    // SAFETY: a device's register, passed on to the caller; no RAM, as `map` has checked.
    match unsafe { arch::probe::read_u32(at.start().align_down(4)) } {
        Some(_) => Ok(at),
        None => Err(MapRegistersError::NoResponse(registers.start())),
    }
}

/// Maps the registers of a device that is known to exist; see [`map_registers`].
pub fn map_known_registers(registers: AddrRange<PhysAddr>) -> Result<AddrRange<KernelVa>, MapRegistersError> {
    map(registers, MemoryType::Device)
}

/// Maps the pages of registers until the result is dropped. All other mappings of them have this memory type.
///
/// # Errors
/// [`MapRegistersError::Ram`], [`MapRegistersError::Map`].
pub fn map_registers_for_access(
    registers: AddrRange<PhysAddr>,
    memory: MemoryType,
) -> Result<KernelMapping, MapRegistersError> {
    map_pages(registers, memory)
}

fn map(registers: AddrRange<PhysAddr>, memory: MemoryType) -> Result<AddrRange<KernelVa>, MapRegistersError> {
    let at = map_pages(registers, memory)?.leak().start();
    let start = at + registers.start().raw() % PAGE_SIZE;
    Ok(AddrRange::new(start, start + registers.len()))
}

fn map_pages(registers: AddrRange<PhysAddr>, memory: MemoryType) -> Result<KernelMapping, MapRegistersError> {
    let pages = registers.align_outward(PAGE_SIZE).unwrap_or(AddrRange::EMPTY);
    if super::layout().ram.iter().any(|ram| ram.overlaps(&pages)) {
        return Err(MapRegistersError::Ram(registers.start()));
    }
    let mapping = Mapping::read_write(memory);
    // SAFETY: the registers are not RAM (just checked), so they have no owner and no other memory type.
    let mapped = unsafe { REGISTERS.map(Chunk::of_range(pages), PAGE_SIZE, mapping) };
    mapped.map_err(MapRegistersError::Map)
}
