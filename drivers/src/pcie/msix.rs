//! MSI-X (PCIe 5.0, 7.7.2): messages in a table in a BAR.

use super::address::Bdf;
use super::capabilities::{Capabilities, Capability};
use super::config::ConfigSpace;
use super::host::Host;
use super::msi::Message;
use crate::mmio::MmioWindow;
use addr::{AddrRange, PhysAddr};

const CONTROL: u16 = 2;
const TABLE: u16 = 4;
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Bytes of an entry of the table: address, data and vector control.
const ENTRY: u64 = 16;
const MASKED: u32 = 1;

/// The table of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsixTableLocation {
    /// The number of entries, 1 to 2048.
    pub vectors: u16,
    /// The BAR.
    pub bar: u8,
    /// The offset in the BAR.
    pub offset: u32,
}

/// The state of MSI-X of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsixState {
    /// The function sends no MSI-X messages.
    Disabled,
    /// Enabled, with all vectors masked.
    Masked,
    /// Enabled: entries that are not masked send messages.
    Enabled,
}

impl<C: ConfigSpace> Host<C> {
    fn msix(&self, bdf: Bdf) -> Option<u16> {
        let found = Capabilities::of(self.config(), bdf).find(|found| found.id == Capability::MSI_X)?;
        (found.offset + 12 <= 0x100).then_some(found.offset)
    }

    /// Returns the location of the function's table; `None` without MSI-X, or with a table outside of its
    /// BARs.
    pub fn msix_table(&self, bdf: Bdf) -> Option<MsixTableLocation> {
        let at = self.msix(bdf)?;
        let (control, table) =
            (self.config().read16(bdf, at + CONTROL), self.config().read32(bdf, at + TABLE));
        let location =
            MsixTableLocation { vectors: (control & 0x7ff) + 1, bar: (table & 7) as u8, offset: table & !7 };
        self.msix_registers(bdf, location).map(|_| location)
    }

    /// Returns the registers of a table.
    pub fn msix_registers(&self, bdf: Bdf, location: MsixTableLocation) -> Option<AddrRange<PhysAddr>> {
        let bar = (*self.function(bdf)?.bars.get(usize::from(location.bar))?)?.registers?;
        let start = bar.start() + u64::from(location.offset);
        let table = AddrRange::from_len(start, u64::from(location.vectors) * ENTRY)?;
        bar.covers(&table).then_some(table)
    }

    /// Sets the state of the function's MSI-X, and disables INTx unless it is [`MsixState::Disabled`].
    pub fn set_msix(&mut self, bdf: Bdf, state: MsixState) {
        let Some(at) = self.msix(bdf) else { return };
        let bits = match state {
            MsixState::Disabled => 0,
            MsixState::Masked => ENABLE | FUNCTION_MASK,
            MsixState::Enabled => ENABLE,
        };
        let control = self.config().read16(bdf, at + CONTROL) & !(ENABLE | FUNCTION_MASK);
        self.config_mut().write16(bdf, at + CONTROL, control | bits);
    }
}

/// The mapped table of a function.
pub struct MsixTable(MmioWindow);

impl MsixTable {
    /// The table that `window` begins with.
    pub fn new(window: MmioWindow) -> Self {
        Self(window)
    }

    /// Sets the message of an entry and unmasks it; `None` masks it. Panics without the entry.
    pub fn set(&mut self, index: u16, message: Option<Message>) {
        let entry = u64::from(index) * ENTRY;
        // An entry must not change while it is not masked.
        self.0.write32(entry + 12, MASKED);
        if let Some(Message { address, data }) = message {
            self.0.write32(entry, address as u32);
            self.0.write32(entry + 4, (address >> 32) as u32);
            self.0.write32(entry + 8, data);
            self.0.write32(entry + 12, 0);
        }
        // Writes before this read have arrived when it completes.
        self.0.read32(entry + 12);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeFunction;
    use super::super::host::tests::host_of;
    use super::*;
    use crate::fake::FakeRegisters;

    const AT: Bdf = Bdf::new(0, 0, 0);

    fn function(table: u32) -> FakeFunction {
        let mut function = FakeFunction::endpoint(0x8086, 2).bar(3, 0, 0x4000).writable32(0x70, 0xc000_0000);
        function.set8(0x06, 1 << 4);
        function.set8(0x34, 0x70);
        function.set32(0x70, 0x0009_0011);
        function.set32(0x74, table);
        function
    }

    #[test]
    fn table_is_inside_its_bar() {
        let host = host_of([
            function(3),
            function(0x2003),
            function(0x3ff3),
            function(0x3f63),
            function(4),
            function(7),
        ]);
        let found = (0..6).map(|device| host.msix_table(Bdf::new(0, device, 0)));
        let at = |offset| Some(MsixTableLocation { vectors: 10, bar: 3, offset });
        assert_eq!(found.collect::<Vec<_>>(), [at(0), at(0x2000), None, at(0x3f60), None, None]);
        assert_eq!(host_of([FakeFunction::endpoint(1, 2)]).msix_table(AT), None);
    }

    #[test]
    fn state_changes_two_bits() {
        let mut host = host_of([function(3)]);
        for (state, control) in
            [(MsixState::Masked, 0xc009), (MsixState::Enabled, 0x8009), (MsixState::Disabled, 9)]
        {
            host.set_msix(AT, state);
            assert_eq!(host.config().read16(AT, 0x72), control);
        }
    }

    #[test]
    fn entry_is_masked_while_it_changes() {
        let fake = FakeRegisters::new(0x1000);
        let mut table = MsixTable::new(fake.window());
        table.set(2, Some(Message { address: 0x1_0800_0040, data: 7 }));
        let words = [0x20, 0x24, 0x28, 0x2c].map(|offset| fake.get32(offset));
        assert_eq!(words, [0x0800_0040, 1, 7, 0]);
        table.set(2, None);
        assert_eq!(fake.get32(0x2c), MASKED);
    }
}
