//! A function that is bound to `vfio-pci`: its open files, and its state between the first open and the last
//! close.

use super::group::{AttachedGroup, IommuGroup};
use super::interrupts::{self, Interrupts, IrqData, Trigger};
use crate::devices::pci::{PciAddress, PciHost};
use crate::process::tree;
use crate::sched::{self, Mutex, Nanoseconds, time};
use crate::sync::SpinLock;
use crate::vm::registers::RegisterRegion;
use abi::Errno;
use abi::vfio::IrqSet;
use addr::{Address, MemoryType, PAGE_SIZE, StreamId};
use alloc::string::String;
use alloc::sync::Arc;
use drivers::pcie::{BarKind, ConfigWrite, Function, Host, PendingReset, StreamLive, UserConfig, Width};

const MILLISECOND: Nanoseconds = 1_000_000;
/// The longest time for transactions to complete, and for a function to respond after a reset (PCIe 5.0,
/// 6.6.1).
const RESET_LIMIT: Nanoseconds = 1000 * MILLISECOND;

/// A function that is left to user-space drivers.
pub struct BoundFunction {
    pub at: PciAddress,
    pub host: &'static PciHost,
    /// `0000:00:03.0`
    pub name: String,
    /// The number in `/dev/vfio/devices/vfioN`.
    pub number: u32,
    pub group: Arc<IommuGroup>,
    /// The eventfds of errors and of requests to close the function. Not in `state`: the quarantine of a
    /// device signals them, and must not wait for a reset.
    pub events: [SpinLock<Trigger>; 2],
    state: Mutex<OpenState>,
}

/// The state while the function is open.
struct OpenState {
    opens: u32,
    /// Exists while it is open.
    config: Option<UserConfig>,
    /// The BARs that programs can map: those of the last opening, if it is closed.
    regions: BarRegions,
    interrupts: Interrupts,
}

/// The regions of BARs.
type BarRegions = [Option<Arc<RegisterRegion>>; 6];

/// An open function, which [`close`](Self::close) must end.
pub struct OpenFunction {
    function: Arc<BoundFunction>,
}

impl BoundFunction {
    pub fn new(
        at: PciAddress,
        host: &'static PciHost,
        name: String,
        number: u32,
        group: Arc<IommuGroup>,
    ) -> Self {
        let state = Mutex::new(OpenState {
            opens: 0,
            config: None,
            regions: Default::default(),
            interrupts: Interrupts::default(),
        });
        let events = [const { SpinLock::new(None) }; 2];
        Self { at, host, name, number, group, events, state }
    }

    /// Opens the function: the first open resets it.
    ///
    /// # Errors
    /// `EBUSY` while another device of the last user has its registers mapped, `ENODEV` if it does not
    /// respond, `ENOMEM`.
    pub fn open(self: &Arc<Self>) -> Result<OpenFunction, Errno> {
        let mut state = self.state.lock();
        if state.opens == 0 {
            let is_mapped = |region: &Arc<RegisterRegion>| region.is_mapped_for_devices();
            if state.regions.iter().flatten().any(is_mapped) {
                return Err(Errno::EBUSY);
            }
            self.host.lock().enable(self.at.bdf);
            self.reset_function()?;
            let (config, regions) = (self.user_config()?, self.regions()?);
            (state.config, state.regions) = (Some(config), regions);
        }
        state.opens += 1;
        Ok(OpenFunction { function: self.clone() })
    }

    /// Signals the eventfd for errors.
    pub fn signal_error(&self) {
        interrupts::signal_event(&self.events[0]);
    }

    pub fn is_open(&self) -> bool {
        self.state.lock().opens > 0
    }

    /// Returns the regions of the BARs that have whole pages.
    fn regions(&self) -> Result<BarRegions, Errno> {
        let mut regions = BarRegions::default();
        let bars = self.with(|_, function| function.bars)?;
        for (region, bar) in regions.iter_mut().zip(bars) {
            let Some((BarKind::Memory { prefetchable, .. }, registers)) =
                bar.and_then(|bar| Some((bar.kind, bar.registers?)))
            else {
                continue;
            };
            if !registers.start().is_aligned(PAGE_SIZE) || !registers.len().is_multiple_of(PAGE_SIZE) {
                continue;
            }
            let memory = if prefetchable { MemoryType::NonCacheable } else { MemoryType::Device };
            // SAFETY: a BAR, which is no RAM, of a function that is left to user space; it is disabled at the
            // last close, before the function has another user. The kernel's accesses have this type, too.
            *region = Some(unsafe { RegisterRegion::new(registers, memory) }.ok_or(Errno::ENOMEM)?);
        }
        Ok(regions)
    }

    fn user_config(&self) -> Result<UserConfig, Errno> {
        let host = self.host.lock();
        let function = host.function(self.at.bdf).ok_or(Errno::ENODEV)?;
        UserConfig::new(host.config(), function).map_err(|_| Errno::ENOMEM)
    }

    /// Calls `visit` with the function and its host bridge, which is locked.
    ///
    /// # Errors
    /// `ENODEV`
    pub fn with<R>(&self, visit: impl FnOnce(&Host, &Function) -> R) -> Result<R, Errno> {
        let host = self.host.lock();
        let function = host.function(self.at.bdf).ok_or(Errno::ENODEV)?;
        Ok(visit(&host, function))
    }

    /// The StreamID.
    ///
    /// # Errors
    /// `ENODEV`
    pub fn stream(&self) -> Result<StreamId, Errno> {
        self.with(|host, function| host.stream(function))?.map(|(_, stream)| stream).ok_or(Errno::ENODEV)
    }

    /// Whether the function can be reset alone.
    pub fn can_reset(&self) -> bool {
        self.host.lock().can_reset(self.at.bdf)
    }

    /// Disables bus mastering, waits for transactions in flight, and resets the function, if it can be reset.
    /// The SMMU aborts its transactions meanwhile, if it is attached: one that arrives late reaches no
    /// memory.
    ///
    /// # Errors
    /// `ENODEV` if it does not respond afterwards.
    fn reset_function(&self) -> Result<(), Errno> {
        let bdf = self.at.bdf;
        self.host.lock().disable(bdf);
        let limit = time::now() + RESET_LIMIT;
        while self.host.lock().has_pending_transactions(bdf) && time::now() < limit {
            sched::sleep_through(time::now() + MILLISECOND);
        }
        let Some(mut reset) = self.host.lock().start_reset(bdf) else {
            self.host.lock().enable(bdf);
            return Ok(());
        };
        sched::sleep_through(time::now() + PendingReset::MILLISECONDS * MILLISECOND);
        let limit = time::now() + RESET_LIMIT;
        loop {
            let finished = self.host.lock().finish_reset(reset);
            match finished {
                Ok(()) => return Ok(()),
                Err(_) if time::now() >= limit => {
                    log::warn!("{}: does not respond after a reset", self.name);
                    return Err(Errno::ENODEV);
                }
                Err(again) => reset = again,
            }
            sched::sleep_through(time::now() + MILLISECOND);
        }
    }
}

/// Enables or disables the mappings of BARs. Disabled ones are removed from all address spaces, before the
/// registers stop to respond.
fn set_enabled(regions: &BarRegions, is_enabled: bool) {
    regions.iter().flatten().for_each(|region| region.set_enabled(is_enabled));
    if is_enabled {
        return;
    }
    for space in tree::all().iter().filter_map(|process| process.space()) {
        regions.iter().flatten().for_each(|region| space.revoke(region));
    }
}

impl OpenFunction {
    /// Returns the index of the BAR with the table of MSI-X.
    pub fn message_table(&self) -> Option<u32> {
        self.function.with(|host, function| host.msix_table(function.bdf)).ok()?.map(|table| table.bar.into())
    }

    /// Returns the region of a BAR that programs can map.
    pub fn region(&self, index: u32) -> Option<Arc<RegisterRegion>> {
        self.function.state.lock().regions.get(index as usize)?.clone()
    }

    pub fn function(&self) -> &Arc<BoundFunction> {
        &self.function
    }

    /// The number of bytes of configuration space.
    pub fn config_size(&self) -> u16 {
        self.function.state.lock().config.as_ref().map_or(0, UserConfig::size)
    }

    /// Accesses registers of a BAR, which is not reset meanwhile.
    ///
    /// # Errors
    /// `EIO` if the user's driver has memory space disabled, or the function does not respond.
    pub fn access_registers<R>(&self, access: impl FnOnce() -> R) -> Result<R, Errno> {
        let state = self.function.state.lock();
        let decodes = state.config.as_ref().is_some_and(UserConfig::decodes_memory);
        if decodes { Ok(access()) } else { Err(Errno::EIO) }
    }

    /// Sets or signals interrupts (`VFIO_DEVICE_SET_IRQS`).
    ///
    /// # Errors
    /// Those of [`Interrupts::set`].
    pub fn set_interrupts(
        &self,
        attached: Option<&AttachedGroup>,
        request: &IrqSet,
        data: IrqData,
    ) -> Result<(), Errno> {
        let mut state = self.function.state.lock();
        if state.config.is_none() {
            return Err(Errno::ENODEV);
        }
        state.interrupts.set(&self.function, attached, request, data)
    }

    /// Disables messages, before the function is detached: their doorbell is in the domain.
    pub fn disable_messages(&self) {
        self.function.state.lock().interrupts.disable_messages(&self.function);
    }

    /// Reads an aligned register inside configuration space.
    pub fn read_config(&self, offset: u16, width: Width) -> u32 {
        let state = self.function.state.lock();
        let host = self.function.host.lock();
        let at = self.function.at.bdf;
        state.config.as_ref().map_or(u32::MAX, |config| config.read(host.config(), at, offset, width))
    }

    /// Writes an aligned register inside configuration space.
    ///
    /// # Errors
    /// Those of [`reset`](Self::reset), if the write requests one.
    pub fn write_config(
        &self,
        offset: u16,
        width: Width,
        value: u32,
        attached: Option<&AttachedGroup>,
    ) -> Result<(), Errno> {
        let function = &self.function;
        let mut state = function.state.lock();
        let write = {
            let mut host = function.host.lock();
            let Some(config) = &mut state.config else { return Err(Errno::ENODEV) };
            let write = config.write(host.config(), function.at.bdf, offset, width, value);
            if let ConfigWrite { register: Some(value), .. } = write {
                let requester = host.function(function.at.bdf).ok_or(Errno::ENODEV)?.requester;
                // SAFETY: the function is bound: the SMMU translates its stream for the I/O address space
                // that the user attached, or aborts it.
                let live = unsafe { StreamLive::promise(requester) };
                let written = host.write_for_user(function.at.bdf, offset, width, value, live);
                written.map_err(|_| Errno::ENODEV)?;
            }
            write
        };
        if let Some(is_enabled) = write.memory {
            set_enabled(&state.regions, is_enabled);
        }
        drop(state);
        if write.reset { self.reset(attached) } else { Ok(()) }
    }

    /// Resets the function (`VFIO_DEVICE_RESET`); its registers have their initial values for the user's
    /// driver.
    ///
    /// # Errors
    /// `EINVAL` if it cannot be reset alone, `ENODEV` if it does not respond afterwards.
    pub fn reset(&self, attached: Option<&AttachedGroup>) -> Result<(), Errno> {
        let function = &self.function;
        if !function.can_reset() {
            return Err(Errno::EINVAL);
        }
        let mut state = function.state.lock();
        set_enabled(&state.regions, false);
        let device = attached.and_then(|attached| attached.device(function.stream().ok()?));
        let is_blocked = device.is_some_and(|device| device.rearm().is_ok() && device.block().is_ok());
        let reset = function.reset_function();
        if is_blocked && let Some(device) = device {
            let _ = device.unblock();
        }
        if let Err(error) = reset {
            // Its registers do not respond.
            state.config = None;
            return Err(error);
        }
        state.config = Some(function.user_config()?);
        set_enabled(&state.regions, true);
        state.interrupts.restore(function)
    }

    /// Ends the abort of an earlier close, in a domain that stayed attached. Bus mastering is disabled.
    pub fn unblock(&self, attached: Option<&AttachedGroup>) {
        let stream = self.function.stream().ok();
        if let Some(device) = attached.zip(stream).and_then(|(attached, stream)| attached.device(stream)) {
            let _ = device.rearm();
            let _ = device.unblock();
        }
    }

    /// Disables the function for the last close, in the order in which no transaction reaches memory that is
    /// given up: the SMMU aborts them, bus mastering is off, those in flight arrive, and the function is
    /// reset.
    fn disable(&self, attached: Option<&AttachedGroup>) {
        let function = &self.function;
        let device = attached.and_then(|attached| attached.device(function.stream().ok()?));
        if let Some(device) = device
            && device.block().is_err()
        {
            // Quarantined: a block would need a rearm, which a killed program does not wait for.
            device.abort();
        }
        let _ = function.reset_function();
        function.host.lock().disable(function.at.bdf);
    }

    /// Closes the function, which `attached` has in its domain; the last close resets it.
    pub fn close(self, attached: Option<&AttachedGroup>) {
        let mut state = self.function.state.lock();
        state.opens -= 1;
        if state.opens == 0 {
            state.config = None;
            set_enabled(&state.regions, false);
            state.interrupts.clear(&self.function);
            self.disable(attached);
        }
    }
}
