//! Interrupts: the registered handlers and the interrupt controller.

pub mod messages;
mod secure_interrupts;

use crate::board::{self, InterruptController, Platform};
use crate::memory::vmalloc::{self, MapRegistersError};
use crate::percpu::{self, MAX_CPUS};
use crate::sync::SpinLock;
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;
use core::fmt;
use drivers::bcm2836;
use drivers::gic::{CpuTarget, Gic};
use drivers::interrupts::{
    Controller, CpuInterface, Interrupt, InterruptError, InterruptTarget, IpiTarget, ReceivedInterrupt,
};
use drivers::mmio::MmioWindow;
use spin::{Once, RwLock};

/// An interrupt handler, which is called with interrupts masked. It must neither allocate nor wait.
pub trait Handler: Sync {
    /// Serves the device. Devices can share an interrupt line, so the device may have nothing pending.
    fn handle(&self);
}

impl<T: Handler + ?Sized> Handler for &'static T {
    fn handle(&self) {
        (**self).handle();
    }
}

/// The reschedule IPI, which makes a CPU reschedule.
const IPI_RESCHEDULE: u32 = 0;
/// The IPI that stops a CPU permanently.
const IPI_STOP: u32 = 1;

struct Registration {
    interrupt: Interrupt,
    handler: &'static dyn Handler,
}

static CONTROLLER: Once<SpinLock<Controller>> = Once::new();
static INTERFACE: Once<CpuInterface> = Once::new();
static TARGETS: [Once<InterruptTarget>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];
/// Read by every interrupt. Written with interrupts masked; registrations are only added.
static HANDLERS: RwLock<Vec<Registration>> = RwLock::new(Vec::new());

/// Why an interrupt cannot be used.
#[derive(Debug)]
pub enum IrqError {
    /// There is no interrupt controller.
    NoController,
    /// The controller refused the interrupt.
    Controller(InterruptError),
    /// The registers of the controller cannot be mapped.
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

/// Initializes the interrupt controller and its part for this CPU. If there is none, a warning is logged, and
/// drivers poll.
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
        board::GicDescription::V2 { distributor, cpu_interface, .. } => {
            // SAFETY: a GICv2 by the device tree.
            unsafe { secure_interrupts::claim_v2(*distributor, *cpu_interface) };
            Gic::v2(window(*distributor)?, window(*cpu_interface)?)
        }
        board::GicDescription::V3 { distributor, redistributors, .. } => {
            // SAFETY: a GICv3 by the device tree.
            unsafe { secure_interrupts::claim_v3(*distributor) };
            let redistributors =
                redistributors.iter().map(|&range| window(range)).collect::<Result<_, _>>()?;
            Gic::v3(window(*distributor)?, redistributors)
        }
    };
    let (gic, interface) = opened.map_err(|error| IrqError::Controller(error.into()))?;
    Ok((Controller::Gic(gic), CpuInterface::Gic(interface)))
}

fn window(registers: AddrRange<PhysAddr>) -> Result<MmioWindow, IrqError> {
    // SAFETY: an interrupt controller by the device tree; the first register of each block is a control
    // register.
    let at = unsafe { vmalloc::map_registers(registers) }.map_err(IrqError::Map)?;
    // SAFETY: mapped permanently as Device memory; the registers of an interrupt controller according to the
    // device tree; opened once.
    Ok(unsafe { MmioWindow::new(at.start(), at.len()) })
}

/// Initializes the controller's part for the calling CPU.
pub fn init_cpu() {
    let Some(controller) = CONTROLLER.get() else { return };
    secure_interrupts::claim_private();
    match controller.lock().init_cpu(arch::cpu::affinity()) {
        Ok(target) => {
            TARGETS[arch::cpu::index()].call_once(|| target);
        }
        Err(error) => log::warn!("interrupts: cpu {}: {error}", arch::cpu::index()),
    }
}

/// Registers `handler` for `interrupt` and enables it with the calling CPU as its target. A private interrupt
/// is enabled on this CPU only.
pub fn register(interrupt: impl Into<Interrupt>, handler: &'static dyn Handler) -> Result<(), IrqError> {
    let interrupt = interrupt.into();
    {
        let _irqs = arch::cpu::mask_irqs();
        HANDLERS.write().push(Registration { interrupt, handler });
    }
    enable(interrupt)
}

/// Enables `interrupt` with the calling CPU as its target. Its handler must be registered.
pub fn enable(interrupt: Interrupt) -> Result<(), IrqError> {
    let (Some(controller), Some(&target)) = (CONTROLLER.get(), TARGETS[arch::cpu::index()].get()) else {
        return Err(IrqError::NoController);
    };
    controller.lock().enable(interrupt, target).map_err(IrqError::Controller)
}

/// Calls `action` with the GIC and its number of CPU `index`, which has initialized its part. Interrupts are
/// masked meanwhile.
///
/// # Errors
/// [`IrqError::NoController`] without such a CPU or with another controller.
pub fn with_gic<R>(index: usize, action: impl FnOnce(&mut Gic, CpuTarget) -> R) -> Result<R, IrqError> {
    let target = TARGETS.get(index).and_then(Once::get);
    let (Some(controller), Some(&target)) = (CONTROLLER.get(), target) else {
        return Err(IrqError::NoController);
    };
    let mut controller = controller.lock();
    let (gic, cpu) = controller.gic(target).map_err(IrqError::Controller)?;
    Ok(action(gic, cpu))
}

/// Sends a reschedule IPI to CPU `index`.
pub fn send_reschedule(index: usize) {
    if let (Some(interface), Some(&target)) = (INTERFACE.get(), TARGETS[index].get())
        && let Err(error) = interface.send(IPI_RESCHEDULE, IpiTarget::One(target))
    {
        log::warn!("interrupts: cpu {index}: {error}");
    }
}

/// Stops all other CPUs permanently, each as soon as it unmasks interrupts. For a panic: acquires no lock.
pub fn stop_other_cpus() {
    if let Some(interface) = INTERFACE.get() {
        // On failure the other CPUs keep running; the panic has no use for the error.
        let _ = interface.send(IPI_STOP, IpiTarget::Others);
    }
}

/// Handles all pending interrupts of this CPU. Called with interrupts masked.
pub fn dispatch() {
    let Some(interface) = INTERFACE.get() else { return };
    percpu::with_interrupt_context(|| handle_pending(interface));
}

fn handle_pending(interface: &CpuInterface) {
    while let Some(pending) = interface.acknowledge() {
        let received = pending.received();
        if received == ReceivedInterrupt::Software(IPI_STOP) {
            arch::cpu::halt();
        }
        if let ReceivedInterrupt::Gic(id) = received
            && messages::handle(id)
        {
            interface.end(pending);
            continue;
        }
        let handlers = HANDLERS.read();
        let matching = handlers.iter().filter(|entry| received.is(entry.interrupt));
        matching.for_each(|entry| entry.handler.handle());
        interface.end(pending);
    }
}
