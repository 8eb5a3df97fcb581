//! Interrupts of a function as eventfds (`VFIO_DEVICE_SET_IRQS`).

use super::function::BoundFunction;
use super::group::AttachedGroup;
use crate::fs::OpenFile;
use crate::fs::eventfd::EventFd;
use crate::irq::Handler;
use crate::memory::{heap, vmalloc};
use crate::msi::{self, MessageVectors, MsiError};
use crate::sync::SpinLock;
use abi::Errno;
use abi::vfio::*;
use addr::MemoryType;
use alloc::sync::Arc;
use alloc::vec::Vec;
use drivers::mmio::MmioWindow;
use drivers::pcie::{MsixState, MsixTable};

/// The eventfd of a vector.
pub type Trigger = Option<Arc<OpenFile>>;

/// The data of `VFIO_DEVICE_SET_IRQS`.
pub enum IrqData {
    None,
    /// Whether to signal each vector.
    Bools(Vec<u8>),
    Eventfds(Vec<Trigger>),
}

/// The interrupts of an open function.
#[derive(Default)]
pub struct Interrupts {
    messages: Option<Messages>,
}

/// Enabled messages, MSI or MSI-X.
struct Messages {
    index: u32,
    triggers: Vec<Trigger>,
    vectors: MessageVectors,
    table: Option<MappedTable>,
}

/// The mapped table of MSI-X.
struct MappedTable {
    table: MsixTable,
    /// Unmapped after the table's last use.
    _mapping: vmalloc::KernelMapping,
}

/// Signals an eventfd. It neither allocates nor waits; a full counter stays full.
struct SignalEventfd(Arc<OpenFile>);

impl Handler for SignalEventfd {
    fn handle(&self) {
        signal(&self.0);
    }
}

fn signal(file: &OpenFile) {
    if let Some(eventfd) = file.downcast::<EventFd>() {
        eventfd.signal();
    }
}

/// Returns the number of vectors of a kind of interrupt, and its flags.
///
/// # Errors
/// `EINVAL` for a kind that no function has.
pub fn count(function: &BoundFunction, index: u32) -> Result<(u32, IrqFlags), Errno> {
    let messages = |has: fn(&BoundFunction) -> u32| if can_send(function) { has(function) } else { 0 };
    match index {
        IRQ_INTX => Ok((0, IrqFlags::EVENTFD | IrqFlags::MASKABLE | IrqFlags::AUTOMASKED)),
        IRQ_MSI => Ok((messages(msi_count), IrqFlags::EVENTFD | IrqFlags::NORESIZE)),
        IRQ_MSIX => Ok((messages(msix_count), IrqFlags::EVENTFD)),
        IRQ_ERROR | IRQ_REQUEST => Ok((1, IrqFlags::EVENTFD | IrqFlags::NORESIZE)),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether a controller receives the function's messages and knows their sender.
fn can_send(function: &BoundFunction) -> bool {
    let controller = function.with(|host, found| host.message_controller(found));
    controller.ok().flatten().is_some_and(|(phandle, _)| msi::checks_sender(phandle))
}

/// One: further messages of MSI have no user.
fn msi_count(function: &BoundFunction) -> u32 {
    function.with(|host, found| u32::from(host.has_msi(found))).unwrap_or(0)
}

fn msix_count(function: &BoundFunction) -> u32 {
    let table = function.with(|host, found| host.msix_table(found.bdf)).ok().flatten();
    table.map_or(0, |table| table.vectors.into())
}

impl Interrupts {
    /// `VFIO_DEVICE_SET_IRQS` for vectors that exist.
    ///
    /// # Errors
    /// `EINVAL` for a combination that the kind does not have, `ENOTTY` for the mask of messages, `ENOSPC`
    /// without interrupts; those of [`Messages::enable`].
    pub fn set(
        &mut self,
        function: &BoundFunction,
        attached: Option<&AttachedGroup>,
        request: &IrqSet,
        data: IrqData,
    ) -> Result<(), Errno> {
        let flags = IrqSetFlags::from_bits_retain(request.flags);
        match request.index {
            IRQ_MSI | IRQ_MSIX if !flags.contains(IrqSetFlags::TRIGGER) => Err(Errno::ENOTTY),
            IRQ_MSI | IRQ_MSIX => self.set_messages(function, attached, request, data),
            IRQ_ERROR | IRQ_REQUEST if flags.contains(IrqSetFlags::TRIGGER) => {
                set_event(&function.events[(request.index - IRQ_ERROR) as usize], request, data)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn set_messages(
        &mut self,
        function: &BoundFunction,
        attached: Option<&AttachedGroup>,
        request: &IrqSet,
        data: IrqData,
    ) -> Result<(), Errno> {
        let index = request.index;
        let enabled = self.messages.as_mut().map(|messages| messages.index);
        match (data, enabled) {
            (IrqData::None, Some(enabled)) if enabled == index && request.count == 0 => {
                self.disable_messages(function);
                Ok(())
            }
            (_, Some(enabled)) if enabled != index => Err(Errno::EINVAL),
            (IrqData::Eventfds(triggers), None) => {
                let mut messages = Messages::enable(function, attached.ok_or(Errno::EINVAL)?, index)?;
                let set = messages.set_triggers(function, request.start, triggers);
                self.messages = Some(messages);
                set.inspect_err(|_| self.disable_messages(function))
            }
            (_, None) => Err(Errno::EINVAL),
            (IrqData::Eventfds(triggers), Some(_)) => match &mut self.messages {
                Some(messages) => messages.set_triggers(function, request.start, triggers),
                None => Err(Errno::EINVAL),
            },
            (data, Some(_)) => {
                let triggers = self.messages.iter().flat_map(|messages| &messages.triggers);
                let selected = triggers.skip(request.start as usize).take(request.count as usize);
                for (offset, trigger) in selected.enumerate() {
                    let is_signalled = match &data {
                        IrqData::Bools(bools) => bools.get(offset).is_some_and(|&set| set != 0),
                        IrqData::None | IrqData::Eventfds(_) => true,
                    };
                    trigger.iter().filter(|_| is_signalled).for_each(|file| signal(file));
                }
                Ok(())
            }
        }
    }

    /// Disables messages: none arrives afterwards.
    pub fn disable_messages(&mut self, function: &BoundFunction) {
        let Some(messages) = self.messages.take() else { return };
        let mut host = function.host.lock();
        match messages.index {
            IRQ_MSIX => host.set_msix(function.at.bdf, MsixState::Disabled),
            _ => host.disable_msi(function.at.bdf),
        }
        drop(host);
        // Discards the events of the function.
        drop(messages);
    }

    /// Disables all interrupts, for the last close.
    pub fn clear(&mut self, function: &BoundFunction) {
        self.disable_messages(function);
        for event in &function.events {
            let old = event.lock().take();
            drop(old);
        }
    }

    /// Sets up the messages again after a reset, which has cleared the registers.
    pub fn restore(&mut self, function: &BoundFunction) -> Result<(), Errno> {
        self.messages.as_mut().map_or(Ok(()), |messages| messages.program(function))
    }
}

/// Sets or signals the only vector of a kind.
fn set_event(event: &SpinLock<Trigger>, request: &IrqSet, data: IrqData) -> Result<(), Errno> {
    let replacement = match data {
        IrqData::None if request.count == 0 => None,
        IrqData::None => {
            signal_event(event);
            return Ok(());
        }
        IrqData::Bools(bools) => {
            if bools.first().is_some_and(|&set| set != 0) {
                signal_event(event);
            }
            return Ok(());
        }
        IrqData::Eventfds(mut triggers) if triggers.len() == 1 => triggers.pop().flatten(),
        IrqData::Eventfds(_) => return Err(Errno::EINVAL),
    };
    let old = core::mem::replace(&mut *event.lock(), replacement);
    // Closed without the lock.
    drop(old);
    Ok(())
}

/// Signals an eventfd, if there is one.
pub fn signal_event(event: &SpinLock<Trigger>) {
    let file = event.lock().clone();
    file.iter().for_each(|file| signal(file));
}

impl Messages {
    /// Allocates the vectors of all entries, and enables the messages, all masked.
    ///
    /// # Errors
    /// `EINVAL` without a function in the attachment, `ENOSPC` without interrupts, `ENOMEM`, `EIO` if a
    /// controller does not respond.
    fn enable(function: &BoundFunction, attached: &AttachedGroup, index: u32) -> Result<Self, Errno> {
        let device = attached.device(function.stream()?).ok_or(Errno::EINVAL)?;
        let controller = function.with(|host, found| host.message_controller(found))?;
        let (phandle, id) = controller.ok_or(Errno::EINVAL)?;
        let (count, _) = count(function, index)?;
        let mut triggers = Vec::new();
        triggers.try_reserve_exact(count as usize).map_err(|_| Errno::ENOMEM)?;
        triggers.resize(count as usize, None);
        let vectors = msi::alloc(phandle, id, count, device).map_err(message_errno)?;
        let table = if index == IRQ_MSIX { Some(map_table(function)?) } else { None };
        Ok(Self { index, triggers, vectors, table })
    }

    /// Replaces the eventfds from vector `start` on.
    fn set_triggers(
        &mut self,
        function: &BoundFunction,
        start: u32,
        triggers: Vec<Trigger>,
    ) -> Result<(), Errno> {
        // The number of vectors was read from the function again, which its user's driver may change.
        if start as usize + triggers.len() > self.triggers.len() {
            return Err(Errno::EINVAL);
        }
        for (vector, trigger) in (start as usize..).zip(triggers) {
            let handler = match &trigger {
                Some(file) => Some(heap::try_arc(SignalEventfd(file.clone())).ok_or(Errno::ENOMEM)?),
                None => None,
            };
            let is_set = handler.is_some();
            self.vectors.set_handler(vector, handler.map(|handler| handler as _));
            let changed = if is_set { self.vectors.unmask(vector) } else { self.vectors.mask(vector) };
            changed.map_err(message_errno)?;
            self.triggers[vector] = trigger;
        }
        self.program(function)
    }

    /// Writes the messages with an eventfd to the function, and enables them.
    fn program(&mut self, function: &BoundFunction) -> Result<(), Errno> {
        let bdf = function.at.bdf;
        let Some(MappedTable { table, .. }) = &mut self.table else {
            let message = self.vectors.message(0);
            let is_used = self.triggers.first().is_some_and(Option::is_some);
            let mut host = function.host.lock();
            return if is_used { host.enable_msi(bdf, message).map_err(|_| Errno::EIO) } else { Ok(()) };
        };
        function.host.lock().set_msix(bdf, MsixState::Masked);
        for (vector, trigger) in self.triggers.iter().enumerate() {
            table.set(vector as u16, trigger.as_ref().map(|_| self.vectors.message(vector)));
        }
        function.host.lock().set_msix(bdf, MsixState::Enabled);
        Ok(())
    }
}

fn map_table(function: &BoundFunction) -> Result<MappedTable, Errno> {
    let registers = function.with(|host, found| {
        let location = host.msix_table(found.bdf)?;
        let prefetchable = found.bars[usize::from(location.bar)].is_some_and(|bar| bar.is_prefetchable());
        Some((host.msix_registers(found.bdf, location)?, prefetchable))
    })?;
    let (registers, prefetchable) = registers.ok_or(Errno::EINVAL)?;
    let memory = if prefetchable { MemoryType::NonCacheable } else { MemoryType::Device };
    let mapping = vmalloc::map_registers_for_access(registers, memory).map_err(|_| Errno::ENOMEM)?;
    let start = mapping.range().start() + registers.start().raw() % addr::PAGE_SIZE;
    // SAFETY: mapped while `_mapping` exists; the table of a function that is left to user space, whose
    // memory space is enabled.
    let window = unsafe { MmioWindow::new(start, registers.len()) };
    Ok(MappedTable { table: MsixTable::new(window), _mapping: mapping })
}

fn message_errno(error: MsiError) -> Errno {
    match error {
        MsiError::OutOfMemory => Errno::ENOMEM,
        MsiError::Its(_) | MsiError::Lpis(_) | MsiError::OutOfSpis(_) | MsiError::V2m(_) => Errno::ENOSPC,
        _ => Errno::EIO,
    }
}
