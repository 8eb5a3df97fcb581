//! Interrupts: who handles which, and the controller behind it.

mod secure_interrupts;

use crate::board::{self, InterruptController, Platform};
use crate::memory::vmalloc::{self, MapRegistersError};
use crate::percpu::{self, MAX_CPUS};
use crate::sync::SpinLock;
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use core::fmt;
use drivers::bcm2836;
use drivers::gic::Gic;
use drivers::interrupts::{
    Controller, CpuInterface, Interrupt, InterruptError, InterruptTarget, IpiTarget, ReceivedInterrupt,
};
use drivers::mmio::MmioWindow;
use spin::{Once, RwLock};

/// What runs when an interrupt arrives, with interrupts masked. It neither allocates nor waits.
pub trait Handler: Sync {
    /// Serves the device. Several may share a line, so "not mine" is normal.
    fn handle(&self);
}

/// The software interrupt that makes a CPU look at its run queue.
const RESCHEDULE: u32 = 0;
/// The one that stops a CPU for good.
const STOP: u32 = 1;

struct Registration {
    interrupt: Interrupt,
    handler: &'static dyn Handler,
}

static CONTROLLER: Once<SpinLock<Controller>> = Once::new();
static INTERFACE: Once<CpuInterface> = Once::new();
static TARGETS: [Once<InterruptTarget>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];
/// Read by every interrupt; written with interrupts masked, and only to add.
static HANDLERS: RwLock<Vec<Registration>> = RwLock::new(Vec::new());

/// Why an interrupt cannot be had.
#[derive(Debug)]
pub enum IrqError {
    /// There is no interrupt controller.
    NoController,
    /// It refuses.
    Controller(InterruptError),
    /// Its registers cannot be mapped.
    Map(MapRegistersError),
}

impl fmt::Display for IrqError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoController => write!(f, "no interrupt controller"),
            Self::Controller(error) => error.fmt(f),
            Self::Map(error) => write!(f, "interrupt controller: {error}"),
        }
    }
}

/// Sets up the machine's interrupt controller, and this CPU's part of it. Without one there are no interrupts, which
/// is said, and polling goes on working.
pub fn init(platform: &Platform) {
    match platform.interrupts.as_ref().ok_or(IrqError::NoController).and_then(open) {
        Ok((controller, interface)) => {
            CONTROLLER.call_once(|| SpinLock::new(controller));
            INTERFACE.call_once(|| interface);
            init_cpu();
        }
        Err(error) => log::warn!("interrupts: {error}"),
    }
}

fn open(described: &InterruptController) -> Result<(Controller, CpuInterface), IrqError> {
    match described {
        InterruptController::Gic(gic) => open_gic(gic),
        InterruptController::Bcm2836 { local, peripherals } => {
            let opened = bcm2836::open(window(*local)?, window(*peripherals)?);
            let (controller, interface) = opened.map_err(|error| IrqError::Controller(error.into()))?;
            Ok((Controller::Bcm2836(controller), CpuInterface::Bcm2836(interface)))
        }
    }
}

fn open_gic(gic: &board::GicDescription) -> Result<(Controller, CpuInterface), IrqError> {
    let opened = match gic {
        board::GicDescription::V2 { distributor, cpu_interface } => {
            secure_interrupts::take_v2(*distributor, *cpu_interface);
            Gic::v2(window(*distributor)?, window(*cpu_interface)?)
        }
        board::GicDescription::V3 { distributor, redistributors, .. } => {
            secure_interrupts::take_v3(*distributor);
            let redistributors =
                redistributors.iter().map(|&range| window(range)).collect::<Result<_, _>>()?;
            Gic::v3(window(*distributor)?, redistributors)
        }
    };
    let (gic, interface) = opened.map_err(|error| IrqError::Controller(error.into()))?;
    Ok((Controller::Gic(gic), CpuInterface::Gic(interface)))
}

fn window(registers: AddrRange<PhysAddr>) -> Result<MmioWindow, IrqError> {
    let at = vmalloc::map_registers(registers).map_err(IrqError::Map)?;
    // SAFETY: mapped for good as Device memory, by the device tree's word an interrupt controller's registers, opened once.
    Ok(unsafe { MmioWindow::new(at.start(), at.len()) })
}

/// Sets up the part that belongs to the CPU this runs on.
pub fn init_cpu() {
    let Some(controller) = CONTROLLER.get() else { return };
    secure_interrupts::take_cpus_own();
    match controller.lock().init_cpu(arch::cpu::affinity()) {
        Ok(target) => {
            TARGETS[arch::cpu::index()].call_once(|| target);
        }
        Err(error) => log::warn!("interrupts: cpu {}: {error}", arch::cpu::index()),
    }
}

/// Calls `handler` whenever `interrupt` arrives, on the CPU this runs on. A private interrupt is set up for this CPU
/// alone.
pub fn register(interrupt: impl Into<Interrupt>, handler: &'static dyn Handler) -> Result<(), IrqError> {
    let interrupt = interrupt.into();
    {
        let _irqs = arch::cpu::mask_irqs();
        HANDLERS.write().push(Registration { interrupt, handler });
    }
    enable(interrupt)
}

/// Lets `interrupt` through to the CPU this runs on; its handler is registered already.
pub fn enable(interrupt: Interrupt) -> Result<(), IrqError> {
    let (Some(controller), Some(&target)) = (CONTROLLER.get(), TARGETS[arch::cpu::index()].get()) else {
        return Err(IrqError::NoController);
    };
    controller.lock().enable(interrupt, target).map_err(IrqError::Controller)
}

/// Makes CPU `index` take an interrupt, so that it looks at its run queue.
pub fn wake(index: usize) {
    if let (Some(interface), Some(&target)) = (INTERFACE.get(), TARGETS[index].get())
        && let Err(error) = interface.send(RESCHEDULE, IpiTarget::One(target))
    {
        log::warn!("interrupts: cpu {index}: {error}");
    }
}

/// Stops all other CPUs for good, each as soon as it has interrupts unmasked. For a panic: takes no lock.
pub fn stop_others() {
    if let Some(interface) = INTERFACE.get() {
        // Where that fails they run on; there is nobody left to tell.
        let _ = interface.send(STOP, IpiTarget::Others);
    }
}

/// Serves all interrupts that wait for this CPU. Called with interrupts masked.
pub fn dispatch() {
    let Some(interface) = INTERFACE.get() else { return };
    percpu::with_interrupt_context(|| serve_pending(interface));
}

fn serve_pending(interface: &CpuInterface) {
    while let Some(pending) = interface.acknowledge() {
        let arrived = pending.received();
        if arrived == ReceivedInterrupt::Software(STOP) {
            arch::cpu::halt();
        }
        let handlers = HANDLERS.read();
        let mine = handlers.iter().filter(|entry| arrived.is(entry.interrupt));
        mine.for_each(|entry| entry.handler.handle());
        interface.end(pending);
    }
}
