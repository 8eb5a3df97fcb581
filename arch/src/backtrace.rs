//! Backtraces from the chain of frame records (AAPCS64, 6.4.6). The kernel is built with frame pointers, and
//! a `TrapFrame` contains a record, so the chain continues through exceptions.

use crate::exception::TrapFrame;

/// The limit of frames in a backtrace. A longer chain is assumed to be a loop.
const MAX_FRAMES: usize = 64;

/// The return addresses from the caller's own outward. Never faults: the address of each record is translated
/// before the record is read. Inlined, since the walk is lazy and must start at a live frame.
#[inline(always)]
pub fn here() -> impl Iterator<Item = u64> {
    walk(target::frame_pointer(), target::read)
}

/// As [`here`]; in the handler of an interrupt taken from the kernel, without the frames of the interrupted
/// code.
#[inline(always)]
pub fn since_interrupt() -> impl Iterator<Item = u64> {
    here().take_while(|&link| link != target::interrupt_return())
}

/// The address of the interrupted instruction, and the return addresses from there outward; none for a
/// program.
pub fn from_exception(frame: &TrapFrame) -> impl Iterator<Item = u64> {
    core::iter::once(frame.elr()).chain(walk(frame.caller_record(), target::read))
}

/// Follows the chain of records, read by `read`. Ends at a record address that is 0, misaligned or
/// unreadable.
fn walk(record: u64, read: impl Fn(u64) -> Option<u64>) -> impl Iterator<Item = u64> {
    let mut record = record;
    let frames = core::iter::from_fn(move || {
        if record == 0 || !record.is_multiple_of(8) {
            return None;
        }
        let (next, link) = (read(record)?, read(record + 8)?);
        record = next;
        (link != 0).then_some(link)
    });
    frames.take(MAX_FRAMES)
}

#[cfg(target_os = "none")]
mod target {
    use crate::mmu::{Translation, translate_kernel};
    use addr::KernelVa;
    use core::arch::asm;

    #[inline(always)]
    pub fn frame_pointer() -> u64 {
        let fp: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, x29", out(reg) fp, options(nomem, nostack, preserves_flags)) };
        fp
    }

    unsafe extern "C" {
        static irq_from_kernel_return: u8;
    }

    /// The return address of the handler of an interrupt taken from the kernel.
    #[inline]
    pub fn interrupt_return() -> u64 {
        (&raw const irq_from_kernel_return) as u64
    }

    /// The word at `at`, if that is write-back memory readable by the kernel.
    pub fn read(at: u64) -> Option<u64> {
        let found = translate_kernel(KernelVa::new(at))?;
        // SAFETY: mapped and readable by the line above, aligned by `walk`, and not Device memory, so the
        // read has no side effect; volatile, since other code may write it concurrently.
        (found.attributes == Translation::WRITE_BACK).then(|| unsafe { (at as *const u64).read_volatile() })
    }
}

#[cfg(not(target_os = "none"))]
mod target {
    /// No record: backtraces of a host are not taken here.
    pub fn frame_pointer() -> u64 {
        0
    }

    pub fn read(_: u64) -> Option<u64> {
        None
    }

    pub fn interrupt_return() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    fn addresses(memory: &[(u64, u64)], start: u64) -> Vec<u64> {
        let memory: BTreeMap<_, _> = memory.iter().copied().collect();
        walk(start, |at| memory.get(&at).copied()).collect()
    }

    #[test]
    fn chain_ends_at_null_frame_pointer() {
        let memory = [(0x100, 0x200), (0x108, 11), (0x200, 0x300), (0x208, 22), (0x300, 0), (0x308, 33)];
        assert_eq!(addresses(&memory, 0x100), [11, 22, 33]);
    }

    #[test]
    fn zero_return_address_ends_the_chain() {
        assert_eq!(addresses(&[(0x100, 0), (0x108, 0)], 0x100), []);
    }

    #[test]
    fn corrupt_chain_ends() {
        assert_eq!(addresses(&[(0x100, 0x201), (0x108, 11)], 0x100), [11]);
        let unaligned = [(0x100, 0x204), (0x108, 11), (0x204, 0), (0x20c, 22)];
        assert_eq!(addresses(&unaligned, 0x100), [11], "a read there would be unaligned");
        assert_eq!(addresses(&[(0x100, 0x9000), (0x108, 11)], 0x100), [11]);
        assert_eq!(addresses(&[(0x100, 0x100), (0x108, 11)], 0x100).len(), MAX_FRAMES);
    }
}
