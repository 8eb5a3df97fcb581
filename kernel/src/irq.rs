//! Interrupts: who handles which, and the controller behind it.

use crate::board::{self, Platform};
use crate::memory::vmalloc::{self, RegistersError};
use crate::percpu::{MAX_CPUS, PerCpu};
use crate::sync::SpinLock;
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use drivers::gic::{CpuInterface, CpuTarget, DEFAULT_PRIORITY, Gic, GicError, Interrupt, SgiTo};
use drivers::mmio::Window;
use spin::{Once, RwLock};

/// What runs when an interrupt arrives, with interrupts masked. It neither allocates nor waits.
pub trait Handler: Sync {
    /// Serves the device. Several may share a line, so "not mine" is normal.
    fn handle(&self);
}

/// The software-generated interrupt that makes a CPU look at its run queue.
const RESCHEDULE: u32 = 0;
/// The one that stops a CPU for good.
const STOP: u32 = 1;

struct Registration {
    intid: u32,
    handler: &'static dyn Handler,
}

static GIC: Once<SpinLock<Gic>> = Once::new();
static INTERFACE: Once<CpuInterface> = Once::new();
static TARGETS: [Once<CpuTarget>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];
/// Read by every interrupt; written with interrupts masked, and only to add.
static HANDLERS: RwLock<Vec<Registration>> = RwLock::new(Vec::new());

/// Whether the CPU is inside [`dispatch`].
static IN_HANDLER: PerCpu<AtomicBool> = PerCpu::new([const { AtomicBool::new(false) }; MAX_CPUS]);

/// Why an interrupt cannot be had.
#[derive(Debug)]
pub enum IrqError {
    /// There is no interrupt controller.
    NoGic,
    /// It refuses.
    Gic(GicError),
    /// Its registers cannot be mapped.
    Map(RegistersError),
}

impl fmt::Display for IrqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGic => write!(f, "no interrupt controller"),
            Self::Gic(error) => error.fmt(f),
            Self::Map(error) => write!(f, "interrupt controller: {error}"),
        }
    }
}

/// Sets up the machine's interrupt controller, and this CPU's part of it. Without one there are no interrupts, which
/// is said, and polling goes on working.
pub fn init(platform: &Platform) {
    match platform.gic.as_ref().ok_or(IrqError::NoGic).and_then(open) {
        Ok((gic, interface)) => {
            GIC.call_once(|| SpinLock::new(gic));
            INTERFACE.call_once(|| interface);
            init_cpu();
        }
        Err(error) => log::warn!("interrupts: {error}"),
    }
}

fn open(gic: &board::Gic) -> Result<(Gic, CpuInterface), IrqError> {
    match gic {
        board::Gic::V2 { distributor, cpu_interface } => {
            Gic::v2(window(*distributor)?, window(*cpu_interface)?)
        }
        board::Gic::V3 { distributor, redistributors, .. } => {
            let redistributors =
                redistributors.iter().map(|&range| window(range)).collect::<Result<_, _>>()?;
            Gic::v3(window(*distributor)?, redistributors)
        }
    }
    .map_err(IrqError::Gic)
}

fn window(registers: AddrRange<PhysAddr>) -> Result<Window, IrqError> {
    let at = vmalloc::map_registers(registers).map_err(IrqError::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word a GIC's registers, opened once.
    Ok(unsafe { Window::new(at.start(), at.len()) })
}

/// Sets up the part that belongs to the CPU this runs on.
pub fn init_cpu() {
    let Some(gic) = GIC.get() else { return };
    match gic.lock().init_cpu(arch::cpu::affinity()) {
        Ok(target) => {
            TARGETS[arch::cpu::index()].call_once(|| target);
        }
        Err(error) => log::warn!("interrupts: cpu {}: {error}", arch::cpu::index()),
    }
}

/// Calls `handler` whenever `interrupt` arrives, on the CPU this runs on. A private interrupt is set up for this CPU
/// alone.
pub fn register(interrupt: Interrupt, handler: &'static dyn Handler) -> Result<(), IrqError> {
    {
        let _irqs = arch::cpu::mask_irqs();
        HANDLERS.write().push(Registration { intid: interrupt.id.into(), handler });
    }
    enable(interrupt)
}

/// Lets `interrupt` through to the CPU this runs on; its handler is registered already.
pub fn enable(interrupt: Interrupt) -> Result<(), IrqError> {
    let (Some(gic), Some(&target)) = (GIC.get(), TARGETS[arch::cpu::index()].get()) else {
        return Err(IrqError::NoGic);
    };
    let mut gic = gic.lock();
    gic.configure(interrupt, DEFAULT_PRIORITY, target).map_err(IrqError::Gic)?;
    gic.enable(interrupt.id, target).map_err(IrqError::Gic)
}

/// Makes CPU `index` take an interrupt, so that it looks at its run queue.
pub fn wake(index: usize) {
    if let (Some(interface), Some(&target)) = (INTERFACE.get(), TARGETS[index].get())
        && let Err(error) = interface.send_sgi(RESCHEDULE, SgiTo::One(target))
    {
        log::warn!("interrupts: cpu {index}: {error}");
    }
}

/// Stops all other CPUs for good, each as soon as it has interrupts unmasked. For a panic: takes no lock.
pub fn stop_others() {
    if let Some(interface) = INTERFACE.get() {
        // Where that fails they run on; there is nobody left to tell.
        let _ = interface.send_sgi(STOP, SgiTo::Others);
    }
}

/// Whether this CPU is serving an interrupt: it must neither allocate nor wait.
pub fn in_handler() -> bool {
    IN_HANDLER.this().load(Ordering::Relaxed)
}

/// Serves all interrupts that wait for this CPU. Called with interrupts masked.
pub fn dispatch() {
    let Some(interface) = INTERFACE.get() else { return };
    IN_HANDLER.this().store(true, Ordering::Relaxed);
    while let Some(pending) = interface.acknowledge() {
        let intid = u32::from(pending.id());
        if intid == STOP {
            arch::cpu::halt();
        }
        HANDLERS.read().iter().filter(|entry| entry.intid == intid).for_each(|entry| entry.handler.handle());
        interface.end(pending);
    }
    IN_HANDLER.this().store(false, Ordering::Relaxed);
}
