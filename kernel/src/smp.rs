//! Bringing the other CPUs up.

use crate::board::{CpuDescription, EnableMethod};
use crate::firmware;
use crate::memory::stack::{KernelStack, StackError};
use crate::memory::{InitError, init_cpu, layout, linear, zones};
use crate::percpu::{self, MAX_CPUS};
use addr::{AddrRange, Address, PhysAddr};
use arch::boot::SecondaryArgs;
use arch::timer::Deadline;
use core::fmt;
use memory::OwnedChunk;
use spin::Once;

/// How long a CPU may take from being started to its first line of Rust: microseconds, but in a virtual machine the host
/// may have other things to do.
const START_TIMEOUT_NS: u64 = 5_000_000_000;

/// The stack of each CPU's first thread, kept for good.
static STACKS: [Once<KernelStack>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// Why a CPU does not run.
enum CpuStartError {
    /// The device tree does not say how to start it, or in a way that is not there.
    NoMethod,
    /// The word that it polls is not in reserved lowmem.
    ReleaseAddress(PhysAddr),
    /// The firmware refuses.
    Firmware(arch::psci::Error),
    /// It was started and was not seen again.
    Silent,
    /// No memory for its stack.
    Stack(StackError),
    /// No memory for its windows.
    Memory(InitError),
}

impl fmt::Display for CpuStartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMethod => write!(f, "no way to start it"),
            Self::ReleaseAddress(word) => write!(f, "cpu-release-addr {word} is not in reserved lowmem"),
            Self::Firmware(error) => write!(f, "CPU_ON: {error}"),
            Self::Silent => write!(f, "not heard of within {} ms", START_TIMEOUT_NS / 1_000_000),
            Self::Stack(error) => write!(f, "no stack: {error:?}"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

/// Starts every CPU of `cpus` but this one, numbered in the device tree's order after this one. One that does not
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
                // A number once handed to a CPU that may still come up late is not used again.
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
    let mut page = zones::take_zeroed_page().ok_or(CpuStartError::Stack(StackError::OutOfFrames))?;
    write_args(&mut page, args);
    release(cpu, page.chunk().start())?;
    let deadline = Deadline::in_ns(START_TIMEOUT_NS);
    // One look more when the time is up: this CPU may have been held up as well.
    let mut late = false;
    while !percpu::is_online(index) {
        if late {
            // The page stays: the CPU may still read it.
            return Err(CpuStartError::Silent);
        }
        late = deadline.passed();
        core::hint::spin_loop();
    }
    zones::give(page);
    Ok(())
}

/// Sends a CPU to its first line, with its arguments.
fn release(cpu: &CpuDescription, args: PhysAddr) -> Result<(), CpuStartError> {
    match (cpu.enable_method, firmware::psci()) {
        (Some(EnableMethod::Psci), Some(firmware)) => {
            let entry = arch::boot::secondary_entry();
            arch::psci::cpu_on(firmware, cpu.mpidr, entry, args).map_err(CpuStartError::Firmware)
        }
        (Some(EnableMethod::SpinTable(word)), _) => {
            fetch_from_spin_table(word)?;
            arch::boot::release_parked(cpu.mpidr, args);
            Ok(())
        }
        // Nobody was there before us: it entered the kernel together with this CPU, and waits in boot.s.
        _ if firmware::entry_level() == 3 => {
            arch::boot::release_parked(cpu.mpidr, args);
            Ok(())
        }
        _ => Err(CpuStartError::NoMethod),
    }
}

/// Makes the CPU that polls `word`, its caches off, wait at our own place.
fn fetch_from_spin_table(word: PhysAddr) -> Result<(), CpuStartError> {
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
