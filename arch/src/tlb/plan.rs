//! Which TLBI instructions cover a range: arithmetic only.

use addr::{Asid, PAGE_SIZE};

/// Above this many instructions it is cheaper to forget everything the range belongs to.
const MOST_OPERATIONS: u64 = 256;

/// One TLBI instruction's share of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A page.
    Page,
    /// `(num + 1) << (5 * scale + 1)` pages (C5.5, TLBI RVAE1IS).
    Range { num: u64, scale: u64 },
}

impl Operation {
    fn pages(self) -> u64 {
        match self {
            Self::Page => 1,
            Self::Range { num, scale } => (num + 1) << (5 * scale + 1),
        }
    }

    /// The register operand for the pages from `va` on.
    pub fn operand(self, va: u64, asid: Asid) -> u64 {
        const TG_4K: u64 = 0b01 << 46;
        let (page, asid) = (va / PAGE_SIZE, u64::from(asid.raw()) << 48);
        match self {
            Self::Page => asid | page & 0xfff_ffff_ffff,
            Self::Range { num, scale } => asid | TG_4K | scale << 44 | num << 39 | page & 0x1f_ffff_ffff,
        }
    }
}

/// The instructions that cover exactly the `pages` pages from `va` on, each with its first address; `None` when
/// there would be too many. Ranges are taken from the smallest scale up, an odd page first.
pub fn plan(va: u64, pages: u64, ranges: bool) -> Option<impl Iterator<Item = (u64, Operation)>> {
    let operations = if ranges { 1 + 4 } else { pages };
    if operations > MOST_OPERATIONS || (ranges && pages >> 21 != 0) {
        return None;
    }
    let (mut va, mut pages, mut scale) = (va, pages, 0);
    Some(core::iter::from_fn(move || {
        let operation = loop {
            if pages == 0 {
                return None;
            }
            if !ranges || pages % 2 == 1 {
                break Operation::Page;
            }
            let count = pages >> (5 * scale + 1) & 0x1f;
            if count > 0 {
                break Operation::Range { num: count - 1, scale };
            }
            scale += 1;
        };
        let start = va;
        va += operation.pages() * PAGE_SIZE;
        pages -= operation.pages();
        Some((start, operation))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn planned(pages: u64, ranges: bool) -> Option<Vec<(u64, Operation)>> {
        Some(plan(0x4000_0000, pages, ranges)?.collect())
    }

    #[test]
    fn range_instructions_cover_exactly_the_pages() {
        for pages in (0..5000).chain([0xffff, 0x10000, 0x12345, (1 << 21) - 1]) {
            let plan = planned(pages, true).unwrap();
            assert!(plan.len() <= 5, "{pages} pages take {plan:?}");
            let mut next = 0x4000_0000;
            for (va, operation) in plan {
                assert_eq!(va, next, "{pages} pages");
                next += operation.pages() * PAGE_SIZE;
            }
            assert_eq!(next, 0x4000_0000 + pages * PAGE_SIZE);
        }
    }

    #[test]
    fn without_range_instructions_each_page_has_its_own() {
        let plan = planned(3, false).unwrap();
        assert_eq!(plan, [0, 1, 2].map(|page| (0x4000_0000 + page * PAGE_SIZE, Operation::Page)));
    }

    #[test]
    fn long_ranges_are_not_worth_it() {
        assert!(planned(MOST_OPERATIONS, false).is_some());
        assert!(planned(MOST_OPERATIONS + 1, false).is_none());
        assert!(planned(1 << 21, true).is_none());
    }

    #[test]
    fn operands_have_their_fields_where_the_manual_does() {
        let va = 0xffff_9000_1234_5000;
        let asid = Asid::new(0xabcd);
        assert_eq!(Operation::Page.operand(va, asid), 0xabcd_0ff9_0001_2345 & !(0xf << 44) | 0xabcd << 48);
        let range = Operation::Range { num: 3, scale: 2 };
        assert_eq!(range.pages(), 4 << 11);
        let operand = range.operand(va, asid);
        assert_eq!(operand >> 48, 0xabcd);
        assert_eq!(operand >> 46 & 3, 1, "TG");
        assert_eq!(operand >> 44 & 3, 2, "SCALE");
        assert_eq!(operand >> 39 & 31, 3, "NUM");
        assert_eq!(operand >> 37 & 3, 0, "TTL: any level");
        assert_eq!(operand & 0x1f_ffff_ffff, va >> 12 & 0x1f_ffff_ffff);
    }
}
