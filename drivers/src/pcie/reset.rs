//! Reset of one function: function level reset (PCIe 5.0, 6.6.2), or that of the advanced features of
//! conventional PCI.

use super::address::Bdf;
use super::capabilities::{Capabilities, Capability};
use super::config::ConfigSpace;
use super::function::{COMMAND, INTX_OFF, MEMORY};
use super::host::Host;

const BARS: u16 = 0x10;
/// BARs, and the registers that firmware set up: cache line size, interrupt line.
const SAVED: [u16; 8] = [0x0c, BARS, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x3c];

/// How a function is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ResetMethod {
    /// The PCI Express capability at this offset.
    Express(u16),
    /// The advanced features capability at this offset.
    AdvancedFeatures(u16),
}

/// A function that is being reset.
#[must_use]
#[derive(Debug)]
pub struct PendingReset {
    bdf: Bdf,
    registers: [u32; SAVED.len()],
}

impl PendingReset {
    /// The time after [`Host::start_reset`] in which the function must not be accessed, in milliseconds.
    pub const MILLISECONDS: u64 = 100;
}

impl<C: ConfigSpace> Host<C> {
    fn reset_method(&self, bdf: Bdf) -> Option<ResetMethod> {
        let config = self.config();
        Capabilities::of(config, bdf).find_map(|found| match found.id {
            Capability::EXPRESS if found.offset + 12 <= 0x100 => {
                let supported = config.read32(bdf, found.offset + 4) & 1 << 28 != 0;
                supported.then_some(ResetMethod::Express(found.offset))
            }
            Capability::ADVANCED_FEATURES if found.offset + 6 <= 0x100 => {
                // Transactions pending and function level reset.
                let supported = config.read8(bdf, found.offset + 3) & 3 == 3;
                supported.then_some(ResetMethod::AdvancedFeatures(found.offset))
            }
            _ => None,
        })
    }

    /// Whether the function can be reset alone.
    pub fn can_reset(&self, bdf: Bdf) -> bool {
        self.reset_method(bdf).is_some()
    }

    /// Whether requests of the function have no completion yet. A driver disables bus mastering, and waits
    /// until there are none, before a reset.
    pub fn has_pending_transactions(&self, bdf: Bdf) -> bool {
        match self.reset_method(bdf) {
            Some(ResetMethod::Express(at)) => self.config().read16(bdf, at + 10) & 1 << 5 != 0,
            Some(ResetMethod::AdvancedFeatures(at)) => self.config().read8(bdf, at + 5) & 1 != 0,
            None => false,
        }
    }

    /// Disables bus mastering, decoding and INTx of a function. Requests that it sent before have arrived
    /// when this returns: the completion of a read does not pass them (PCIe 5.0, 2.4.1).
    pub fn disable(&mut self, bdf: Bdf) {
        self.write_command(bdf, INTX_OFF);
        self.config().read16(bdf, COMMAND);
    }

    /// Starts a reset of a disabled function; `None` if it cannot be reset alone. After
    /// [`PendingReset::MILLISECONDS`], [`finish_reset`](Self::finish_reset) is called until it succeeds.
    pub fn start_reset(&mut self, bdf: Bdf) -> Option<PendingReset> {
        let method = self.reset_method(bdf)?;
        let registers = SAVED.map(|register| self.config().read32(bdf, register));
        match method {
            ResetMethod::Express(at) => {
                let control = self.config().read16(bdf, at + 8);
                self.config_mut().write16(bdf, at + 8, control | 1 << 15);
            }
            ResetMethod::AdvancedFeatures(at) => {
                self.config_mut().write(bdf, at + 4, super::Width::Byte, 1);
            }
        }
        Some(PendingReset { bdf, registers })
    }

    /// Restores the registers of the function and enables memory decoding; returns it if the function is not
    /// ready yet.
    ///
    /// # Errors
    /// `reset`, to be tried again.
    pub fn finish_reset(&mut self, reset: PendingReset) -> Result<(), PendingReset> {
        // All ones, or the vendor 1 of a completion with configuration request retry status.
        if matches!(self.config().read16(reset.bdf, 0), 0xffff | 0x0001) {
            return Err(reset);
        }
        for (register, value) in SAVED.into_iter().zip(reset.registers) {
            self.config_mut().write32(reset.bdf, register, value);
        }
        self.write_command(reset.bdf, INTX_OFF | MEMORY);
        Ok(())
    }

    /// Enables memory decoding of a disabled function whose BARs have addresses.
    pub fn enable(&mut self, bdf: Bdf) {
        self.write_command(bdf, INTX_OFF | MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeFunction;
    use super::super::host::tests::host_of;
    use super::*;

    const AT: Bdf = Bdf::new(0, 0, 0);

    #[test]
    fn reset_restores_the_addresses() {
        let mut function = FakeFunction::endpoint(0x8086, 2).bar(0, 0, 4096).with_express(9);
        function.set32(0x64, 1 << 28);
        function = function.writable32(0x68, 0xffff);
        let mut host = host_of([function]);
        host.config_mut().write32(AT, BARS, 0x1000_0000);
        host.disable(AT);
        let reset = host.start_reset(AT).unwrap();
        assert_eq!(host.config().read16(AT, 0x68), 1 << 15);
        // The effect of the reset.
        host.config_mut().write32(AT, BARS, 0);
        host.finish_reset(reset).unwrap();
        assert_eq!(host.config().read32(AT, BARS), 0x1000_0000);
        assert_eq!(host.config().read16(AT, COMMAND), INTX_OFF | MEMORY);
    }

    #[test]
    fn function_without_a_reset_is_refused() {
        let host = &mut host_of([FakeFunction::endpoint(1, 2), FakeFunction::endpoint(1, 2).with_express(9)]);
        for device in 0..2 {
            let at = Bdf::new(0, device, 0);
            assert!(!host.can_reset(at) && host.start_reset(at).is_none());
        }
    }

    #[test]
    fn pending_transactions_are_reported() {
        let mut function = FakeFunction::endpoint(1, 2).with_express(9);
        function.set32(0x64, 1 << 28);
        function.set32(0x68, 1 << 21);
        assert!(host_of([function]).has_pending_transactions(AT));
    }
}
