//! The device table and the collection table of an ITS (IHI 0069, 5.2 and 12.19.1).

use super::memory::{ITS_INNER_CACHE, ItsCoherency, write_base};
use super::registers::{BASE_REGISTERS, GITS_BASER, ItsFeatures, VALID};
use super::{ItsError, ItsIntegration};
use crate::mmio::RegisterAccess;
use crate::region::{Region, RegionSource};
use addr::PAGE_SIZE;
use alloc::vec::Vec;

const INDIRECT: u64 = 1 << 62;
/// The types of tables.
const DEVICES: u64 = 1;
const COLLECTIONS: u64 = 4;
/// The maximum number of pages of a table in GITS_BASERn.Size.
const MAX_PAGES: u64 = 256;
/// Size of a first-level entry.
const LEVEL_1_ENTRY: u64 = 8;
/// The maximum size of a first level or of a flat table.
const MAX_TABLE_BYTES: u64 = 1 << 20;
/// The page sizes by GITS_BASERn.Page_Size; the last value is reserved.
const PAGE_BYTES: [u64; 4] = [0x1000, 0x4000, 0x1_0000, 0x1_0000];

/// The layout of a table in pages of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct TableLayout {
    indirect: bool,
    page_bytes: u64,
    entry_bytes: u64,
    /// Size of the flat table or of the first level.
    bytes: u64,
    /// The number of entries that the table can have.
    entries: u64,
}

impl TableLayout {
    /// The layout for `wanted` entries, or for as many as fit.
    fn new(wanted: u64, entry_bytes: u64, page_bytes: u64, indirect: bool) -> Self {
        let (slot_bytes, per_slot) =
            if indirect { (LEVEL_1_ENTRY, page_bytes / entry_bytes) } else { (entry_bytes, 1) };
        let limit = MAX_TABLE_BYTES.min(MAX_PAGES * page_bytes);
        let bytes = (wanted.div_ceil(per_slot) * slot_bytes).min(limit).next_multiple_of(page_bytes);
        // The allocator's sizes are powers of two.
        let bytes = bytes.next_power_of_two();
        let entries = (bytes / slot_bytes * per_slot).min(wanted);
        Self { indirect, page_bytes, entry_bytes, bytes, entries }
    }
}

/// A table of an ITS, flat or of two levels.
pub(super) struct ItsTable {
    /// The offset of its GITS_BASERn.
    register: u64,
    layout: TableLayout,
    coherency: ItsCoherency,
    /// The flat table, or the first level.
    first: Region,
    /// The pages of the second level, which are never freed: an ITS may cache a first-level entry.
    second: Vec<Region>,
}

/// The tables that the driver uses; the others are for virtual LPIs.
pub(super) struct ItsTables {
    pub devices: ItsTable,
    pub collections: Option<ItsTable>,
}

impl ItsTables {
    /// Allocates the tables for `cpus` collections and writes the base registers. The ITS is disabled and
    /// quiescent.
    pub fn start(
        registers: &mut impl RegisterAccess,
        features: &ItsFeatures,
        cpus: u32,
        integration: ItsIntegration,
        memory: &mut impl RegionSource,
    ) -> Result<Self, ItsError> {
        let mut tables = [None, None];
        let started = start_all(registers, features, cpus, integration, memory, &mut tables);
        let [devices, collections] = tables;
        match (started, devices) {
            (Ok(()), Some(devices)) => Ok(Self { devices, collections }),
            (result, devices) => {
                for table in devices.into_iter().chain(collections) {
                    registers.write64(table.register, 0);
                    memory.release(table.first);
                }
                Err(result.err().unwrap_or(ItsError::NoDeviceTable))
            }
        }
    }

    /// The weakest coherency.
    pub fn coherency(&self) -> ItsCoherency {
        let collections = self.collections.as_ref().map_or(ItsCoherency::Coherent, |table| table.coherency);
        self.devices.coherency.and(collections)
    }
}

impl ItsTable {
    fn start(
        registers: &mut impl RegisterAccess,
        register: u64,
        wanted: u64,
        may_be_indirect: bool,
        integration: ItsIntegration,
        memory: &mut impl RegionSource,
    ) -> Result<Self, ItsError> {
        let layout = probe(registers, register, wanted, may_be_indirect);
        let first = integration.allocate(memory, layout.bytes).ok_or(ItsError::OutOfMemory)?;
        let mut value = VALID | address_field(first.start().raw(), layout.page_bytes);
        value |= page_size_field(layout.page_bytes) | (layout.bytes / layout.page_bytes - 1);
        value |= if layout.indirect { INDIRECT } else { 0 };
        // The entries are zero in memory before the ITS may read them.
        ItsCoherency::NonCoherent.publish_all(&first);
        let forced = integration.forced();
        let (read, coherency) = write_base(registers, register, value, ITS_INNER_CACHE, forced);
        const CHECKED: u64 = VALID | INDIRECT | 0x0000_ffff_ffff_f000 | 0x3ff;
        if (read ^ value) & CHECKED != 0 {
            memory.release(first);
            return Err(ItsError::TableRefused { written: value, read });
        }
        Ok(Self { register, layout, coherency, first, second: Vec::new() })
    }

    /// The number of devices that the table can have.
    pub fn entries(&self) -> u64 {
        self.layout.entries
    }

    /// Adds the page of the second level with the entry of device `id`, unless it exists.
    pub fn reserve(
        &mut self,
        id: u32,
        integration: ItsIntegration,
        memory: &mut impl RegionSource,
    ) -> Result<(), ItsError> {
        if u64::from(id) >= self.layout.entries {
            return Err(ItsError::DeviceOutOfRange(id));
        }
        let TableLayout { indirect, page_bytes, entry_bytes, .. } = self.layout;
        let slot = (u64::from(id) / (page_bytes / entry_bytes)) as usize;
        if !indirect || self.first.load::<1>(slot)[0] & VALID != 0 {
            return Ok(());
        }
        self.second.try_reserve(1).map_err(|_| ItsError::OutOfMemory)?;
        let page = integration.allocate(memory, page_bytes).ok_or(ItsError::OutOfMemory)?;
        self.coherency.publish_all(&page);
        self.first.store(slot, &[VALID | page.start().raw()]);
        self.coherency.clean(&self.first.words()[slot..=slot]);
        self.coherency.publish();
        self.second.push(page);
        Ok(())
    }
}

/// Starts the device table and the collection table, in this order in `tables`.
fn start_all(
    registers: &mut impl RegisterAccess,
    features: &ItsFeatures,
    cpus: u32,
    integration: ItsIntegration,
    memory: &mut impl RegionSource,
    tables: &mut [Option<ItsTable>; 2],
) -> Result<(), ItsError> {
    for register in (0..BASE_REGISTERS).map(|index| GITS_BASER + 8 * index) {
        let (index, entries) = match registers.read64(register) >> 56 & 7 {
            DEVICES => (0, 1 << features.device_bits),
            COLLECTIONS => (1, u64::from(cpus)),
            // Without valid bit: an earlier stage may have left a table for virtual LPIs.
            _ => {
                registers.write64(register, 0);
                continue;
            }
        };
        let table = ItsTable::start(registers, register, entries, index == 0, integration, memory)?;
        tables[index] = Some(table);
    }
    Ok(())
}

/// Determines the layout: the smallest page size that the ITS accepts and in which all entries fit, or else
/// the largest; two levels if a page is too small and the ITS supports them.
fn probe(
    registers: &mut impl RegisterAccess,
    register: u64,
    wanted: u64,
    may_be_indirect: bool,
) -> TableLayout {
    let entry_bytes = (registers.read64(register) >> 48 & 0x1f) + 1;
    let mut last = None;
    for size in 0..3 {
        registers.write64(register, INDIRECT | size << 8);
        let read = registers.read64(register);
        let page_bytes = PAGE_BYTES[(read >> 8 & 3) as usize];
        let flat = wanted * entry_bytes <= page_bytes;
        let indirect = may_be_indirect && !flat && read & INDIRECT != 0;
        let layout = TableLayout::new(wanted, entry_bytes, page_bytes, indirect);
        if layout.entries >= wanted {
            return layout;
        }
        last = Some(layout);
    }
    last.unwrap_or(TableLayout::new(wanted, entry_bytes, PAGE_SIZE, false))
}

fn page_size_field(page_bytes: u64) -> u64 {
    let size = PAGE_BYTES.iter().position(|&bytes| bytes == page_bytes).unwrap_or(0);
    (size as u64) << 8
}

/// With 64 KiB pages, bits 15 to 12 are the address bits 51 to 48.
fn address_field(start: u64, page_bytes: u64) -> u64 {
    if page_bytes == PAGE_BYTES[2] { start & 0xffff_ffff_0000 | start >> 48 << 12 } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_two_levels_only_if_a_page_is_too_small() {
        let layout = |wanted, page, indirect| TableLayout::new(wanted, 8, page, indirect);
        let small = layout(1 << 16, 0x1000, true);
        assert_eq!((small.bytes, small.entries), (0x1000, 1 << 16), "128 entries of the first level");
        let flat = layout(1 << 16, 0x1000, false);
        assert_eq!((flat.bytes, flat.entries), (1 << 19, 1 << 16));
        let large = layout(1 << 32, 0x1000, true);
        assert_eq!((large.bytes, large.entries), (1 << 20, 1 << 26), "the limit of a first level");
        assert_eq!(layout(1 << 32, 0x1_0000, true).entries, 1 << 30);
    }

    #[test]
    fn address_of_64_kib_pages_has_52_bits() {
        assert_eq!(address_field(0x000a_8123_4567_0000, 0x1_0000), 0x8123_4567_a000);
        assert_eq!(
            (address_field(0x8123_4567_8000, 0x1000), page_size_field(0x4000)),
            (0x8123_4567_8000, 1 << 8)
        );
    }
}
