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

/// The instructions that invalidate a run of pages.
pub enum Plan {
    /// One that invalidates more: too many would be needed.
    All,
    /// One for each page.
    Pages,
    /// These, each with its first address: ranges from the smallest scale up, an odd page first.
    Ranges(Ranges),
}

impl Plan {
    /// For the `pages` pages from `va` on, `ranges` says whether there are range instructions.
    pub fn new(va: u64, pages: u64, ranges: bool) -> Self {
        match ranges {
            false if pages > MOST_OPERATIONS => Self::All,
            false => Self::Pages,
            true if pages >> 21 != 0 => Self::All,
            true => Self::Ranges(Ranges { va, pages, scale: 0 }),
        }
    }
}

/// The operations of [`Plan::Ranges`].
pub struct Ranges {
    va: u64,
    pages: u64,
    scale: u64,
}

impl Iterator for Ranges {
    type Item = (u64, Operation);

    fn next(&mut self) -> Option<Self::Item> {
        let operation = loop {
            if self.pages == 0 {
                return None;
            }
            if self.pages % 2 == 1 {
                break Operation::Page;
            }
            let count = self.pages >> (5 * self.scale + 1) & 0x1f;
            if count > 0 {
                break Operation::Range { num: count - 1, scale: self.scale };
            }
            self.scale += 1;
        };
        let start = self.va;
        self.va += operation.pages() * PAGE_SIZE;
        self.pages -= operation.pages();
        Some((start, operation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn range_instructions_cover_exactly_the_pages() {
        for pages in (0..5000).chain([0xffff, 0x10000, 0x12345, (1 << 21) - 1]) {
            let Plan::Ranges(operations) = Plan::new(0x4000_0000, pages, true) else {
                panic!("{pages} pages: no ranges");
            };
            let operations: Vec<_> = operations.collect();
            assert!(operations.len() <= 5, "{pages} pages take {operations:?}");
            let mut next = 0x4000_0000;
            for (va, operation) in operations {
                assert_eq!(va, next, "{pages} pages");
                next += operation.pages() * PAGE_SIZE;
            }
            assert_eq!(next, 0x4000_0000 + pages * PAGE_SIZE);
        }
    }

    #[test]
    fn long_runs_are_invalidated_as_a_whole() {
        assert!(matches!(Plan::new(0, MOST_OPERATIONS, false), Plan::Pages));
        assert!(matches!(Plan::new(0, MOST_OPERATIONS + 1, false), Plan::All));
        assert!(matches!(Plan::new(0, 1 << 21, true), Plan::All));
    }

    #[test]
    fn operand_of_the_next_page_is_one_more() {
        let operand =
            |page: u64| Operation::Page.operand(0xffff_9000_0000_0000 + page * PAGE_SIZE, Asid::new(9));
        for page in 0..MOST_OPERATIONS {
            assert_eq!(operand(page + 1), operand(page) + 1);
        }
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
