//! Selection of TLBI commands for a range of addresses.
//!
//! With range invalidation (IDR3.RIL) a command covers up to 32 times a power of two of pages, so a few
//! commands cover any range. Without it each page needs a command, and for large ranges invalidation by tag
//! is cheaper.

use crate::command::{Command, Extent, Scope};
use crate::ste::{STAGE1_VMID, TlbTag};
use addr::{AddrRange, Address, Asid, Iova, PAGE_SHIFT, PAGE_SIZE};

/// Support for range-based TLB invalidation (IDR3.RIL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeInvalidation {
    /// A TLBI covers a range of pages.
    Supported,
    /// A TLBI covers a single TLB entry.
    Unsupported,
}

/// The limit for per-page commands without range invalidation; larger ranges are invalidated by tag. A
/// command costs 16 bytes of queue and one lookup in the SMMU, a needlessly invalidated entry costs a walk of
/// up to four fetches. The limit is the page count above which the TLB is unlikely to hold as many entries of
/// other ranges.
const MAX_ENTRY_COMMANDS: u64 = 64;

/// The commands that invalidate a range: an iterator, without the CMD_SYNC.
#[derive(Clone, Copy, Debug)]
pub struct Invalidation {
    tag: TlbTag,
    leaf: bool,
    unit: Unit,
    start: Iova,
    /// Remaining pages; for invalidation by tag, any value but 0.
    pages: u64,
}

/// The coverage of one command.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Tag,
    Range,
    Entry,
}

impl Invalidation {
    /// No commands: the mapping was never visible to an SMMU.
    pub const EMPTY: Self = Self {
        tag: TlbTag::Stage1(Asid::new(0)),
        leaf: true,
        unit: Unit::Entry,
        start: Iova::new(0),
        pages: 0,
    };

    /// Invalidates the translations of `range` (whole pages) with `tag`. With `leaf`, cached table
    /// descriptors may be kept, so no table may have been unlinked.
    #[inline]
    pub fn of_range(tag: TlbTag, range: AddrRange<Iova>, leaf: bool, ranges: RangeInvalidation) -> Self {
        assert!(range.start().is_aligned(PAGE_SIZE) && range.end().is_aligned(PAGE_SIZE), "{range:?}");
        let (start, pages) = (range.start(), range.len() >> PAGE_SHIFT);
        let unit = match ranges {
            RangeInvalidation::Supported => Unit::Range,
            RangeInvalidation::Unsupported if pages > MAX_ENTRY_COMMANDS => Unit::Tag,
            RangeInvalidation::Unsupported => Unit::Entry,
        };
        Self { tag, leaf, unit, start, pages }
    }

    /// Invalidates all translations with `tag`.
    pub const fn of_tag(tag: TlbTag) -> Self {
        Self { tag, leaf: false, unit: Unit::Tag, start: Iova::new(0), pages: 1 }
    }

    /// Whether there are no commands.
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }

    #[inline]
    fn by_address(&self, extent: Extent) -> Command {
        let scope = Scope { start: self.start, extent, leaf: self.leaf };
        match self.tag {
            TlbTag::Stage1(asid) => Command::TlbiNhVa { vmid: STAGE1_VMID, asid, scope },
            TlbTag::Stage2(vmid) => Command::TlbiS2Ipa { vmid, scope },
        }
    }

    fn by_tag(&self) -> Command {
        match self.tag {
            TlbTag::Stage1(asid) => Command::TlbiNhAsid { vmid: STAGE1_VMID, asid },
            TlbTag::Stage2(vmid) => Command::TlbiS12Vmall { vmid },
        }
    }
}

impl Iterator for Invalidation {
    type Item = Command;

    #[inline]
    fn next(&mut self) -> Option<Command> {
        let (command, covered) = match self.unit {
            _ if self.pages == 0 => return None,
            Unit::Tag => (self.by_tag(), self.pages),
            Unit::Entry => (self.by_address(Extent::Entry), 1),
            Unit::Range => {
                let (extent, covered) = largest_step(self.pages);
                (self.by_address(extent), covered)
            }
        };
        self.pages -= covered;
        if self.pages > 0 {
            self.start = self.start + (covered << PAGE_SHIFT);
        }
        Some(command)
    }
}

/// The extent for the lowest five significant bits of `pages`, and its number of pages. A count of `n`
/// significant bits thus needs at most `n / 5` commands, rounded up, and no page outside of the range is
/// invalidated.
#[inline]
fn largest_step(pages: u64) -> (Extent, u64) {
    let scale = (pages.trailing_zeros() as u8).min(31);
    let count = (pages >> scale) & 0b1_1111;
    match (count, scale) {
        // One granule without a level hint is reserved (CERROR_ILL).
        (1, 0) => (Extent::Entry, 1),
        // More than 2^36 pages: take 32 of the largest unit at a time.
        (0, _) => (Extent::Pages { num: 31, scale, ttl: 0 }, 32 << scale),
        _ => (Extent::Pages { num: count as u8 - 1, scale, ttl: 0 }, count << scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::Vmid;

    const TAG: TlbTag = TlbTag::Stage1(Asid::new(7));

    fn range(start: u64, pages: u64) -> AddrRange<Iova> {
        AddrRange::from_len(Iova::new(start), pages * PAGE_SIZE).unwrap()
    }

    fn commands(pages: u64, ranges: RangeInvalidation) -> Vec<Command> {
        Invalidation::of_range(TAG, range(0x10_0000, pages), true, ranges).collect()
    }

    fn scope(command: Command) -> Scope {
        match command {
            Command::TlbiNhVa { scope, .. } | Command::TlbiS2Ipa { scope, .. } => scope,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_cover_the_range_exactly_once_in_order() {
        for pages in (1..if cfg!(miri) { 70 } else { 2000 }).chain([
            0xffff,
            0x1_0000,
            0xaaaa_aaaa,
            0x5_5555_5555,
            (1 << 36) - 1,
            1 << 36,
        ]) {
            let mut next = 0x10_0000;
            let commands = commands(pages, RangeInvalidation::Supported);
            for &command in &commands {
                let scope = scope(command);
                assert_eq!(scope.start.raw(), next, "{pages:#x}");
                let reserved = Extent::Pages { num: 0, scale: 0, ttl: 0 };
                assert_ne!(scope.extent, reserved, "{pages:#x}");
                next += scope.extent.bytes().unwrap_or(PAGE_SIZE);
            }
            assert_eq!(next, 0x10_0000 + pages * PAGE_SIZE);
            let bits = 64 - pages.leading_zeros() as usize;
            assert!(commands.len() <= bits.div_ceil(5), "{pages:#x}: {}", commands.len());
        }
    }

    #[test]
    fn common_sizes_take_one_command() {
        for pages in [1, 2, 16, 31, 512, 31 * 512, 1 << 17, 1 << 18] {
            assert_eq!(commands(pages, RangeInvalidation::Supported).len(), 1, "{pages}");
        }
        let half_a_gigabyte = Extent::Pages { num: 0, scale: 17, ttl: 0 };
        assert_eq!(scope(commands(1 << 17, RangeInvalidation::Supported)[0]).extent, half_a_gigabyte);
    }

    #[test]
    fn without_range_invalidation_large_ranges_are_invalidated_by_tag() {
        let few = commands(3, RangeInvalidation::Unsupported);
        let starts: Vec<_> = few.iter().map(|&command| scope(command).start.raw()).collect();
        assert_eq!(starts, [0x10_0000, 0x10_1000, 0x10_2000]);
        assert_eq!(
            commands(MAX_ENTRY_COMMANDS, RangeInvalidation::Unsupported).len(),
            MAX_ENTRY_COMMANDS as usize
        );
        let many = commands(MAX_ENTRY_COMMANDS + 1, RangeInvalidation::Unsupported);
        assert_eq!(many, [Command::TlbiNhAsid { vmid: Vmid::new(0), asid: Asid::new(7) }]);
    }

    #[test]
    fn stage2_is_invalidated_by_vmid() {
        let tag = TlbTag::Stage2(Vmid::new(9));
        let by_address: Vec<_> =
            Invalidation::of_range(tag, range(0, 1), false, RangeInvalidation::Supported).collect();
        let scope = Scope { start: Iova::new(0), extent: Extent::Entry, leaf: false };
        assert_eq!(by_address, [Command::TlbiS2Ipa { vmid: Vmid::new(9), scope }]);
        let whole: Vec<_> = Invalidation::of_tag(tag).collect();
        assert_eq!(whole, [Command::TlbiS12Vmall { vmid: Vmid::new(9) }]);
    }

    #[test]
    fn empty_range_needs_no_command() {
        assert!(commands(0, RangeInvalidation::Supported).is_empty());
    }
}
