//! Kernel addresses for what the linear map does not have: kernel views of scattered buffers (vmalloc proper, with
//! a limit), stacks, and device registers. Each is an area of its own, and after each mapping in it there is a page
//! that is never mapped.

use crate::debug::{self, FailPoint};
use crate::memory::kernel_tables;
use crate::sync::SpinLock;
use addr::{AddrRange, Address, Chunk, KernelVa, MemoryType, PAGE_SIZE, PhysAddr};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use memory::{RangeAllocator, RangeError};
use pagetable::{MapError, Mapping};

/// Why there is no such mapping.
#[derive(Debug)]
pub enum VmallocError {
    /// No range of that many bytes is left.
    OutOfRange(RangeError<KernelVa>),
    /// No frame is left for a page table.
    Map(MapError<KernelVa>),
}

/// Why a device's registers cannot be used.
#[derive(Debug)]
pub enum MapRegistersError {
    /// They cannot be mapped.
    Map(VmallocError),
    /// The registers lie in RAM, according to the device tree.
    Ram(PhysAddr),
    /// No device answers at the address that the device tree gives.
    NoAnswer(PhysAddr),
}

impl fmt::Display for MapRegistersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => write!(f, "registers: {error:?}"),
            Self::Ram(at) => write!(f, "registers at {at} lie in RAM"),
            Self::NoAnswer(at) => write!(f, "no device answers at {at}"),
        }
    }
}

/// A part of the kernel's half and who has what in it.
pub struct KernelArea {
    start: KernelVa,
    ranges: SpinLock<Option<RangeAllocator<KernelVa>>>,
    used: AtomicU64,
    peak: AtomicU64,
}

const VMALLOC_START: KernelVa = KernelVa::new(0xffff_9000_0000_0000);
const STACKS_START: KernelVa = KernelVa::new(0xffff_9800_0000_0000);

/// Kernel views of buffers.
pub static VMALLOC: KernelArea = KernelArea::new(VMALLOC_START);
/// Kernel stacks.
pub static STACKS: KernelArea = KernelArea::new(STACKS_START);
/// Device registers, and other things that stay for good.
pub static REGISTERS: KernelArea = KernelArea::new(KernelVa::new(0xffff_a000_0000_0000));

/// The least and the most that `vmalloc=` can be: a page with its gap, and up to the stacks.
pub const VMALLOC_LIMITS: core::ops::RangeInclusive<u64> =
    2 * PAGE_SIZE..=STACKS_START.raw() - VMALLOC_START.raw();
/// What `vmalloc=` is when nobody says.
pub const VMALLOC_DEFAULT: u64 = 512 << 20;
/// Stacks: 64 Ki threads of 16 KiB.
const STACKS_BYTES: u64 = 2 << 30;
/// ECAM windows alone take 256 MiB each.
const REGISTERS_BYTES: u64 = 64 << 30;

/// Sets the areas up, and says where they are; `vmalloc` is the size of the first one in bytes.
pub fn init(vmalloc: u64) -> [AddrRange<KernelVa>; 3] {
    [(&VMALLOC, vmalloc), (&STACKS, STACKS_BYTES), (&REGISTERS, REGISTERS_BYTES)]
        .map(|(area, bytes)| area.init(bytes))
}

impl KernelArea {
    const fn new(start: KernelVa) -> Self {
        let (used, peak) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { start, ranges: SpinLock::new(None), used, peak }
    }

    fn init(&self, bytes: u64) -> AddrRange<KernelVa> {
        let space = AddrRange::new(self.start, self.start + bytes);
        *self.ranges.lock() = Some(RangeAllocator::with_guard(space, PAGE_SIZE));
        space
    }

    /// Maps `chunks` one after the other at an address of this area that is a multiple of `align`.
    ///
    /// # Safety
    /// The caller owns `chunks`, or has the right to map them (a borrow, device registers), until the mapping is dropped.
    /// No mapping of them has another memory type.
    pub unsafe fn map(
        &'static self,
        chunks: impl Iterator<Item = Chunk> + Clone,
        align: u64,
        mapping: Mapping,
    ) -> Result<KernelMapping, VmallocError> {
        let len = chunks.clone().map(Chunk::bytes).sum();
        // The guard gives the range back when mapping fails.
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
        let now = self.used.fetch_add(len, Ordering::Relaxed) + len;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(range)
    }

    fn free(&self, range: AddrRange<KernelVa>) {
        self.used.fetch_sub(range.len(), Ordering::Relaxed);
        if let Err(error) = self.with(|ranges| ranges.free(range)) {
            panic!("kernel range {range:?} freed: {error:?}");
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut RangeAllocator<KernelVa>) -> R) -> R {
        match self.ranges.lock().as_mut() {
            Some(ranges) => f(ranges),
            None => panic!("area {} is not set up", self.start),
        }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.ranges.lock().as_ref().map_or(0, |ranges| ranges.space().len())
    }

    /// Bytes in use now, and the most there were.
    pub fn usage(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }
}

/// A mapping in an [`KernelArea`]; dropped, it is gone from all CPUs and its addresses are free.
#[derive(Debug)]
pub struct KernelMapping {
    area: &'static KernelArea,
    range: AddrRange<KernelVa>,
    mapped: bool,
}

impl KernelMapping {
    /// The addresses.
    pub fn range(&self) -> AddrRange<KernelVa> {
        self.range
    }

    /// Keeps it for good.
    pub fn leak(self) -> AddrRange<KernelVa> {
        let range = self.range;
        core::mem::forget(self);
        range
    }
}

impl Drop for KernelMapping {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: this value owns the addresses, and its owner, who used them, drops it.
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

/// Maps a device's registers permanently, as Device memory, and returns their address. Reads the first of them to detect
/// a device that does not exist, so the kernel's own tables must be in use.
pub fn map_registers(registers: AddrRange<PhysAddr>) -> Result<AddrRange<KernelVa>, MapRegistersError> {
    let at = map_known_registers(registers)?;
    match arch::probe::read_u32(at.start().align_down(4)) {
        Some(_) => Ok(at),
        None => Err(MapRegistersError::NoAnswer(registers.start())),
    }
}

/// Maps the registers of a device that is known to exist; see [`map_registers`].
pub fn map_known_registers(registers: AddrRange<PhysAddr>) -> Result<AddrRange<KernelVa>, MapRegistersError> {
    let pages = registers.align_outward(PAGE_SIZE).unwrap_or(AddrRange::EMPTY);
    if super::layout().ram.iter().any(|ram| ram.overlaps(&pages)) {
        return Err(MapRegistersError::Ram(registers.start()));
    }
    let mapping = Mapping::read_write(MemoryType::Device);
    // SAFETY: registers are no RAM (just checked), so they have no owner and no other memory type.
    let mapped = unsafe { REGISTERS.map(Chunk::of_range(pages), PAGE_SIZE, mapping) };
    let at = mapped.map_err(MapRegistersError::Map)?.leak().start();
    let start = at + (registers.start().raw() - pages.start().raw());
    Ok(AddrRange::new(start, start + registers.len()))
}
