//! The ITSs and message frames of the machine.

use super::inherited;
use crate::board::{GicDescription, InterruptController, ItsDescription, Platform, V2mDescription};
use crate::iommu::Regions;
use crate::irq::{self, IrqError};
use crate::memory::vmalloc::{self, MapRegistersError};
use crate::percpu;
use crate::sched::Mutex;
use addr::{AddrRange, PhysAddr};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use dma_api::DmaError;
use drivers::gic::its::{
    FIRST_LPI, GITS_TRANSLATER, ITS_BYTES, Its, ItsError, ItsIntegration, ItsVector, LpiError, Lpis,
};
use drivers::gic::v2m::{MSI_SETSPI, V2mError, V2mFrame};
use drivers::gic::{CpuTarget, DEFAULT_PRIORITY, Gic, GicError, GicInterrupt, IntId, Trigger};
use drivers::mmio::MmioWindow;
use drivers::pcie::Phandle;
use spin::Once;

/// Message-signalled interrupts cannot be used, or an operation failed.
#[derive(Debug)]
pub enum MsiError {
    /// The controller is not in use.
    NoController(Phandle),
    /// Error of an ITS.
    Its(ItsError),
    /// Error of LPIs.
    Lpis(LpiError),
    /// Error of a message frame.
    V2m(V2mError),
    /// Too few SPIs are free.
    OutOfSpis(u32),
    /// No memory for handlers.
    OutOfMemory,
    /// The doorbell cannot be mapped for the device.
    Doorbell(DmaError),
    /// The registers cannot be mapped.
    Map(MapRegistersError),
    /// Error of the interrupt controller.
    Irq(IrqError),
    /// The GIC refused a request.
    Gic(GicError),
}

impl fmt::Display for MsiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoController(phandle) => write!(f, "message controller {:#x} is not in use", phandle.0),
            Self::Its(error) => error.fmt(f),
            Self::Lpis(error) => error.fmt(f),
            Self::V2m(error) => error.fmt(f),
            Self::OutOfSpis(count) => write!(f, "less than {count} interrupts are free"),
            Self::OutOfMemory => write!(f, "no memory for interrupt handlers"),
            Self::Doorbell(error) => write!(f, "doorbell: {error}"),
            Self::Map(error) => error.fmt(f),
            Self::Irq(error) => error.fmt(f),
            Self::Gic(error) => error.fmt(f),
        }
    }
}

impl From<ItsError> for MsiError {
    fn from(error: ItsError) -> Self {
        Self::Its(error)
    }
}

impl From<IrqError> for MsiError {
    fn from(error: IrqError) -> Self {
        Self::Irq(error)
    }
}

/// A controller of messages.
pub struct MessageController {
    phandle: Option<Phandle>,
    doorbell: PhysAddr,
    kind: ControllerKind,
}

enum ControllerKind {
    Its { its: Box<Mutex<Its<MmioWindow>>>, lpis: &'static Mutex<Lpis> },
    V2m(Mutex<V2mFrame>),
}

impl MessageController {
    /// Whether it knows the sender of a message.
    pub(super) fn checks_sender(&self) -> bool {
        matches!(self.kind, ControllerKind::Its { .. })
    }
}

/// Vectors of one controller.
#[derive(Default)]
pub enum Vectors {
    #[default]
    None,
    Its(Vec<ItsVector>),
    V2m(Vec<SpiVector>),
}

/// An SPI of a message frame and its CPU.
pub struct SpiVector {
    id: IntId,
    cpu: usize,
    enabled: bool,
}

static CONTROLLERS: Once<Vec<MessageController>> = Once::new();

/// Returns the controller with this phandle.
pub(super) fn find(phandle: Phandle) -> Option<&'static MessageController> {
    CONTROLLERS.get()?.iter().find(|controller| controller.phandle == Some(phandle))
}

/// Initializes the controllers of messages. One that cannot be used is skipped with a warning. Called once,
/// when all CPUs are online.
pub fn init(platform: &Platform) {
    let controllers = match &platform.interrupts {
        Some(InterruptController::Gic(GicDescription::V3 { redistributors, its, .. })) => {
            open_all_its(its, redistributors)
        }
        Some(InterruptController::Gic(GicDescription::V2 { frames, .. })) => {
            let routes = platform.pci_hosts.iter().flat_map(|host| &host.interrupts.routes);
            let intx: Vec<IntId> = routes.map(|route| route.interrupt.id).collect();
            frames.iter().filter_map(|frame| used(frame.registers, open_v2m(frame, &intx))).collect()
        }
        _ => Vec::new(),
    };
    CONTROLLERS.call_once(|| controllers);
}

/// The controller, or a warning.
fn used(at: AddrRange<PhysAddr>, opened: Result<MessageController, MsiError>) -> Option<MessageController> {
    opened.map_err(|error| log::warn!("message controller at {}: ignored: {error}", at.start())).ok()
}

fn open_all_its(all: &[ItsDescription], redistributors: &[AddrRange<PhysAddr>]) -> Vec<MessageController> {
    let Some(first) = all.first() else { return Vec::new() };
    // All share the redistributors and their tables.
    let integration = all.iter().fold(first.integration, |all, its| ItsIntegration {
        non_coherent: all.non_coherent || its.integration.non_coherent,
        below_4_gib: all.below_4_gib || its.integration.below_4_gib,
    });
    let (lpis, cpus) = match enable_lpis(integration) {
        Ok(enabled) => enabled,
        Err(error) => {
            log::warn!("LPIs: not used: {error}");
            return Vec::new();
        }
    };
    let lpis: &'static Mutex<Lpis> = Box::leak(Box::new(Mutex::new(lpis)));
    let open = |its: &ItsDescription| open_its(its, integration, &cpus, redistributors, lpis);
    all.iter().filter_map(|its| used(its.registers, open(its))).collect()
}

/// A CPU whose LPIs are enabled: its index, the place of its redistributor, and its number there.
struct LpiCpu {
    index: usize,
    region: usize,
    offset: u64,
    number: u16,
}

/// Enables the LPIs of the online CPUs.
fn enable_lpis(integration: ItsIntegration) -> Result<(Lpis, Vec<LpiCpu>), MsiError> {
    let this = arch::cpu::index();
    let typer = irq::with_gic(this, |gic, _| gic.v3_typer())?.ok_or(IrqError::NoController)?;
    let inherited = inherited::config_table();
    let mut lpis = Lpis::new(typer, integration, &mut Regions, inherited).map_err(MsiError::Lpis)?;
    let mut cpus = Vec::new();
    for index in percpu::online_indices().filter(|&index| percpu::is_online(index)) {
        let enabled = irq::with_gic(index, |gic, cpu| enable_cpu(gic, cpu, &mut lpis));
        match enabled.map_err(MsiError::Irq).flatten() {
            Ok((region, offset, number)) => cpus.push(LpiCpu { index, region, offset, number }),
            Err(error) => log::warn!("LPIs: cpu {index}: {error}"),
        }
    }
    Ok((lpis, cpus))
}

fn enable_cpu(gic: &mut Gic, cpu: CpuTarget, lpis: &mut Lpis) -> Result<(usize, u64, u16), MsiError> {
    let mut redistributor = gic.redistributor(cpu).map_err(MsiError::Gic)?;
    lpis.enable(&mut redistributor, &mut Regions).map_err(MsiError::Lpis)?;
    let (region, offset) = redistributor.place();
    Ok((region, offset, redistributor.number()))
}

fn open_its(
    description: &ItsDescription,
    integration: ItsIntegration,
    cpus: &[LpiCpu],
    redistributors: &[AddrRange<PhysAddr>],
    lpis: &'static Mutex<Lpis>,
) -> Result<MessageController, MsiError> {
    let at = description.registers.start();
    let window = registers(description.registers)?;
    window.at_least(ITS_BYTES).map_err(|error| MsiError::Gic(error.into()))?;
    let count = cpus.iter().map(|cpu| cpu.index as u32 + 1).max().unwrap_or(0);
    let mut its = Its::start(window, count, integration, &mut Regions)?;
    let mut connected = 0;
    for cpu in cpus {
        let address = redistributors[cpu.region].start() + cpu.offset;
        match its.add_cpu(cpu.index as u16, address, cpu.number) {
            Ok(()) => connected += 1,
            Err(error) => log::warn!("its at {at}: cpu {}: {error}", cpu.index),
        }
    }
    if connected == 0 {
        return Err(MsiError::Its(ItsError::NoCollection(0)));
    }
    let features = its.features();
    let coherent = if its.is_coherent() { "coherent" } else { "not coherent" };
    log::info!(
        "its at {at}: {} device bits, {} event bits, {} CPUs, {coherent}",
        features.device_bits,
        features.event_bits,
        connected
    );
    if let Some(erratum) = features.erratum {
        log::warn!("its at {at}: {}", erratum.name);
    }
    let kind = ControllerKind::Its { its: Box::new(Mutex::new(its)), lpis };
    Ok(MessageController { phandle: description.phandle, doorbell: at + GITS_TRANSLATER, kind })
}

fn open_v2m(description: &V2mDescription, intx: &[IntId]) -> Result<MessageController, MsiError> {
    let at = description.registers.start();
    let window = registers(description.registers)?;
    let wired = description.wired.iter().chain(intx).copied();
    let frame = V2mFrame::new(&window, description.range, wired).map_err(MsiError::V2m)?;
    let (first, count) = frame.range();
    log::info!("gicv2m at {at}: {count} interrupts from {first}");
    let kind = ControllerKind::V2m(Mutex::new(frame));
    Ok(MessageController { phandle: description.phandle, doorbell: at + MSI_SETSPI, kind })
}

fn registers(range: AddrRange<PhysAddr>) -> Result<MmioWindow, MsiError> {
    // SAFETY: a controller of messages by the device tree; the first register of an ITS is GITS_CTLR, and the
    // first word of a message frame is reserved.
    let at = unsafe { vmalloc::map_registers(range) }.map_err(MsiError::Map)?;
    // SAFETY: mapped permanently as Device memory, of a controller according to the device tree; opened once.
    Ok(unsafe { MmioWindow::new(at.start(), at.len()) })
}

impl MessageController {
    /// The physical address of the doorbell.
    pub fn doorbell(&self) -> PhysAddr {
        self.doorbell
    }

    /// Allocates `count` masked vectors of device `id`, for the calling CPU, or for the boot CPU if that
    /// receives no messages.
    pub fn allocate(&self, id: u32, count: u32) -> Result<Vectors, MsiError> {
        let cpu = arch::cpu::index();
        match &self.kind {
            ControllerKind::Its { its, lpis } => {
                let (mut its, mut lpis) = (its.lock(), lpis.lock());
                let mut allocate = |cpu| its.allocate(&mut lpis, &mut Regions, id, count, cpu);
                let vectors = match allocate(cpu as u16) {
                    Err(ItsError::NoCollection(_)) => allocate(0),
                    result => result,
                };
                Ok(Vectors::Its(vectors?))
            }
            ControllerKind::V2m(frame) => {
                let mut vectors = Vec::new();
                vectors.try_reserve_exact(count as usize).map_err(|_| MsiError::OutOfMemory)?;
                let first = frame.lock().allocate(count).ok_or(MsiError::OutOfSpis(count))?;
                let ids = (u32::from(first)..).take(count as usize).filter_map(|id| IntId::try_from(id).ok());
                vectors.extend(ids.map(|id| SpiVector { id, cpu, enabled: false }));
                let mut vectors = Vectors::V2m(vectors);
                for index in 0..count as usize {
                    if let Err(error) = self.configure(&mut vectors, index) {
                        return self.free(vectors).and(Err(error));
                    }
                }
                Ok(vectors)
            }
        }
    }

    /// Removes vectors, whose messages have no effect from now on.
    pub fn free(&self, vectors: Vectors) -> Result<(), MsiError> {
        match (&self.kind, vectors) {
            (ControllerKind::Its { its, lpis }, Vectors::Its(vectors)) => {
                Ok(its.lock().free(&mut lpis.lock(), &mut Regions, vectors)?)
            }
            (ControllerKind::V2m(frame), Vectors::V2m(vectors)) => {
                for SpiVector { id, cpu, .. } in vectors {
                    let disable = |gic: &mut Gic, cpu| {
                        gic.disable(id, cpu)?;
                        gic.clear_pending(id)
                    };
                    irq::with_gic(cpu, disable)?.map_err(MsiError::Gic)?;
                    frame.lock().free(id);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The data of the message of a vector.
    pub fn data(&self, vectors: &Vectors, index: usize) -> u32 {
        match (&self.kind, vectors) {
            (ControllerKind::V2m(frame), Vectors::V2m(vectors)) => frame.lock().data(vectors[index].id),
            (_, Vectors::Its(vectors)) => vectors[index].event(),
            _ => unreachable!("no vector {index}"),
        }
    }

    /// Unmasks or masks a vector.
    pub fn set_enabled(&self, vectors: &mut Vectors, index: usize, enabled: bool) -> Result<(), MsiError> {
        match (&self.kind, vectors) {
            (ControllerKind::Its { its, lpis }, Vectors::Its(vectors)) => {
                Ok(its.lock().set_enabled(&mut lpis.lock(), &vectors[index], enabled)?)
            }
            (_, Vectors::V2m(vectors)) => {
                let vector = &mut vectors[index];
                let change = |gic: &mut Gic, cpu| match enabled {
                    true => gic.enable(vector.id, cpu),
                    false => gic.disable(vector.id, cpu),
                };
                irq::with_gic(vector.cpu, change)?.map_err(MsiError::Gic)?;
                vector.enabled = enabled;
                Ok(())
            }
            _ => unreachable!("no vector {index}"),
        }
    }

    /// Makes CPU `cpu` the target of a vector.
    pub fn retarget(&self, vectors: &mut Vectors, index: usize, cpu: usize) -> Result<(), MsiError> {
        match (&self.kind, vectors) {
            (ControllerKind::Its { its, .. }, Vectors::Its(vectors)) => {
                Ok(its.lock().retarget(&mut vectors[index], cpu as u16)?)
            }
            (_, vectors @ Vectors::V2m(_)) => {
                let enabled = match vectors {
                    Vectors::V2m(vectors) => {
                        irq::with_gic(cpu, |_, _| ())?;
                        vectors[index].cpu = cpu;
                        vectors[index].enabled
                    }
                    _ => false,
                };
                self.configure(vectors, index)?;
                if enabled { self.set_enabled(vectors, index, true) } else { Ok(()) }
            }
            _ => unreachable!("no vector {index}"),
        }
    }

    /// Sets trigger, priority and target of an SPI, which is disabled afterwards.
    fn configure(&self, vectors: &mut Vectors, index: usize) -> Result<(), MsiError> {
        let Vectors::V2m(vectors) = vectors else { return Ok(()) };
        let SpiVector { id, cpu, .. } = vectors[index];
        let interrupt = GicInterrupt { id, trigger: Trigger::Edge };
        irq::with_gic(cpu, |gic, cpu| gic.configure(interrupt, DEFAULT_PRIORITY, cpu))?.map_err(MsiError::Gic)
    }
}

impl Vectors {
    /// The number of vectors.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Its(vectors) => vectors.len(),
            Self::V2m(vectors) => vectors.len(),
        }
    }

    /// The interrupt of a vector. Panics unless it exists.
    pub fn id(&self, index: usize) -> IntId {
        match self {
            Self::None => unreachable!("no vector {index}"),
            Self::Its(vectors) => IntId::lpi(vectors[index].lpi() - FIRST_LPI),
            Self::V2m(vectors) => vectors[index].id,
        }
    }

    /// The interrupts in order.
    pub fn ids(&self) -> impl Iterator<Item = IntId> {
        (0..self.len()).map(|index| self.id(index))
    }
}
