//! A Raspberry Pi's framebuffer, which the firmware allocates: a picture of coloured tiles.

use super::driver::ProbeError;
use super::platform::PlatformProbe;
use addr::{AddrRange, PhysAddr};
use alloc::format;
use drivers::bcm2835::mailbox::Framebuffer;
use drivers::mmio::MmioWindow;

/// The size in pixels: 8 by 6 tiles.
pub const WIDTH: u32 = 640;
pub const HEIGHT: u32 = 480;
const TILE: u32 = 80;

/// Draws tiles, each in a different colour. A framebuffer in RAM is an error.
pub fn draw(framebuffer: &Framebuffer, probe: &PlatformProbe<'_>) -> Result<(), ProbeError> {
    let registers = outside_ram(framebuffer, probe.memory)?;
    // SAFETY: a framebuffer according to the firmware, which can be read at any time.
    let at = unsafe { probe.map(registers) }?;
    // SAFETY: mapped permanently as Device memory; a framebuffer according to the firmware, and not in RAM
    // (above).
    let mut pixels = unsafe { MmioWindow::new(at.start(), at.len()) };
    for y in 0..framebuffer.height {
        for x in 0..framebuffer.width {
            pixels.write32(u64::from(y) * framebuffer.pitch + u64::from(x) * 4, colour(x / TILE, y / TILE));
        }
    }
    log::info!("screen: {} x {} at {}", framebuffer.width, framebuffer.height, framebuffer.start);
    Ok(())
}

fn outside_ram(
    framebuffer: &Framebuffer,
    memory: &[AddrRange<PhysAddr>],
) -> Result<AddrRange<PhysAddr>, ProbeError> {
    AddrRange::from_len(framebuffer.start, framebuffer.len)
        .filter(|range| memory.iter().all(|memory| !memory.overlaps(range)))
        .ok_or_else(|| ProbeError::device(format!("framebuffer at {} overlaps RAM", framebuffer.start)))
}

/// The colour of a tile: red increases to the right, green downwards, blue alternates.
fn colour(column: u32, row: u32) -> u32 {
    let (red, green, blue) = (32 * column, 40 * row, if (column + row).is_multiple_of(2) { 255 } else { 64 });
    blue << 16 | green << 8 | red
}
