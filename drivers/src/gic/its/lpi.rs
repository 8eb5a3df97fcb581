//! LPIs: their configuration and pending tables, and the allocation of their numbers (IHI 0069, 5.1).
//!
//! All redistributors share one configuration table. Once GICR_CTLR.EnableLPIs is 1, it may be impossible to
//! clear, and the tables stay in use permanently. If an earlier boot stage has set it, its tables are used.

use super::memory::{GICR_INNER_CACHE, ItsCoherency, write_base};
use super::{ItsIntegration, NumberSlots};
use crate::mmio::RegisterAccess;
use crate::region::{Region, RegionSource};
use addr::{AddrRange, PhysAddr};
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

const GICR_CTLR: u64 = 0;
const GICR_TYPER: u64 = 0x8;
const GICR_PROPBASER: u64 = 0x70;
const GICR_PENDBASER: u64 = 0x78;
const ENABLE_LPIS: u32 = 1;
/// GICR_TYPER.PLPIS: physical LPIs are supported.
const PLPIS: u64 = 1;
/// GICR_PENDBASER.PTZ: the pending table is zero.
const PENDING_IS_ZERO: u64 = 1 << 62;
const CONFIG_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PENDING_ADDRESS: u64 = 0x000f_ffff_ffff_0000;
const ID_BITS: u64 = 0x1f;

/// The first LPI.
pub const FIRST_LPI: u32 = 8192;
/// The number of bits of an INTID in the tables of this kernel, the architecture's minimum: 8192 LPIs.
const TABLE_ID_BITS: u8 = 14;
/// The maximum number of LPIs in use.
pub const MAX_LPIS: u32 = (1 << TABLE_ID_BITS) - FIRST_LPI;
/// The alignment of a pending table.
const PENDING_BYTES: u64 = 0x1_0000;

/// A byte of the configuration table: bit 0 enables, bit 1 is RES1, the others are the priority.
const CONFIG_ENABLE: u8 = 1;
const CONFIG_DISABLED: u8 = super::super::common::DEFAULT_PRIORITY | 2;

/// LPIs cannot be used, on any CPU or on one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LpiError {
    /// GICD_TYPER describes fewer LPIs than the smallest table has.
    TooFew,
    /// The redistributor has no physical LPIs.
    NotSupported,
    /// No memory for a table.
    OutOfMemory,
    /// An earlier boot stage enabled LPIs with another configuration table, at this address.
    ForeignTable(PhysAddr),
    /// GICR_CTLR.EnableLPIs stays 0.
    NotEnabled,
}

impl fmt::Display for LpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew => write!(f, "the GIC has fewer than {MAX_LPIS} LPIs"),
            Self::NotSupported => write!(f, "the redistributor has no LPIs"),
            Self::OutOfMemory => write!(f, "no memory for the tables of LPIs"),
            Self::ForeignTable(at) => write!(f, "an earlier stage enabled LPIs with a table at {at}"),
            Self::NotEnabled => write!(f, "GICR_CTLR.EnableLPIs stays 0"),
        }
    }
}

impl core::error::Error for LpiError {}

/// The tables of a redistributor whose LPIs are enabled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnabledTables {
    /// The configuration table.
    pub config: AddrRange<PhysAddr>,
    /// The pending table, of this redistributor only.
    pub pending: AddrRange<PhysAddr>,
}

/// Returns the tables that a redistributor uses; `None` if its LPIs are disabled. An earlier boot stage that
/// enabled them may have left no way to disable them, so the memory must stay reserved.
pub fn tables_in_use(redistributor: &impl RegisterAccess) -> Option<EnabledTables> {
    let implemented = redistributor.read64(GICR_TYPER) & PLPIS != 0;
    if !implemented || redistributor.read32(GICR_CTLR) & ENABLE_LPIS == 0 {
        return None;
    }
    let [config, pending] = [GICR_PROPBASER, GICR_PENDBASER].map(|base| redistributor.read64(base));
    let ids = 1u64 << ((config & ID_BITS) + 1).min(24);
    let table =
        |start: u64, bytes| AddrRange::from_len(PhysAddr::new(start), bytes).unwrap_or(AddrRange::EMPTY);
    Some(EnabledTables {
        config: table(config & CONFIG_ADDRESS, ids.saturating_sub(u64::from(FIRST_LPI))),
        pending: table(pending & PENDING_ADDRESS, ids / 8),
    })
}

/// The LPIs of a GIC: the configuration table, and the numbers in use.
pub struct Lpis {
    config: Region,
    /// The weakest coherency of the redistributors; non-coherent until the first one is enabled.
    coherency: Option<ItsCoherency>,
    integration: ItsIntegration,
    used: NumberSlots,
}

impl Lpis {
    /// The LPIs of a GIC with this GICD_TYPER, all disabled. `inherited` is the configuration table of an
    /// earlier boot stage that enabled LPIs, of [`MAX_LPIS`] bytes or more.
    ///
    /// # Errors
    /// [`LpiError::TooFew`], [`LpiError::OutOfMemory`].
    pub fn new(
        gicd_typer: u32,
        integration: ItsIntegration,
        memory: &mut impl RegionSource,
        inherited: Option<Region>,
    ) -> Result<Self, LpiError> {
        let (id_bits, lpis) = (gicd_typer >> 19 & 0x1f, gicd_typer >> 11 & 0x1f);
        // GICD_TYPER.LPIS; num_LPIs is 0 if IDbits determines the number, or else log2 of it, minus 1.
        let enough = id_bits + 1 >= TABLE_ID_BITS.into() && (lpis == 0 || 2 << lpis >= MAX_LPIS);
        if gicd_typer & 1 << 17 == 0 || !enough {
            return Err(LpiError::TooFew);
        }
        let inherited = inherited.filter(|table| table.bytes() >= MAX_LPIS.into());
        let config = match inherited {
            Some(table) => table,
            None => integration.allocate(memory, MAX_LPIS.into()).ok_or(LpiError::OutOfMemory)?,
        };
        let used = NumberSlots::new(MAX_LPIS).ok_or(LpiError::OutOfMemory);
        let used = match used {
            Ok(used) => used,
            Err(error) => {
                memory.release(config);
                return Err(error);
            }
        };
        config.words().iter().for_each(|word| word.store(u64::from_ne_bytes([CONFIG_DISABLED; 8]), Relaxed));
        ItsCoherency::NonCoherent.publish_all(&config);
        Ok(Self { config, coherency: None, integration, used })
    }

    /// Enables the LPIs of a redistributor, whose registers start at offset 0 (frame RD), permanently. The
    /// tables of an earlier boot stage are kept.
    ///
    /// # Errors
    /// [`LpiError`]; the redistributor gets no LPIs.
    pub fn enable(
        &mut self,
        redistributor: &mut impl RegisterAccess,
        memory: &mut impl RegionSource,
    ) -> Result<(), LpiError> {
        if redistributor.read64(GICR_TYPER) & PLPIS == 0 {
            return Err(LpiError::NotSupported);
        }
        let control = redistributor.read32(GICR_CTLR);
        if control & ENABLE_LPIS != 0 {
            return self.keep(redistributor);
        }
        let pending = self.integration.allocate(memory, PENDING_BYTES).ok_or(LpiError::OutOfMemory)?;
        let forced = self.integration.forced();
        let config = self.config.start().raw() | u64::from(TABLE_ID_BITS - 1);
        let (_, first) = write_base(redistributor, GICR_PROPBASER, config, GICR_INNER_CACHE, forced);
        let zeroed = pending.start().raw() | PENDING_IS_ZERO;
        let (_, second) = write_base(redistributor, GICR_PENDBASER, zeroed, GICR_INNER_CACHE, forced);
        second.publish_all(&pending);
        self.observe(first);
        redistributor.write32(GICR_CTLR, control | ENABLE_LPIS);
        arch::barrier::dsb_sy();
        if redistributor.read32(GICR_CTLR) & ENABLE_LPIS == 0 {
            memory.release(pending);
            return Err(LpiError::NotEnabled);
        }
        // The pending table is never released: it belongs to the redistributor.
        Ok(())
    }

    fn keep(&mut self, redistributor: &impl RegisterAccess) -> Result<(), LpiError> {
        let config = redistributor.read64(GICR_PROPBASER);
        let at = PhysAddr::new(config & CONFIG_ADDRESS);
        if at != self.config.start() {
            return Err(LpiError::ForeignTable(at));
        }
        self.observe(ItsCoherency::of(config, GICR_INNER_CACHE));
        Ok(())
    }

    fn observe(&mut self, coherency: ItsCoherency) {
        self.coherency = Some(self.coherency.map_or(coherency, |others| others.and(coherency)));
    }

    /// Allocates an LPI, which is disabled.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        self.used.allocate(1).map(|slot| FIRST_LPI + slot)
    }

    /// Frees an LPI after the completion of its DISCARD.
    pub(super) fn release(&mut self, lpi: u32) {
        self.used.free(lpi - FIRST_LPI, 1);
    }

    /// The number of LPIs in use.
    pub fn used(&self) -> u32 {
        self.used.used()
    }

    /// Changes the configuration of an LPI in memory; an INV makes the redistributor read it.
    pub(super) fn set_enabled(&mut self, lpi: u32, enabled: bool) {
        let index = (lpi - FIRST_LPI) as usize;
        let words = &self.config.words()[index / 8..=index / 8];
        let mut bytes = words[0].load(Relaxed).to_le_bytes();
        bytes[index % 8] = if enabled { CONFIG_DISABLED | CONFIG_ENABLE } else { CONFIG_DISABLED };
        words[0].store(u64::from_le_bytes(bytes), Relaxed);
        let coherency = self.coherency.unwrap_or(ItsCoherency::NonCoherent);
        coherency.clean(words);
        coherency.publish();
    }
}
