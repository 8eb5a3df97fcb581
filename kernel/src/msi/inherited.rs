//! Tables of LPIs that an earlier boot stage left in use: a redistributor may write its pending table at any
//! time, and LPIs may be impossible to disable (IHI 0069, 12.11.2, GICR_CTLR.EnableLPIs).

use crate::board::{GicDescription, InterruptController, Platform};
use crate::memory::{self, linear};
use addr::{AddrRange, Address, PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use core::slice;
use core::sync::atomic::AtomicU64;
use drivers::gic::its::{EnabledTables, tables_in_use as of_redistributor};
use drivers::mmio::MmioWindow;
use drivers::region::Region;
use spin::Once;

/// The mappings of device registers before the kernel's own tables exist, each of 2 MiB.
const EARLY_BLOCK: u64 = 2 << 20;
/// The size of the frames of a redistributor, twice that with virtual LPIs.
const FRAMES: u64 = 0x2_0000;
const GICR_TYPER: u64 = 0x8;
const VLPIS: u32 = 1 << 1;
const LAST: u32 = 1 << 4;
/// More redistributors than any machine has; the mappings of their registers are few enough.
const MAX_REDISTRIBUTORS: usize = 2048;

/// The configuration table in use.
static CONFIG: Once<AddrRange<PhysAddr>> = Once::new();

/// Returns the pages that redistributors may access, which must be reserved. Called once, while the early
/// tables are installed.
pub fn tables_in_use(platform: &Platform) -> Vec<AddrRange<PhysAddr>> {
    let Some(InterruptController::Gic(GicDescription::V3 { redistributors, .. })) = &platform.interrupts
    else {
        return Vec::new();
    };
    let mut left = MAX_REDISTRIBUTORS;
    let found: Vec<_> = redistributors.iter().flat_map(|region| in_region(*region, &mut left)).collect();
    let Some(EnabledTables { config, .. }) = found.first() else { return Vec::new() };
    log::warn!("LPIs: enabled by an earlier stage, with a configuration table at {}", config.start());
    CONFIG.call_once(|| *config);
    let pages = |range: AddrRange<PhysAddr>| {
        let end = range.end().raw().next_multiple_of(PAGE_SIZE);
        AddrRange::new(range.start().align_down(PAGE_SIZE), PhysAddr::new(end))
    };
    found.iter().flat_map(|tables| [pages(tables.config), pages(tables.pending)]).collect()
}

fn in_region(region: AddrRange<PhysAddr>, left: &mut usize) -> Vec<EnabledTables> {
    let (mut found, mut at, mut mapped) = (Vec::new(), region.start(), None);
    while *left > 0 && at + FRAMES <= region.end() {
        *left -= 1;
        let block = at.align_down(EARLY_BLOCK);
        let base = match mapped {
            Some((known, base)) if known == block => base,
            _ => {
                // SAFETY: only registers of redistributors are accessed.
                let base = unsafe { arch::boot::map_early_device(block) };
                // SAFETY: GICR_CTLR, which has no read side effects, by the device tree.
                if unsafe { arch::probe::read_u32(base + (at.raw() - block.raw())) }.is_none() {
                    return found;
                }
                mapped = Some((block, base));
                base
            }
        };
        // SAFETY: mapped as Device memory up to the end of the block; nothing else uses the registers yet.
        let registers = unsafe {
            MmioWindow::new(
                base + (at.raw() - block.raw()),
                FRAMES.min(EARLY_BLOCK - (at.raw() - block.raw())),
            )
        };
        let typer = registers.read32(GICR_TYPER);
        found.extend(of_redistributor(&registers));
        if typer & LAST != 0 {
            break;
        }
        at = at + if typer & VLPIS != 0 { 2 * FRAMES } else { FRAMES };
    }
    found
}

/// The configuration table in use, if it is in lowmem.
pub(super) fn config_table() -> Option<Region> {
    let config = *CONFIG.get()?;
    let is_mapped = memory::layout().lowmem.iter().any(|range| range.covers(&config));
    let is_free = memory::layout().low_free.iter().any(|range| range.overlaps(&config));
    if !is_mapped || is_free || config.is_empty() {
        log::warn!("LPIs: the configuration table at {} is not accessible", config.start());
        return None;
    }
    let words = arch::pointer::to::<AtomicU64>(linear::address_of(config.start()));
    // SAFETY: reserved since `tables_in_use`, so no allocator owns it, in the linear map, aligned to a page.
    // Only redistributors, which read it, use it too.
    Some(unsafe { Region::new(config.start(), slice::from_raw_parts(words, (config.len() / 8) as usize)) })
}
