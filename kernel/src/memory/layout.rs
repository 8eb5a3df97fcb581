//! The division of RAM into lowmem, highmem and reserved ranges.

use super::linear::LIMIT;
use crate::board::{Reservation, merge_ranges};
use addr::{AddrRange, Address, PAGE_SIZE, PhysAddr};
use alloc::vec::Vec;
use core::fmt;

/// One past the highest physical address in the linear map.
const LINEAR_END: PhysAddr = PhysAddr::new(LIMIT);
/// The alignment of the end of lowmem.
const LOWMEM_ALIGN: u64 = 2 << 20;
/// The minimum size of lowmem: the kernel's page tables and heap must fit.
pub const LOWMEM_MIN: u64 = 16 << 20;
/// The maximum of the default size, which is a quarter of RAM otherwise.
const LOWMEM_DEFAULT_MAX: u64 = 1 << 30;

/// The ranges of RAM by use.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// All RAM: ascending, without overlaps.
    pub ram: Vec<AddrRange<PhysAddr>>,
    /// The ranges of the linear map: all lowmem, including reservations without `no-map`. Ascending.
    pub lowmem: Vec<AddrRange<PhysAddr>>,
    /// The frames of the low zone: `lowmem` without the reservations.
    pub low_free: Vec<AddrRange<PhysAddr>>,
    /// The frames of the high zone: highmem without the reservations.
    pub high_free: Vec<AddrRange<PhysAddr>>,
    /// The first address above lowmem.
    pub low_end: PhysAddr,
    /// The size of RAM in bytes.
    pub total: u64,
}

/// RAM cannot be divided.
#[derive(Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The device tree describes no RAM.
    NoRam,
    /// This size of lowmem (from `lowmem=`, or all of RAM) is below [`LOWMEM_MIN`].
    LowmemTooSmall(u64),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRam => write!(f, "the device tree describes no memory"),
            Self::LowmemTooSmall(bytes) => {
                write!(f, "lowmem={bytes:#x}: must be at least {}", addr::Size(LOWMEM_MIN))
            }
        }
    }
}

impl Layout {
    /// Divides `ram` (in any order, may overlap). `lowmem` is the size in the boot argument: the lowest bytes
    /// of RAM become lowmem. `reserved` ranges are excluded from both zones.
    pub fn new(
        ram: &[AddrRange<PhysAddr>],
        reserved: &[Reservation],
        lowmem: Option<u64>,
    ) -> Result<Self, LayoutError> {
        let pages = ram.iter().map(|range| range.align_inward(PAGE_SIZE)).filter(|range| !range.is_empty());
        let ram = merge_ranges(pages.collect());
        let total: u64 = ram.iter().map(AddrRange::len).sum();
        if total == 0 {
            return Err(LayoutError::NoRam);
        }
        let wanted = lowmem.unwrap_or((total / 4).clamp(LOWMEM_MIN, LOWMEM_DEFAULT_MAX));
        if wanted < LOWMEM_MIN {
            return Err(LayoutError::LowmemTooSmall(wanted));
        }
        let (lowmem, high) = split_lowmem(&ram, wanted);
        let bytes = lowmem.iter().map(AddrRange::len).sum();
        if bytes < LOWMEM_MIN {
            return Err(LayoutError::LowmemTooSmall(bytes));
        }
        let pages = |r: &Reservation| r.range.align_outward(PAGE_SIZE);
        let unmapped: Vec<_> = reserved.iter().filter(|r| r.no_map).filter_map(pages).collect();
        let reserved: Vec<_> = reserved.iter().filter_map(pages).collect();
        Ok(Self {
            low_free: subtract(&lowmem, &reserved),
            high_free: subtract(&high, &reserved),
            low_end: lowmem.last().map_or(PhysAddr::new(0), AddrRange::end),
            lowmem: subtract(&lowmem, &unmapped),
            ram,
            total,
        })
    }

    /// The last byte of RAM.
    pub fn highest(&self) -> PhysAddr {
        self.ram.last().map_or(PhysAddr::new(0), |range| PhysAddr::new(range.end().raw() - 1))
    }

    /// The size of the linear map's ranges in bytes.
    pub fn lowmem_bytes(&self) -> u64 {
        self.lowmem.iter().map(AddrRange::len).sum()
    }
}

/// Splits `ram` into its lowest `bytes`, rounded up to [`LOWMEM_ALIGN`], and the rest. RAM beyond the linear
/// map is highmem.
fn split_lowmem(
    ram: &[AddrRange<PhysAddr>],
    bytes: u64,
) -> (Vec<AddrRange<PhysAddr>>, Vec<AddrRange<PhysAddr>>) {
    let (mut low, mut high, mut left) = (Vec::new(), Vec::new(), bytes);
    for range in ram {
        if range.start() >= LINEAR_END {
            high.push(*range);
            continue;
        }
        let end =
            range.start().checked_add(left).and_then(|end| end.align_up(LOWMEM_ALIGN)).unwrap_or(range.end());
        let at = if left == 0 { range.start() } else { end.min(range.end()).min(LINEAR_END) };
        left = left.saturating_sub(at.raw() - range.start().raw());
        push_nonempty(&mut low, AddrRange::new(range.start(), at));
        push_nonempty(&mut high, AddrRange::new(at, range.end()));
    }
    (low, high)
}

/// `ranges` without `holes`.
pub fn subtract(ranges: &[AddrRange<PhysAddr>], holes: &[AddrRange<PhysAddr>]) -> Vec<AddrRange<PhysAddr>> {
    let mut left = ranges.to_vec();
    for hole in holes {
        let mut next = Vec::new();
        for range in left {
            let (below, above) = range.without(hole);
            push_nonempty(&mut next, below);
            push_nonempty(&mut next, above);
        }
        left = next;
    }
    left
}

fn push_nonempty(list: &mut Vec<AddrRange<PhysAddr>>, range: AddrRange<PhysAddr>) {
    if !range.is_empty() {
        list.push(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = 1 << 30;
    const M: u64 = 1 << 20;

    fn reserved(start: u64, end: u64) -> Reservation {
        Reservation { range: r(start, end), no_map: false }
    }

    fn r(start: u64, end: u64) -> AddrRange<PhysAddr> {
        AddrRange::new(PhysAddr::new(start), PhysAddr::new(end))
    }

    #[test]
    fn lowmem_defaults_to_a_quarter_of_ram_up_to_1_gib() {
        let layout = Layout::new(&[r(G, 3 * G)], &[], None).unwrap();
        assert_eq!(layout.lowmem, [r(G, G + 512 * M)]);
        assert_eq!(layout.high_free, [r(G + 512 * M, 3 * G)]);
        assert_eq!(Layout::new(&[r(G, 301 * G)], &[], None).unwrap().lowmem, [r(G, 2 * G)]);
    }

    #[test]
    fn lowmem_spans_memory_ranges_and_is_limited_by_ram() {
        let ram = [r(4 * G, 5 * G), r(0, 16 * M)];
        let layout = Layout::new(&ram, &[], Some(32 * M)).unwrap();
        assert_eq!(layout.lowmem, [r(0, 16 * M), r(4 * G, 4 * G + 16 * M)]);
        let all = Layout::new(&ram, &[], Some(100 * G)).unwrap();
        assert_eq!((all.high_free.is_empty(), all.lowmem_bytes()), (true, G + 16 * M));
    }

    #[test]
    fn reservations_are_excluded_from_both_zones_in_whole_pages() {
        let layout = Layout::new(
            &[r(G, 2 * G)],
            &[reserved(G + 1, G + 2), reserved(2 * G - 4097, 2 * G)],
            Some(512 * M),
        )
        .unwrap();
        assert_eq!(layout.low_free, [r(G + 4096, G + 512 * M)]);
        assert_eq!(layout.high_free, [r(G + 512 * M, 2 * G - 8192)]);
        assert_eq!(layout.lowmem, [r(G, G + 512 * M)]);
    }

    #[test]
    fn no_map_reservation_is_not_in_the_linear_map() {
        let no_map = Reservation { range: r(G + M, G + 2 * M), no_map: true };
        let layout = Layout::new(&[r(G, 2 * G)], &[no_map], Some(512 * M)).unwrap();
        assert_eq!(layout.lowmem, [r(G, G + M), r(G + 2 * M, G + 512 * M)]);
        assert_eq!(layout.low_free, layout.lowmem);
        assert_eq!(layout.low_end, PhysAddr::new(G + 512 * M));
    }

    #[test]
    fn overlapping_memory_ranges_are_counted_once() {
        let layout = Layout::new(&[r(G, 2 * G), r(G + M, 2 * G + M)], &[], None).unwrap();
        assert_eq!(layout.total, G + M);
    }

    #[test]
    fn insufficient_memory_is_an_error() {
        assert_eq!(Layout::new(&[], &[], None), Err(LayoutError::NoRam));
        assert_eq!(Layout::new(&[r(G, 2 * G)], &[], Some(4096)), Err(LayoutError::LowmemTooSmall(4096)));
        assert_eq!(Layout::new(&[r(G, G + M)], &[], None), Err(LayoutError::LowmemTooSmall(M)));
    }

    #[test]
    fn ram_beyond_the_linear_map_is_highmem() {
        let ram = [r(LIMIT - 32 * M, LIMIT + G), r(LIMIT + 2 * G, LIMIT + 3 * G)];
        let layout = Layout::new(&ram, &[], Some(G)).unwrap();
        assert_eq!(layout.lowmem, [r(LIMIT - 32 * M, LIMIT)]);
        assert_eq!(layout.high_free, [r(LIMIT, LIMIT + G), r(LIMIT + 2 * G, LIMIT + 3 * G)]);
        assert_eq!(Layout::new(&ram[1..], &[], None), Err(LayoutError::LowmemTooSmall(0)));
    }
}
