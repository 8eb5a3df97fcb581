//! Bring-up of the secondary CPUs.

use crate::board::{CpuDescription, EnableMethod};
use crate::firmware;
use crate::memory::stack::{KernelStack, StackError};
use crate::memory::{InitError, init_cpu, layout, linear, zones};
use crate::percpu::{self, MAX_CPUS};
use addr::{AddrRange, Address, PhysAddr};
use arch::boot::SecondaryArgs;
use arch::timer::Deadline;
use core::fmt;
use drivers::poll::{TimedOut, poll_until};
use memory::OwnedChunk;
use spin::Once;

/// The timeout from the start of a CPU until it is online. It takes microseconds, but the host of a virtual
/// machine may schedule the virtual CPU late.
const START_TIMEOUT_NS: u64 = 5_000_000_000;

/// The stack of each CPU's idle thread, never freed.
static STACKS: [Once<KernelStack>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// A CPU failed to start.
enum CpuStartError {
    /// The device tree has no enable method for it, or names PSCI without a PSCI node.
    NoMethod,
    /// The spin-table word is not in reserved lowmem.
    ReleaseAddress(PhysAddr),
    /// `CPU_ON` returned an error.
    Firmware(arch::psci::Error),
    /// It was started and is not online within the timeout.
    TimedOut,
    /// No memory for its stack.
    Stack(StackError),
    /// No memory for its windows and root table.
    Memory(InitError),
}

impl fmt::Display for CpuStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethod => write!(f, "no enable method"),
            Self::ReleaseAddress(word) => write!(f, "cpu-release-addr {word} is not in reserved lowmem"),
            Self::Firmware(error) => write!(f, "CPU_ON: {error}"),
            Self::TimedOut => write!(f, "not online within {} ms", START_TIMEOUT_NS / 1_000_000),
            Self::Stack(error) => write!(f, "no stack: {error:?}"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

/// Starts all CPUs of `cpus` except this one, with indices from 1 in the order of the device tree. A CPU that
/// fails to start is ignored with a warning. Returns the number of CPUs, this one included.
pub fn start_all(cpus: &[CpuDescription]) -> usize {
    let boot = arch::cpu::affinity();
    let others = secondaries(cpus, boot);
    let count = others.clone().count() + 1;
    if count > cpus.len() {
        log::warn!("cpu {boot:#x}: the boot CPU is not in the device tree");
    }
    let mut index = 1;
    for cpu in others {
        if index == MAX_CPUS {
            log::warn!("cpu {:#x}: ignored: at most {MAX_CPUS} CPUs are supported", cpu.mpidr);
            continue;
        }
        match start_one(cpu, index) {
            Ok(()) => index += 1,
            Err(error) => {
                log::warn!("cpu {:#x}: ignored: {error}", cpu.mpidr);
                // The index is not reused: the CPU may still come online late with it.
                index += 1;
            }
        }
    }
    count
}

/// The CPUs of the device tree except `boot`, which the tree may omit.
fn secondaries(cpus: &[CpuDescription], boot: u64) -> impl Iterator<Item = &CpuDescription> + Clone {
    cpus.iter().filter(move |cpu| cpu.mpidr != boot)
}

fn start_one(cpu: &CpuDescription, index: usize) -> Result<(), CpuStartError> {
    let root = init_cpu(index).map_err(CpuStartError::Memory)?;
    let stack = KernelStack::new().map_err(CpuStartError::Stack)?;
    let args = SecondaryArgs { ttbr1: root.address(), stack_top: stack.top(), index: index as u64 };
    STACKS[index].call_once(|| stack);
    let mut page = zones::alloc_zeroed_page().ok_or(CpuStartError::Stack(StackError::OutOfFrames))?;
    write_args(&mut page, args);
    // SAFETY: `write_args` has cleaned the arguments, which stay until the CPU runs; root, stack and index
    // are this CPU's, permanently.
    unsafe { release(cpu, page.chunk().start()) }?;
    let deadline = Deadline::in_ns(START_TIMEOUT_NS);
    let online = || {
        core::hint::spin_loop();
        percpu::is_online(index).then_some(())
    };
    // After a timeout the page is not freed: the CPU may still read it.
    poll_until(|| deadline.passed(), online).map_err(|TimedOut| CpuStartError::TimedOut)?;
    zones::free(page);
    Ok(())
}

/// Starts a CPU by its enable method. It enters the kernel with `args`.
///
/// # Safety
/// As for [`arch::psci::cpu_on`] with `args` as the context.
unsafe fn release(cpu: &CpuDescription, args: PhysAddr) -> Result<(), CpuStartError> {
    match (cpu.enable_method, firmware::psci()) {
        (Some(EnableMethod::Psci), Some(firmware)) => {
            let entry = arch::boot::secondary_entry();
            // SAFETY: passed on to the caller.
            unsafe { arch::psci::cpu_on(firmware, cpu.mpidr, entry, args) }.map_err(CpuStartError::Firmware)
        }
        (Some(EnableMethod::SpinTable(word)), _) => {
            move_from_spin_table(word)?;
            // SAFETY: passed on to the caller.
            unsafe { arch::boot::release_parked(cpu.mpidr, args) };
            Ok(())
        }
        // Without firmware all CPUs enter the kernel at reset; this one waits in boot.s.
        _ if firmware::entry_level() == 3 => {
            // SAFETY: passed on to the caller.
            unsafe { arch::boot::release_parked(cpu.mpidr, args) };
            Ok(())
        }
        _ => Err(CpuStartError::NoMethod),
    }
}

/// Moves the CPU that polls the spin-table word `word`, with its caches disabled, to the kernel's own parking
/// loop.
fn move_from_spin_table(word: PhysAddr) -> Result<(), CpuStartError> {
    let layout = layout();
    let within = |ranges: &[AddrRange<PhysAddr>]| ranges.iter().any(|range| range.contains(word));
    let in_image = arch::boot::sections()
        .any(|section| AddrRange::new(section.phys, section.phys + section.virt.len()).contains(word));
    if !word.is_aligned(8) || !within(&layout.lowmem) || within(&layout.low_free) || in_image {
        return Err(CpuStartError::ReleaseAddress(word));
    }
    let at = linear::address_of(word);
    // SAFETY: aligned, in the linear map, and not in memory of the kernel: reserved by the firmware, which
    // polls it according to the device tree.
    unsafe { arch::pointer::to::<u64>(at).write_volatile(arch::boot::parking_entry().raw()) };
    arch::cache::clean(AddrRange::new(at, at + size_of::<u64>() as u64));
    arch::cpu::sev();
    Ok(())
}

/// Writes `args` to `page`, a page of lowmem, and cleans them to the point of coherency: the started CPU
/// reads them with its MMU disabled.
fn write_args(page: &mut OwnedChunk, args: SecondaryArgs) {
    let at = linear::address_of(page.chunk().start());
    // SAFETY: the page is borrowed mutably, so this is the only access; it is mapped in the linear map,
    // page-aligned.
    unsafe { arch::pointer::to::<SecondaryArgs>(at).write(args) };
    arch::cache::clean(AddrRange::new(at, at + size_of::<SecondaryArgs>() as u64));
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn boot_cpu_is_counted_once_also_without_a_node() {
        let cpu = |mpidr| CpuDescription { mpidr, enable_method: None };
        let others =
            |cpus: &[CpuDescription]| secondaries(cpus, 0x100).map(|cpu| cpu.mpidr).collect::<Vec<_>>();
        assert_eq!(others(&[cpu(0), cpu(0x100), cpu(1)]), [0, 1]);
        assert_eq!(others(&[cpu(0), cpu(1)]), [0, 1]);
        assert_eq!(start_all(&[]), 1);
    }
}
