//! Registers of an ITS (IHI 0069, 12.19).

use super::ItsError;
use super::errata::{ItsErratum, ItsWorkaround};
use crate::mmio::RegisterAccess;

pub(super) const GITS_CTLR: u64 = 0;
pub(super) const GITS_IIDR: u64 = 0x4;
pub(super) const GITS_TYPER: u64 = 0x8;
pub(super) const GITS_CBASER: u64 = 0x80;
pub(super) const GITS_CWRITER: u64 = 0x88;
pub(super) const GITS_CREADR: u64 = 0x90;
pub(super) const GITS_BASER: u64 = 0x100;
/// The offset of GITS_TRANSLATER, in the second 64 KiB frame.
pub const GITS_TRANSLATER: u64 = 0x1_0040;
/// The size of the two frames.
pub const ITS_BYTES: u64 = 0x2_0000;

pub(super) const BASE_REGISTERS: u64 = 8;
/// GITS_CTLR.
pub(super) const ENABLED: u32 = 1;
pub(super) const QUIESCENT: u32 = 1 << 31;
/// GITS_CBASER and GITS_BASERn.
pub(super) const VALID: u64 = 1 << 63;

/// The properties of an ITS, from GITS_TYPER and GITS_IIDR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItsFeatures {
    /// Number of bits of a DeviceID.
    pub device_bits: u8,
    /// Number of bits of an EventID.
    pub event_bits: u8,
    /// Size of an entry of an interrupt translation table in bytes.
    pub itt_entry: u64,
    /// Whether commands name a redistributor by its address.
    pub targets_by_address: bool,
    /// Number of collections that the ITS holds itself.
    pub own_collections: u32,
    /// Number of bits of an ICID, if the collections are in memory.
    pub collection_bits: u8,
    /// The erratum of the implementation.
    pub erratum: Option<&'static ItsErratum>,
}

impl ItsFeatures {
    /// Reads the features.
    ///
    /// # Errors
    /// [`ItsError::NoPhysicalLpis`], [`ItsError::Erratum`].
    pub fn read(registers: &impl RegisterAccess) -> Result<Self, ItsError> {
        let typer = registers.read64(GITS_TYPER);
        let erratum = ItsErratum::of(registers.read32(GITS_IIDR));
        if typer & 1 == 0 {
            return Err(ItsError::NoPhysicalLpis);
        }
        let field = |shift: u32, bits: u32| typer >> shift & ((1 << bits) - 1);
        let itt_entry = match erratum.map(|erratum| erratum.workaround) {
            Some(ItsWorkaround::Reject) => {
                return Err(ItsError::Erratum(erratum.map_or("", |found| found.name)));
            }
            Some(ItsWorkaround::IttEntryBytes(bytes)) => bytes,
            Some(ItsWorkaround::Unaffected) | None => field(4, 4) + 1,
        };
        // Without GITS_TYPER.CIL an ICID has 16 bits.
        let collection_bits = if field(36, 1) != 0 { field(32, 4) as u8 + 1 } else { 16 };
        Ok(Self {
            device_bits: field(13, 5) as u8 + 1,
            event_bits: field(8, 5) as u8 + 1,
            itt_entry,
            targets_by_address: field(19, 1) != 0,
            own_collections: field(24, 8) as u32,
            collection_bits,
            erratum,
        })
    }
}
