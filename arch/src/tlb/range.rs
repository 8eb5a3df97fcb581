//! The selection of TLBI instructions for a range of pages, and their operands.

use addr::{Asid, PAGE_SIZE};

/// Limit on the number of instructions. Above it, an invalidation of the whole ASID or of all entries is
/// cheaper.
const MAX_INSTRUCTIONS: u64 = 256;

/// The extent of a TLBI instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlbiExtent {
    /// A page.
    Page,
    /// `(num + 1) << (5 * scale + 1)` pages (C5.5, TLBI RVAE1IS).
    Range { num: u64, scale: u64 },
}

impl TlbiExtent {
    fn pages(self) -> u64 {
        match self {
            Self::Page => 1,
            Self::Range { num, scale } => (num + 1) << (5 * scale + 1),
        }
    }

    /// The register operand for the pages from `va`.
    pub fn operand(self, va: u64, asid: Asid) -> u64 {
        const TG_4K: u64 = 0b01 << 46;
        let (page, asid) = (va / PAGE_SIZE, u64::from(asid.raw()) << 48);
        match self {
            Self::Page => asid | page & 0xfff_ffff_ffff,
            Self::Range { num, scale } => asid | TG_4K | scale << 44 | num << 39 | page & 0x1f_ffff_ffff,
        }
    }
}

/// The instructions that invalidate a range of pages.
pub enum TlbiSequence {
    /// A single instruction that covers more than the range.
    All,
    /// An instruction for each page.
    Pages,
    /// Range instructions.
    Ranges(Ranges),
}

impl TlbiSequence {
    /// The instructions for the `pages` pages from `va`; `ranges`: FEAT_TLBIRANGE is implemented.
    pub fn new(va: u64, pages: u64, ranges: bool) -> Self {
        match ranges {
            false if pages > MAX_INSTRUCTIONS => Self::All,
            false => Self::Pages,
            true if pages >> 21 != 0 => Self::All,
            true => Self::Ranges(Ranges { va, pages, scale: 0 }),
        }
    }
}

/// The instructions of [`TlbiSequence::Ranges`] with their first addresses, by increasing scale; a single
/// page for an odd count precedes.
pub struct Ranges {
    va: u64,
    pages: u64,
    scale: u64,
}

impl Iterator for Ranges {
    type Item = (u64, TlbiExtent);

    fn next(&mut self) -> Option<Self::Item> {
        let extent = loop {
            if self.pages == 0 {
                return None;
            }
            if self.pages % 2 == 1 {
                break TlbiExtent::Page;
            }
            let count = self.pages >> (5 * self.scale + 1) & 0x1f;
            if count > 0 {
                break TlbiExtent::Range { num: count - 1, scale: self.scale };
            }
            self.scale += 1;
        };
        let start = self.va;
        self.va += extent.pages() * PAGE_SIZE;
        self.pages -= extent.pages();
        Some((start, extent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn range_instructions_cover_the_pages_exactly() {
        for pages in (0..5000).chain([0xffff, 0x10000, 0x12345, (1 << 21) - 1]) {
            let TlbiSequence::Ranges(instructions) = TlbiSequence::new(0x4000_0000, pages, true) else {
                panic!("{pages} pages: no ranges");
            };
            let instructions: Vec<_> = instructions.collect();
            assert!(instructions.len() <= 5, "{pages} pages take {instructions:?}");
            let mut next = 0x4000_0000;
            for (va, extent) in instructions {
                assert_eq!(va, next, "{pages} pages");
                next += extent.pages() * PAGE_SIZE;
            }
            assert_eq!(next, 0x4000_0000 + pages * PAGE_SIZE);
        }
    }

    #[test]
    fn too_many_pages_invalidate_all() {
        assert!(matches!(TlbiSequence::new(0, MAX_INSTRUCTIONS, false), TlbiSequence::Pages));
        assert!(matches!(TlbiSequence::new(0, MAX_INSTRUCTIONS + 1, false), TlbiSequence::All));
        assert!(matches!(TlbiSequence::new(0, 1 << 21, true), TlbiSequence::All));
    }

    #[test]
    fn operand_of_the_next_page_is_one_higher() {
        let operand =
            |page: u64| TlbiExtent::Page.operand(0xffff_9000_0000_0000 + page * PAGE_SIZE, Asid::new(9));
        for page in 0..MAX_INSTRUCTIONS {
            assert_eq!(operand(page + 1), operand(page) + 1);
        }
    }

    #[test]
    fn operand_fields_match_the_manual() {
        let va = 0xffff_9000_1234_5000;
        let asid = Asid::new(0xabcd);
        assert_eq!(TlbiExtent::Page.operand(va, asid), 0xabcd_0ff9_0001_2345 & !(0xf << 44) | 0xabcd << 48);
        let range = TlbiExtent::Range { num: 3, scale: 2 };
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
