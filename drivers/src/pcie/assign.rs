//! Assignment of BARs.
//!
//! There are two pools. [`Pool::Memory32`] is memory below 4 GiB: the ordinary windows of bridges, and all
//! 32-bit BARs. [`Pool::Memory64`] is memory at any address: 64-bit BARs on a root bus, and prefetchable
//! 64-bit BARs behind bridges whose prefetchable windows have 64-bit addresses. (A prefetchable BAR may be
//! placed in a non-prefetchable window, but not vice versa.)
//!
//! The demand of a bus on a pool is a list of claims, of a BAR or of a bridge for all BARs behind it, in
//! descending order of alignment. The layout of these claims yields the claim of the bus's own bridge; a
//! claim on a root bus is placed in a window of the host. A claim without room is reported, and its BARs
//! remain without address.

use super::address::Bdf;
use super::bar::{BarKind, program};
use super::config::ConfigSpace;
use super::description::{HostWindow, PciSpace};
use super::function::Function;
use super::problem::Problem;
use addr::{AddrRange, PhysAddr};
use alloc::vec::Vec;

/// Base and limit of a bridge's windows, in units of 1 MiB.
const MEMORY_WINDOW: u16 = 0x20;
const PREFETCHABLE_WINDOW: u16 = 0x24;
const PREFETCHABLE_BASE_HIGH: u16 = 0x28;
const PREFETCHABLE_LIMIT_HIGH: u16 = 0x2c;
const IO_WINDOW: u16 = 0x1c;
/// A window whose base exceeds its limit is closed.
const CLOSED: u32 = 0x0000_fff0;
const GRANULE: u64 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pool {
    Memory32,
    Memory64,
}

#[derive(Clone, Copy)]
enum Claimant {
    Bar { function: usize, bar: usize },
    Bridge(usize),
}

/// A demand for `size` bytes at a multiple of `align`.
struct Claim {
    claimant: Claimant,
    size: u64,
    align: u64,
    /// Whether all of its BARs are prefetchable.
    prefetchable: bool,
}

/// A window of the host, allocated from the bottom up.
struct Supply {
    window: HostWindow,
    next: u64,
    end: u64,
}

/// Assigns and programs all BARs and bridge windows.
pub(super) fn assign(
    config: &mut impl ConfigSpace,
    functions: &mut [Function],
    windows: &[HostWindow],
    problems: &mut Vec<Problem>,
) {
    for function in functions.iter().filter(|function| function.bridge.is_some()) {
        close_windows(config, function.bdf);
    }
    let mut assigner = Assigner { config, functions, problems };
    let mut supplies: Vec<_> = windows.iter().filter_map(Supply::new).collect();
    for pool in [Pool::Memory64, Pool::Memory32] {
        for claim in assigner.claims(None, pool) {
            assigner.supply(&claim, pool, &mut supplies);
        }
    }
}

fn close_windows(config: &mut impl ConfigSpace, at: Bdf) {
    // I/O: base 0xf000, limit 0. The status register above is written as zero, since ones clear its bits.
    config.write16(at, IO_WINDOW, 0x00f0);
    config.write32(at, MEMORY_WINDOW, CLOSED);
    config.write32(at, PREFETCHABLE_WINDOW, CLOSED);
    config.write32(at, PREFETCHABLE_BASE_HIGH, 0);
    config.write32(at, PREFETCHABLE_LIMIT_HIGH, 0);
}

impl Supply {
    fn new(window: &HostWindow) -> Option<Self> {
        let end = window.bus.checked_add(window.len)?;
        let end = match window.space {
            PciSpace::Io => return None,
            PciSpace::Memory32 => end.min(1 << 32),
            PciSpace::Memory64 => end,
        };
        // Many drivers take address 0 for an unassigned BAR.
        Some(Self { window: *window, next: window.bus.max(1), end })
    }

    fn suits(&self, claim: &Claim, pool: Pool) -> bool {
        (pool == Pool::Memory64 || self.window.space == PciSpace::Memory32)
            && (claim.prefetchable || !self.window.prefetchable)
    }

    fn take(&mut self, claim: &Claim) -> Option<u64> {
        let start = align_up(self.next, claim.align)?;
        let end = start.checked_add(claim.size).filter(|&end| end <= self.end)?;
        self.next = end;
        Some(start)
    }
}

struct Assigner<'a, C> {
    config: &'a mut C,
    functions: &'a mut [Function],
    problems: &'a mut Vec<Problem>,
}

impl<C: ConfigSpace> Assigner<'_, C> {
    /// The claims on `pool` of the functions behind `bridge`, or on root buses.
    fn claims(&mut self, bridge: Option<usize>, pool: Pool) -> Vec<Claim> {
        let mut claims = Vec::new();
        for index in 0..self.functions.len() {
            if self.functions[index].parent == bridge {
                claims.extend((0..6).filter_map(|bar| self.bar_claim(index, bar, pool)));
                if self.functions[index].bridge.is_some() {
                    claims.extend(self.bridge_claim(index, pool));
                }
            }
        }
        claims.sort_by_key(|claim| core::cmp::Reverse(claim.align));
        claims
    }

    fn bar_claim(&self, index: usize, bar: usize, pool: Pool) -> Option<Claim> {
        let function = &self.functions[index];
        let wanted = function.bars[bar]?;
        let BarKind::Memory { is_64bit, prefetchable } = wanted.kind else { return None };
        let above = function.parent.and_then(|parent| self.functions[parent].bridge);
        let forwarded = above.is_none_or(|bridge| bridge.is_64bit && prefetchable);
        let own = if is_64bit && forwarded { Pool::Memory64 } else { Pool::Memory32 };
        let claimant = Claimant::Bar { function: index, bar };
        (own == pool).then_some(Claim { claimant, size: wanted.size, align: wanted.size, prefetchable })
    }

    /// One claim for all BARs behind a bridge.
    fn bridge_claim(&mut self, index: usize, pool: Pool) -> Option<Claim> {
        let inner = self.claims(Some(index), pool);
        let align = inner.first()?.align.max(GRANULE);
        let prefetchable = inner.iter().all(|claim| claim.prefetchable);
        let size = layout(&inner).last().copied().flatten().and_then(|end| align_up(end, GRANULE));
        let Some(size) = size else {
            self.problems.push(Problem::NoRoom { at: self.functions[index].bdf, size: u64::MAX });
            return None;
        };
        Some(Claim { claimant: Claimant::Bridge(index), size, align, prefetchable })
    }

    /// Places a claim of a root bus in a window.
    fn supply(&mut self, claim: &Claim, pool: Pool, supplies: &mut [Supply]) {
        // 64-bit claims use windows below 4 GiB last.
        let (high, low): (Vec<_>, Vec<_>) = supplies
            .iter_mut()
            .filter(|supply| supply.suits(claim, pool))
            .partition(|supply| supply.window.space == PciSpace::Memory64);
        let found = high.into_iter().chain(low).find_map(|supply| Some((supply.take(claim)?, supply.window)));
        match found {
            Some((address, window)) => self.place(claim, pool, address, &window),
            None => self.problems.push(Problem::NoRoom { at: self.bdf(claim), size: claim.size }),
        }
    }

    fn bdf(&self, claim: &Claim) -> Bdf {
        let (Claimant::Bar { function, .. } | Claimant::Bridge(function)) = claim.claimant;
        self.functions[function].bdf
    }

    fn place(&mut self, claim: &Claim, pool: Pool, address: u64, window: &HostWindow) {
        match claim.claimant {
            Claimant::Bar { function, bar } => self.place_bar(function, bar, address, window),
            Claimant::Bridge(index) => {
                let inner = self.claims(Some(index), pool);
                let ends = layout(&inner);
                for (claim, end) in inner.iter().zip(ends) {
                    let offset = end.expect("`bridge_claim` has laid out the same claims") - claim.size;
                    self.place(claim, pool, address + offset, window);
                }
                open_window(
                    self.config,
                    self.functions[index].bdf,
                    pool,
                    address,
                    address + (claim.size - 1),
                );
            }
        }
    }

    fn place_bar(&mut self, function: usize, bar: usize, address: u64, window: &HostWindow) {
        let function = &mut self.functions[function];
        let Some(wanted) = &mut function.bars[bar] else { return };
        let cpu = PhysAddr::new(window.cpu.raw().wrapping_add(address - window.bus));
        wanted.registers = AddrRange::from_len(cpu, wanted.size);
        program(self.config, function.bdf, bar, wanted.kind, address);
    }
}

/// The end of each claim when all are laid out in order from a sufficiently aligned start; `None` from the
/// first overflow of the address space on.
fn layout(claims: &[Claim]) -> Vec<Option<u64>> {
    let mut end = Some(0);
    let ends = claims.iter().map(|claim| {
        end = end.and_then(|end| align_up(end, claim.align)).and_then(|start| start.checked_add(claim.size));
        end
    });
    ends.collect()
}

/// Opens a bridge's window for the addresses from `first` to `last`.
fn open_window(config: &mut impl ConfigSpace, at: Bdf, pool: Pool, first: u64, last: u64) {
    let megabytes = (first >> 16) as u32 & 0xfff0 | (last & !(GRANULE - 1)) as u32 & 0xfff0_0000;
    match pool {
        Pool::Memory32 => config.write32(at, MEMORY_WINDOW, megabytes),
        Pool::Memory64 => {
            config.write32(at, PREFETCHABLE_BASE_HIGH, (first >> 32) as u32);
            config.write32(at, PREFETCHABLE_LIMIT_HIGH, (last >> 32) as u32);
            config.write32(at, PREFETCHABLE_WINDOW, megabytes);
        }
    }
}

fn align_up(value: u64, align: u64) -> Option<u64> {
    value.checked_next_multiple_of(align)
}

#[cfg(test)]
mod tests {
    use super::super::enumerate::enumerate;
    use super::super::fake::{BUSES, FakeBus, FakeFunction};
    use super::*;

    const NARROW: HostWindow = HostWindow {
        space: PciSpace::Memory32,
        prefetchable: false,
        bus: 0x1000_0000,
        cpu: PhysAddr::new(0x1000_0000),
        len: 0x2eff_0000,
    };
    /// Bus and physical addresses differ.
    const WIDE: HostWindow = HostWindow {
        space: PciSpace::Memory64,
        prefetchable: false,
        bus: 0x80_0000_0000,
        cpu: PhysAddr::new(0x90_0000_0000),
        len: 0x80_0000_0000,
    };

    fn endpoint(device: u16) -> FakeFunction {
        FakeFunction::endpoint(0x1234, device)
    }

    fn assigned(mut config: FakeBus, windows: &[HostWindow]) -> (FakeBus, Vec<Function>, Vec<Problem>) {
        let mut found = enumerate(&mut config, BUSES);
        assign(&mut config, &mut found.functions, windows, &mut found.problems);
        (config, found.functions, found.problems)
    }

    fn at(functions: &[Function], device: u16, bar: usize) -> Option<u64> {
        let function = functions.iter().find(|function| function.device == device).unwrap();
        function.bars[bar].unwrap().registers.map(|range| range.start().raw())
    }

    #[test]
    fn root_bus_bars_are_placed_in_suitable_windows() {
        let bus = FakeBus::new([
            endpoint(2).bar(0, 0, 4096).bar(1, 0, 1 << 20).bar(2, 4, 16384),
            endpoint(3).bar(0, 0xc, 1 << 30).bar(5, 1, 32),
        ]);
        let (config, functions, problems) = assigned(bus, &[NARROW, WIDE]);
        assert_eq!(problems, []);
        assert_eq!((at(&functions, 2, 0), at(&functions, 2, 1)), (Some(0x1010_0000), Some(0x1000_0000)));
        assert_eq!(
            (at(&functions, 3, 0), at(&functions, 2, 2)),
            (Some(0x90_0000_0000), Some(0x90_4000_0000))
        );
        assert_eq!(at(&functions, 3, 5), None, "I/O is not used");
        let registers = [0x10, 0x14, 0x18, 0x1c].map(|register| config.read32(Bdf::new(0, 0, 0), register));
        assert_eq!(
            registers,
            [0x1010_0000, 0x1000_0000, 0x4000_0004, 0x80],
            "addresses of the bus, not the CPU's"
        );
        assert!(functions.iter().all(Function::is_assigned));
    }

    #[test]
    fn bridge_windows_cover_the_bars_behind_them() {
        let port = FakeFunction::express(
            4,
            [
                endpoint(2).bar(0, 0, 4096).bar(2, 0xc, 1 << 20),
                FakeFunction::express(5, [endpoint(3).bar(0, 4, 8192)]),
            ],
        );
        let (config, functions, problems) =
            assigned(FakeBus::new([port, endpoint(4).bar(0, 0, 4096)]), &[NARROW, WIDE]);
        assert_eq!(problems, []);
        // The inner bridge's window (1 MiB) precedes the 4 KiB.
        assert_eq!((at(&functions, 3, 0), at(&functions, 2, 0)), (Some(0x1000_0000), Some(0x1010_0000)));
        assert_eq!(at(&functions, 2, 2), Some(0x90_0000_0000));
        assert_eq!(at(&functions, 4, 0), Some(0x1020_0000));
        let outer = [MEMORY_WINDOW, PREFETCHABLE_WINDOW, PREFETCHABLE_BASE_HIGH, PREFETCHABLE_LIMIT_HIGH]
            .map(|register| config.read32(Bdf::new(0, 0, 0), register));
        assert_eq!(outer, [0x1010_1000, 0x0001_0001, 0x80, 0x80]);
        let inner =
            [MEMORY_WINDOW, PREFETCHABLE_WINDOW].map(|register| config.read32(Bdf::new(1, 1, 0), register));
        assert_eq!(inner, [0x1000_1000, 0x0001_fff1], "the prefetchable window is closed");
    }

    #[test]
    fn bars_of_64_bits_fall_back_to_32_bit_windows() {
        let (_, functions, problems) = assigned(FakeBus::new([endpoint(2).bar(0, 0xc, 16384)]), &[NARROW]);
        assert_eq!((at(&functions, 2, 0), problems), (Some(0x1000_0000), vec![]));
    }

    #[test]
    fn prefetchable_window_takes_prefetchable_bars_only() {
        let only = HostWindow { prefetchable: true, ..WIDE };
        let bus = FakeBus::new([endpoint(2).bar(0, 0xc, 4096).bar(2, 4, 4096)]);
        let (_, functions, problems) = assigned(bus, &[only]);
        assert_eq!((at(&functions, 2, 0), at(&functions, 2, 2)), (Some(0x90_0000_0000), None));
        assert_eq!(problems, [Problem::NoRoom { at: Bdf::new(0, 0, 0), size: 4096 }]);
    }

    #[test]
    fn bar_without_room_is_reported_and_unassigned() {
        let small = HostWindow { len: 0x20_0000, ..NARROW };
        let port = FakeFunction::express(4, [endpoint(3).bar(0, 0, 2 << 20)]);
        let (_, functions, problems) = assigned(FakeBus::new([endpoint(2).bar(0, 0, 4096), port]), &[small]);
        assert_eq!(at(&functions, 3, 0), Some(0x1000_0000), "the larger is placed first");
        assert_eq!((at(&functions, 2, 0), functions[0].is_assigned()), (None, false));
        assert_eq!(problems, [Problem::NoRoom { at: Bdf::new(0, 0, 0), size: 4096 }]);
    }

    #[test]
    fn huge_bar_sizes_do_not_overflow() {
        let huge = || endpoint(2).bar(0, 0xc, 1 << 63).bar(2, 0xc, 1 << 63);
        let bus =
            FakeBus::new([FakeFunction::express(4, [huge(), huge()]), endpoint(3).bar(0, 0xc, 1 << 63)]);
        let (_, functions, problems) = assigned(bus, &[NARROW, WIDE]);
        assert!(functions.iter().flat_map(|f| f.bars.iter().flatten()).all(|bar| bar.registers.is_none()));
        let root = Problem::NoRoom { at: Bdf::new(0, 1, 0), size: 1 << 63 };
        assert_eq!(problems, [Problem::NoRoom { at: Bdf::new(0, 0, 0), size: u64::MAX }, root]);
    }
}
