//! The boot sequence: one line per step.

use crate::board::{BootArgs, DeviceTree, DeviceTreeError, Platform, Reservation};
use crate::memory::{self, Sizes, heap, zones};
use crate::{
    console, devices, dma, firmware, fs, iommu, irq, msi, percpu, power, proc, process, sched, smp, sysfs,
    vfio,
};
use ::memory::Zone;
use addr::{AddrRange, PAGE_SIZE, PhysAddr, Size};
use alloc::string::String;
use alloc::vec::Vec;
use arch::boot::{BootInfo, EarlyDtbError};
use core::fmt;
use core::mem;
use core::slice;

/// The description of the machine cannot be read.
#[derive(Debug)]
pub enum PlatformError {
    /// x0 does not point to a device tree.
    NotFound(EarlyDtbError),
    /// The device tree is not usable.
    Tree(DeviceTreeError),
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(EarlyDtbError::NoAddress(x0)) => write!(f, "no device tree: x0 = {x0}"),
            Self::NotFound(EarlyDtbError::Unreadable(at)) => {
                write!(f, "no device tree: no memory responds at {at}")
            }
            Self::NotFound(EarlyDtbError::Atags(at)) => {
                write!(f, "no device tree: x0 = {at} points to ATAGs, which are for 32-bit kernels")
            }
            Self::NotFound(EarlyDtbError::BadMagic(word)) => {
                write!(f, "no device tree: x0 points to {word:#010x}, not 0xd00dfeed")
            }
            Self::NotFound(EarlyDtbError::TooLarge(size)) => {
                write!(f, "device tree of {}, more than 2 MiB", Size(u64::from(*size)))
            }
            Self::Tree(error) => error.fmt(f),
        }
    }
}

/// Boots the machine. Never returns: `run` ends with power off.
///
/// # Safety
/// Called once, on the boot CPU, with the early tables installed. `boot` describes the entry state.
pub unsafe fn start_kernel(
    boot: &BootInfo,
    run: fn(&Platform, &BootArgs<'_>, devices::BoundDevices) -> !,
) -> ! {
    heap::init();
    firmware::set_entry_level(boot.entry_el);
    let mut platform = read_platform(boot).unwrap_or_else(|error| {
        console::start_early(None);
        log::error!("{error}; halted");
        arch::cpu::halt()
    });
    power::init(&platform);
    console::start_early(platform.console);
    log::info!("Tessera {} on {}, entered at EL{}", env!("CARGO_PKG_VERSION"), platform.model, boot.entry_el);
    platform.check_memory(arch::cpu::physical_bits(), |at| {
        // SAFETY: memory by the device tree, outside of all known registers; nothing has a reference to its
        // last word, and only that is read.
        unsafe { arch::probe::read_u32(arch::boot::map_early_device(at)) }.is_some()
    });
    platform.check_initrd(boot.image);
    platform.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    if let Some(erratum) = platform.counter_erratum {
        // The counter is the only source of time: time-outs, sleeps and clocks would be wrong.
        power::fail(&format_args!("timer: {erratum}: the counter may be read wrongly, without a workaround"));
    }
    let bootargs = mem::replace(&mut platform.bootargs, Ok(String::new()));
    let bootargs = bootargs.unwrap_or_else(|error| power::fail(&format_args!("/chosen: {error}")));
    // Leaked: the parsed arguments borrow the text until power off.
    let bootargs: &'static str = bootargs.leak();
    let args = BootArgs::parse(bootargs).unwrap_or_else(|error| power::fail(&error));
    apply(&args);
    if !args.iommu_off {
        iommu::abort_all(&platform.smmus);
    }
    start_memory(boot, &platform, &args);
    let hosts = devices::enumerate(&platform);
    irq::init(&platform);
    sched::init(platform.timer.as_ref());
    let cpus = smp::start_all(&platform.cpus);
    log::info!("cpu: {} of {cpus} running", percpu::online());
    msi::init(&platform);
    process::random::seed(&platform.rng_seed);
    fs::init();
    process::random_device::register().unwrap_or_else(|error| log::warn!("devices: {error}"));
    proc::init(bootargs);
    sysfs::init();
    fs::console::start(platform.console.and_then(|uart| uart.interrupt));
    let devices = devices::probe(&platform, hosts, &args);
    vfio::init(&args);
    if sched::spawn("main", move || run(&platform, &args, devices)).is_err() {
        power::fail(&"no memory for the first thread");
    }
    sched::run()
}

/// Initializes a secondary CPU, marks it online and runs threads.
///
/// # Safety
/// Called once on each CPU that [`smp`] starts.
pub unsafe fn start_secondary() -> ! {
    irq::init_cpu();
    sched::init_cpu();
    percpu::set_online();
    sched::run()
}

fn read_platform(boot: &BootInfo) -> Result<Platform, PlatformError> {
    // SAFETY: the address that the boot loader passed; the kernel does not write there, and no device does
    // before the drivers start.
    let blob = unsafe { arch::boot::map_early_dtb(boot.dtb) }.map_err(PlatformError::NotFound)?;
    // SAFETY: just mapped and never written; not used after the early tables are gone.
    let blob = unsafe { slice::from_raw_parts(blob.start().raw() as *const u8, blob.len() as usize) };
    DeviceTree::new(blob)
        .and_then(|tree| Platform::read(&tree, &devices::compatible()))
        .map_err(PlatformError::Tree)
}

fn apply(args: &BootArgs<'_>) {
    args.log_level.into_iter().for_each(log::set_max_level);
    if args.dma_trace {
        dma::trace::enable();
    }
    args.unknown().for_each(|argument| log::warn!("unknown boot argument \"{argument}\""));
}

fn start_memory(boot: &BootInfo, platform: &Platform, args: &BootArgs<'_>) {
    let reserved = reserved(boot, platform);
    let sizes = Sizes { lowmem: args.lowmem, vmalloc: args.vmalloc };
    // SAFETY: the memory nodes describe RAM; `reserved` includes the image, the initramfs and all
    // reservations of the firmware; called once.
    let memory = unsafe { memory::init(boot, &platform.memory, &reserved, sizes) };
    memory.unwrap_or_else(|error| power::fail(&error));
    memory::activate(memory::init_cpu(arch::cpu::index()).unwrap_or_else(|error| power::fail(&error)));
    console::remap();
    power::remap(platform);
    let free = |zone| Size(zones::stats(zone).free() * PAGE_SIZE);
    let total = memory::layout().total;
    log::info!("memory: {}, free lowmem {}, free highmem {}", Size(total), free(Zone::Low), free(Zone::High));
}

/// The RAM in use: the firmware's reservations, the image, the initramfs, and the tables of LPIs that an
/// earlier stage enabled. The device tree is not included, since it is already parsed.
fn reserved(boot: &BootInfo, platform: &Platform) -> Vec<Reservation> {
    let mapped = |range: AddrRange<PhysAddr>| Reservation { range, no_map: false };
    let mut reserved = platform.reserved.clone();
    reserved.push(mapped(boot.image));
    reserved.extend(platform.initrd.map(mapped));
    reserved.extend(msi::tables_in_use(platform).into_iter().map(mapped));
    reserved
}
