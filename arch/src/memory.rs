//! Zeroing and copying of memory, and `memcpy` and `memset`, called by compiled code (`memory.s`). The
//! versions of `compiler_builtins` for this target access single bytes, since the target does not allow
//! unaligned accesses.
//!
//! [`zero`] uses the first of these methods that all CPUs support:
//!
//! 1. SETP/SETM/SETE, if ID_AA64ISAR2_EL1.MOPS is not 0 and the instructions execute. They are UNDEFINED
//!    while HCRX_EL2.MSCEn is 0. A kernel that was entered at EL1 cannot access that register, so it
//!    executes a set of 0 bytes as a probe.
//! 2. DC ZVA, if DCZID_EL0.DZP is 0. The block size is 4 bytes to 2 KiB (DCZID_EL0.BS).
//! 3. SIMD stores.
//!
//! [`copy`] uses CPYFP/CPYFM/CPYFE under the condition of the first, else `memcpy`.
//!
//! All methods require Normal memory; cacheability does not matter. DC ZVA behaves as a set of stores to the
//! block and takes an Alignment fault only on Device memory (C5.3, DC ZVA), as all memory is while the MMU is
//! off.

use addr::{AddrRange, Address, KernelVa};

/// A method to zero memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZeroMethod {
    /// SETP, SETM, SETE.
    MemorySet,
    /// DC ZVA.
    Blocks {
        /// Block size in bytes, a power of two.
        bytes: u64,
    },
    /// ST1 of four SIMD registers.
    Stores,
}

impl ZeroMethod {
    /// The method for CPUs with (`memory_set`) or without FEAT_MOPS, and a DC ZVA block of `block` bytes, 0
    /// for none.
    #[cfg_attr(not(any(target_os = "none", test)), expect(dead_code, reason = "a host has no ID registers"))]
    #[inline]
    fn select(memory_set: bool, block: u64) -> Self {
        match (memory_set, block) {
            (true, _) => Self::MemorySet,
            (false, 0) => Self::Stores,
            (false, bytes) => Self::Blocks { bytes },
        }
    }

    /// Fills `range` with zeros by this method.
    ///
    /// # Safety
    /// As for [`zero`]; in addition, all CPUs support the method ([`supported`]).
    pub unsafe fn zero(self, range: AddrRange<KernelVa>) {
        // SAFETY: the caller's promise.
        unsafe { target::zero_by(self, range) }
    }
}

/// Fills `range` with zeros, without barrier and cache maintenance: other observers see ordinary stores.
///
/// # Safety
/// `range` is mapped writable as Normal memory, and there is no other reference to it.
#[inline]
pub unsafe fn zero(range: AddrRange<KernelVa>) {
    // SAFETY: the caller's promise.
    unsafe { target::zero(range) };
}

/// Copies `bytes` bytes, without barrier and cache maintenance. For copies of pages: for a few bytes a
/// `memcpy` is shorter.
///
/// # Safety
/// Both ranges are mapped as Normal memory, that at `to` writable and without another user. They do not
/// overlap. Programs and devices may write the other meanwhile; the copy has any of the bytes.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { target::copy(from, to, bytes) };
}

/// The methods that all CPUs support, in order of preference; [`zero`] uses the first.
pub fn supported() -> impl Iterator<Item = ZeroMethod> {
    let (memory_set, block) = target::features();
    let methods = [
        memory_set.then_some(ZeroMethod::MemorySet),
        (block != 0).then_some(ZeroMethod::Blocks { bytes: block }),
        Some(ZeroMethod::Stores),
    ];
    methods.into_iter().flatten()
}

/// The DC ZVA block size in bytes (DCZID_EL0, D24.2); 0 if DZP prohibits the instruction or BS is reserved.
#[cfg_attr(not(any(target_os = "none", test)), expect(dead_code, reason = "a host has no ID registers"))]
fn block_bytes(dczid: u64) -> u64 {
    const DZP: u64 = 1 << 4;
    const LARGEST: u64 = 9;
    let log2_words = dczid & 0xf;
    if dczid & DZP != 0 || log2_words > LARGEST { 0 } else { 4 << log2_words }
}

/// Splits `range` into the part before the first aligned block of `bytes`, the whole blocks, and the rest.
#[cfg_attr(not(any(target_os = "none", test)), expect(dead_code, reason = "a host writes bytes"))]
#[inline]
fn whole_blocks(range: AddrRange<KernelVa>, bytes: u64) -> [AddrRange<KernelVa>; 3] {
    let (start, end) = (range.start().raw().next_multiple_of(bytes), range.end().align_down(bytes).raw());
    let (start, end) = if start < end { (start, end) } else { (range.end().raw(), range.end().raw()) };
    let (start, end) = (KernelVa::new(start), KernelVa::new(end));
    [AddrRange::new(range.start(), start), AddrRange::new(start, end), AddrRange::new(end, range.end())]
}

#[cfg(target_os = "none")]
mod target {
    use super::*;
    use crate::cpu::{self, CpuFeatures};
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    core::arch::global_asm!(include_str!("memory.s"), options(raw));

    unsafe extern "C" {
        fn zero_by_memory_set(start: u64, bytes: u64);
        fn zero_by_memory_set_other_option(start: u64, bytes: u64, at_epilogue: u64);
        fn zero_by_blocks(start: u64, bytes: u64, block: u64);
        fn copy_by_memory_copy(to: *mut u8, from: *const u8, bytes: usize);
        fn zero_by_stores(start: u64, end: u64);
    }

    /// The DC ZVA block size of all CPUs in bytes; 0 if a CPU prohibits the instruction or the sizes differ.
    static BLOCK: AtomicU64 = AtomicU64::new(0);

    /// Sets the block size on the boot CPU, which must be first; on another CPU, sets it to 0 if this CPU's
    /// differs. Must precede the first use of [`zero`](super::zero) on this CPU and the first migration of a
    /// thread.
    pub(crate) fn detect(index: usize) {
        let own = block_bytes(dczid());
        if index == 0 {
            BLOCK.store(own, Relaxed);
        } else if BLOCK.load(Relaxed) != own {
            BLOCK.store(0, Relaxed);
        }
    }

    fn dczid() -> u64 {
        let value: u64;
        // SAFETY: reads an ID register.
        unsafe {
            core::arch::asm!("mrs {}, dczid_el0", out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }

    /// FEAT_MOPS, and the DC ZVA block size.
    #[inline]
    pub(super) fn features() -> (bool, u64) {
        (cpu::features().contains(CpuFeatures::MOPS), BLOCK.load(Relaxed))
    }

    #[inline]
    pub(super) unsafe fn zero(range: AddrRange<KernelVa>) {
        let (memory_set, block) = features();
        // SAFETY: the caller's promise; all CPUs support the method.
        unsafe { zero_by(ZeroMethod::select(memory_set, block), range) }
    }

    #[inline]
    pub(super) unsafe fn zero_by(method: ZeroMethod, range: AddrRange<KernelVa>) {
        // SAFETY: parts of the caller's range, aligned to the blocks.
        unsafe {
            match method {
                ZeroMethod::MemorySet => zero_by_memory_set(range.start().raw(), range.len()),
                ZeroMethod::Blocks { bytes } => {
                    by_blocks(range, bytes, |whole| zero_by_blocks(whole.start().raw(), whole.len(), bytes));
                }
                ZeroMethod::Stores => {
                    by_blocks(range, 64, |whole| zero_by_stores(whole.start().raw(), whole.end().raw()));
                }
            }
        }
    }

    #[inline]
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
        // SAFETY: the caller's promise; all CPUs have FEAT_MOPS. `memcpy` is a function in assembly too.
        unsafe {
            if cpu::features().contains(CpuFeatures::MOPS) {
                copy_by_memory_copy(to, from, bytes);
            } else {
                core::ptr::copy_nonoverlapping(from, to, bytes);
            }
        }
    }

    /// Zeroes the whole blocks of `range` by `blocks` and the rest by `memset`.
    ///
    /// # Safety
    /// As for [`super::zero`].
    #[inline]
    unsafe fn by_blocks(range: AddrRange<KernelVa>, bytes: u64, blocks: impl FnOnce(AddrRange<KernelVa>)) {
        let [before, whole, after] = whole_blocks(range, bytes);
        for rest in [before, after] {
            if !rest.is_empty() {
                // SAFETY: a part of the caller's range.
                unsafe { core::ptr::write_bytes(rest.start().raw() as *mut u8, 0, rest.len() as usize) };
            }
        }
        blocks(whole);
    }

    /// Zeroes `range` by [`ZeroMethod::MemorySet`] as a thread does that migrates after SETP from a CPU of
    /// the other option; it resumes at SETE if `at_epilogue`, else at SETM. For the self-test of the
    /// exception ([`MemoryOperation`](crate::exception::MemoryOperation)).
    ///
    /// # Safety
    /// As for [`ZeroMethod::zero`].
    pub unsafe fn zero_from_other_option(range: AddrRange<KernelVa>, at_epilogue: bool) {
        // SAFETY: the caller's promise.
        unsafe { zero_by_memory_set_other_option(range.start().raw(), range.len(), at_epilogue.into()) }
    }
}

#[cfg(not(target_os = "none"))]
mod target {
    use super::*;
    use crate::fake::{Instruction, record};
    use crate::pointer;

    pub(super) fn features() -> (bool, u64) {
        (false, 0)
    }

    pub(super) unsafe fn zero_by(_: ZeroMethod, range: AddrRange<KernelVa>) {
        // SAFETY: the caller's promise.
        unsafe { zero(range) }
    }

    pub(super) unsafe fn zero(range: AddrRange<KernelVa>) {
        record(Instruction::Zero(range));
        let mut at = range.start();
        while at < range.end() {
            let end = range.end().min(at.align_down(addr::PAGE_SIZE) + addr::PAGE_SIZE);
            // SAFETY: a part of the caller's range, which is writable on a host too; it is in one page.
            unsafe { core::ptr::write_bytes(pointer::to::<u8>(at), 0, (end.raw() - at.raw()) as usize) }
            at = end;
        }
    }

    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::copy_nonoverlapping(from, to, bytes) };
    }

    /// [`zero`](super::zero) on a host.
    ///
    /// # Safety
    /// As for [`super::zero`].
    pub unsafe fn zero_from_other_option(range: AddrRange<KernelVa>, _: bool) {
        // SAFETY: the caller's promise.
        unsafe { zero(range) }
    }
}

#[cfg(target_os = "none")]
pub(crate) use target::detect;
pub use target::zero_from_other_option;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Instruction};
    use std::vec::Vec;

    fn range(start: u64, end: u64) -> AddrRange<KernelVa> {
        AddrRange::new(KernelVa::new(start), KernelVa::new(end))
    }

    #[test]
    fn memory_set_is_preferred_to_blocks_and_blocks_to_stores() {
        assert_eq!(ZeroMethod::select(true, 64), ZeroMethod::MemorySet);
        assert_eq!(ZeroMethod::select(true, 0), ZeroMethod::MemorySet);
        assert_eq!(ZeroMethod::select(false, 64), ZeroMethod::Blocks { bytes: 64 });
        assert_eq!(ZeroMethod::select(false, 0), ZeroMethod::Stores);
    }

    #[test]
    fn dczid_is_decoded() {
        let cases = [(0, 4), (4, 64), (5, 128), (9, 2048), (0x14, 0), (0x10, 0), (10, 0)];
        for (dczid, bytes) in cases {
            assert_eq!(block_bytes(dczid), bytes, "{dczid:#x}");
        }
    }

    #[test]
    fn whole_blocks_are_aligned_and_inside() {
        for (start, end, bytes, expected) in [
            (0x1000, 0x2000, 64, range(0x1000, 0x2000)),
            (0x1001, 0x2000, 64, range(0x1040, 0x2000)),
            (0x1000, 0x1fff, 2048, range(0x1000, 0x1800)),
            (0x1001, 0x103f, 64, range(0x103f, 0x103f)),
            (0x103f, 0x1041, 64, range(0x1041, 0x1041)),
            (0x1040, 0x1040, 64, range(0x1040, 0x1040)),
            (0x1001, 0x1003, 4, range(0x1003, 0x1003)),
        ] {
            let all = range(start, end);
            let [before, whole, after] = whole_blocks(all, bytes);
            assert_eq!(whole, expected, "{all:?} in blocks of {bytes}");
            assert_eq!((before.start(), before.end()), (all.start(), whole.start()));
            assert_eq!((after.start(), after.end()), (whole.end(), all.end()));
        }
    }

    #[test]
    fn stores_are_always_supported() {
        assert_eq!(supported().collect::<Vec<_>>(), [ZeroMethod::Stores]);
    }

    #[test]
    fn zero_leaves_neighbours_unchanged() {
        let mut memory = [0xff_u8; 300];
        let start = KernelVa::new(memory.as_mut_ptr() as u64);
        let some = AddrRange::new(start + 3, start + 290);
        // SAFETY: a part of `memory`.
        unsafe { zero(some) };
        assert!(memory[3..290].iter().all(|byte| *byte == 0));
        assert_eq!((memory[2], memory[290]), (0xff, 0xff));
        assert_eq!(fake::take(), [Instruction::Zero(some)]);
    }
}
