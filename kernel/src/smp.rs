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

/// The time limit from the start of a CPU until it is online. It takes microseconds, but the host of a virtual machine may
/// not schedule the CPU at once.
const START_TIMEOUT_NS: u64 = 5_000_000_000;

/// The stack of each CPU's first thread, never freed.
static STACKS: [Once<KernelStack>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// A CPU does not run.
enum CpuStartError {
    /// The device tree names no enable method, or PSCI without describing it.
    NoMethod,
    /// The spin-table word is not in reserved lowmem.
    ReleaseAddress(PhysAddr),
    /// The firmware returned an error.
    Firmware(arch::psci::Error),
    /// It was started and did not get online in time.
    TimedOut,
    /// No memory for its stack.
    Stack(StackError),
    /// No memory for its windows and root table.
    Memory(InitError),
}

impl fmt::Display for CpuStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethod => write!(f, "no way to start it"),
            Self::ReleaseAddress(word) => write!(f, "cpu-release-addr {word} is not in reserved lowmem"),
            Self::Firmware(error) => write!(f, "CPU_ON: {error}"),
            Self::TimedOut => write!(f, "not online within {} ms", START_TIMEOUT_NS / 1_000_000),
            Self::Stack(error) => write!(f, "no stack: {error:?}"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

/// Starts every CPU of `cpus` except this one, numbered in the device tree's order after this one. A CPU that does not
/// start is left out with a warning.
pub fn start_all(cpus: &[CpuDescription]) {
    let others = cpus.iter().filter(|cpu| cpu.mpidr != arch::cpu::affinity());
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
                // Not reused: the CPU may still get online late, with this index.
                index += 1;
            }
        }
    }
}

fn start_one(cpu: &CpuDescription, index: usize) -> Result<(), CpuStartError> {
    let root = init_cpu(index).map_err(CpuStartError::Memory)?;
    let stack = KernelStack::new().map_err(CpuStartError::Stack)?;
    let args = SecondaryArgs { ttbr1: root.address(), stack_top: stack.top(), index: index as u64 };
    STACKS[index].call_once(|| stack);
    let mut page = zones::alloc_zeroed_page().ok_or(CpuStartError::Stack(StackError::OutOfFrames))?;
    write_args(&mut page, args);
    release(cpu, page.chunk().start())?;
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

/// Makes a CPU enter the kernel, with its arguments.
fn release(cpu: &CpuDescription, args: PhysAddr) -> Result<(), CpuStartError> {
    match (cpu.enable_method, firmware::psci()) {
        (Some(EnableMethod::Psci), Some(firmware)) => {
            let entry = arch::boot::secondary_entry();
            arch::psci::cpu_on(firmware, cpu.mpidr, entry, args).map_err(CpuStartError::Firmware)
        }
        (Some(EnableMethod::SpinTable(word)), _) => {
            move_from_spin_table(word)?;
            arch::boot::release_parked(cpu.mpidr, args);
            Ok(())
        }
        // Without firmware: the CPU entered the kernel together with this one, and waits in boot.s.
        _ if firmware::entry_level() == 3 => {
            arch::boot::release_parked(cpu.mpidr, args);
            Ok(())
        }
        _ => Err(CpuStartError::NoMethod),
    }
}

/// Moves the CPU that polls `word`, with its caches off, to the kernel's own parking loop.
fn move_from_spin_table(word: PhysAddr) -> Result<(), CpuStartError> {
    let layout = layout();
    let within = |ranges: &[AddrRange<PhysAddr>]| ranges.iter().any(|range| range.contains(word));
    let in_image = arch::boot::sections()
        .any(|section| AddrRange::new(section.phys, section.phys + section.virt.len()).contains(word));
    if !word.is_aligned(8) || !within(&layout.lowmem) || within(&layout.low_free) || in_image {
        return Err(CpuStartError::ReleaseAddress(word));
    }
    let at = linear::address_of(word);
    // SAFETY: aligned, in the linear map, and in none of the kernel's memory: reserved by the firmware, which by the
    // device tree polls it.
    unsafe { arch::pointer::to::<u64>(at).write_volatile(arch::boot::parking_entry().raw()) };
    arch::cache::clean(AddrRange::new(at, at + size_of::<u64>() as u64));
    arch::cpu::sev();
    Ok(())
}

/// Writes `args` to `page`, a page of lowmem, where a CPU with its MMU off reads them.
fn write_args(page: &mut OwnedChunk, args: SecondaryArgs) {
    let at = linear::address_of(page.chunk().start());
    // SAFETY: a page that is borrowed mutably, so this is the only access; the linear map maps it, page-aligned.
    unsafe { arch::pointer::to::<SecondaryArgs>(at).write(args) };
    arch::cache::clean(AddrRange::new(at, at + size_of::<SecondaryArgs>() as u64));
}
