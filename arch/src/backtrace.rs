//! Who called whom, by the chain of frame records (AAPCS64, 6.4.6). The kernel is built with frame pointers, and a
//! TrapFrame holds a record too, so a walk goes on through exceptions.

/// Longer chains are taken for a loop.
const MOST_FRAMES: usize = 64;

/// The return addresses from the caller's own outward. Never faults: each record is looked up in the tables
/// before it is read. Inlined, since the walk is lazy and must start at a frame that is still there.
#[inline(always)]
pub fn here() -> impl Iterator<Item = u64> {
    walk(target::frame_pointer(), target::read)
}

/// As [`here`], but only to where the kernel was interrupted, if it was: what was interrupted called nobody.
#[inline(always)]
pub fn since_interrupt() -> impl Iterator<Item = u64> {
    here().take_while(|&link| link != target::interrupt_return())
}

/// The return addresses from the frame record at `record` outward; for an exception's frame start with
/// its `x[29]`, and print its `elr` first.
pub fn from(record: u64) -> impl Iterator<Item = u64> {
    walk(record, target::read)
}

/// Follows the records that `read` finds; ends at one that is 0, misaligned, or unreadable.
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
    frames.take(MOST_FRAMES)
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

    /// Where the handler of an interrupt that the kernel had returns to.
    #[inline]
    pub fn interrupt_return() -> u64 {
        (&raw const irq_from_kernel_return) as u64
    }

    /// The word at `at`, if that is ordinary memory that the kernel can read.
    pub fn read(at: u64) -> Option<u64> {
        let found = translate_kernel(KernelVa::new(at))?;
        // SAFETY: mapped and readable by the line above, aligned by `walk`, and not Device, so reading changes
        // nothing; volatile, since it may be anything by now.
        (found.attributes == Translation::WRITE_BACK).then(|| unsafe { (at as *const u64).read_volatile() })
    }
}

#[cfg(not(target_os = "none"))]
mod target {
    /// A host's own frames are not the kernel's business.
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
    fn a_chain_ends_at_zero() {
        let memory = [(0x100, 0x200), (0x108, 11), (0x200, 0x300), (0x208, 22), (0x300, 0), (0x308, 33)];
        assert_eq!(addresses(&memory, 0x100), [11, 22, 33]);
    }

    #[test]
    fn a_program_s_record_of_zeroes_ends_it() {
        assert_eq!(addresses(&[(0x100, 0), (0x108, 0)], 0x100), []);
    }

    #[test]
    fn damage_ends_it_too() {
        assert_eq!(addresses(&[(0x100, 0x201), (0x108, 11)], 0x100), [11]);
        assert_eq!(addresses(&[(0x100, 0x9000), (0x108, 11)], 0x100), [11]);
        assert_eq!(addresses(&[(0x100, 0x100), (0x108, 11)], 0x100).len(), MOST_FRAMES);
    }
}
