//! The message frame of a GICv2 (GICv2m; SBSA, appendix E): a write of an interrupt's number to its register
//! makes that shared interrupt (SPI) pending.

use super::common::IntId;
use crate::mmio::{MmioWindow, TooShort};
use core::fmt;

const MSI_TYPER: u64 = 0x8;
/// The offset of V2M_MSI_SETSPI_NS.
pub const MSI_SETSPI: u64 = 0x40;
const MSI_IIDR: u64 = 0xfcc;
/// Size of the frame.
const FRAME_BYTES: u64 = 0x1000;
/// The number of INTIDs of private interrupts and SPIs.
const INTIDS: u32 = 1020;
const WORDS: usize = INTIDS.div_ceil(64) as usize;

/// Implementations whose messages have another number than the INTID, by MSI_IIDR.
const XGENE: u32 = 0x0600_0170;
const BCM_NS2: u32 = 0x0000_013f;

/// The frame cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum V2mError {
    /// The registers are too short.
    TooShort(TooShort),
    /// These are not SPIs.
    InvalidRange {
        /// First INTID.
        first: u32,
        /// Number of SPIs.
        count: u32,
    },
}

impl fmt::Display for V2mError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort(error) => error.fmt(f),
            Self::InvalidRange { first, count } => write!(f, "{count} interrupts from {first} are no SPIs"),
        }
    }
}

impl core::error::Error for V2mError {}

/// A message frame and its free SPIs.
pub struct V2mFrame {
    first: u32,
    count: u32,
    /// The number in a message is the INTID minus this.
    offset: u32,
    /// A set bit is an INTID that is allocated or not available.
    used: [u64; WORDS],
}

impl V2mFrame {
    /// The frame with these registers. `range` (first INTID and number of SPIs) replaces that of MSI_TYPER.
    /// The interrupts in `wired` are those of devices.
    ///
    /// # Errors
    /// [`V2mError`].
    pub fn new(
        registers: &MmioWindow,
        range: Option<(u32, u32)>,
        wired: impl IntoIterator<Item = IntId>,
    ) -> Result<Self, V2mError> {
        registers.at_least(FRAME_BYTES).map_err(V2mError::TooShort)?;
        let typer = registers.read32(MSI_TYPER);
        let (first, count) = range.unwrap_or((typer >> 16 & 0x3ff, typer & 0x3ff));
        let in_range = first >= 32 && count != 0 && first.checked_add(count).is_some_and(|end| end <= INTIDS);
        if !in_range {
            return Err(V2mError::InvalidRange { first, count });
        }
        let offset = match registers.read32(MSI_IIDR) {
            XGENE => first,
            BCM_NS2 => 32,
            _ => 0,
        };
        let mut frame = Self { first, count, offset, used: [0; WORDS] };
        for id in wired.into_iter().map(u32::from).filter(|&id| id < INTIDS) {
            frame.set(id, true);
        }
        Ok(frame)
    }

    /// The first INTID and the number of SPIs.
    pub fn range(&self) -> (u32, u32) {
        (self.first, self.count)
    }

    fn is_used(&self, id: u32) -> bool {
        self.used[id as usize / 64] & 1 << (id % 64) != 0
    }

    fn set(&mut self, id: u32, used: bool) {
        let (word, bit) = (&mut self.used[id as usize / 64], 1 << (id % 64));
        *word = if used { *word | bit } else { *word & !bit };
    }

    /// Allocates `count` consecutive SPIs, such that the data of the first message is a multiple of the next
    /// power of two.
    pub fn allocate(&mut self, count: u32) -> Option<IntId> {
        let align = count.checked_next_power_of_two().filter(|_| count != 0)?;
        let end = self.first + self.count;
        let starts = (self.first..end).filter(|first| (first - self.offset).is_multiple_of(align));
        let fits = |first: &u32| {
            first.checked_add(count).is_some_and(|last| last <= end)
                && (*first..first + count).all(|id| !self.is_used(id))
        };
        let first = starts.into_iter().find(fits)?;
        (first..first + count).for_each(|id| self.set(id, true));
        IntId::try_from(first).ok()
    }

    /// Frees an allocated SPI, which is disabled and not pending.
    pub fn free(&mut self, id: IntId) {
        let id = u32::from(id);
        assert!(self.is_used(id), "SPI {id} is free already");
        self.set(id, false);
    }

    /// The data of the message for an SPI.
    pub fn data(&self, id: IntId) -> u32 {
        u32::from(id) - self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;

    fn frame(iidr: u32) -> V2mFrame {
        let fake = FakeRegisters::new(0x1000);
        fake.set32(0x8, 80 << 16 | 64);
        fake.set32(0xfcc, iidr);
        V2mFrame::new(&fake.window(), None, [74, 77, 900].map(IntId::spi)).unwrap()
    }

    #[test]
    fn wired_interrupts_are_not_allocated() {
        let mut frame = frame(0);
        assert_eq!(frame.range(), (80, 64));
        let first: Vec<_> = core::iter::from_fn(|| frame.allocate(1)).map(u32::from).collect();
        assert_eq!((first.len(), first[0], first[61]), (62, 80, 143));
        assert!(!first.contains(&106) && !first.contains(&109));
        frame.free(IntId::spi(80));
        assert_eq!((frame.allocate(2), frame.allocate(1)), (None, Some(IntId::spi(80))));
    }

    #[test]
    fn data_of_several_messages_starts_at_a_multiple_of_the_next_power_of_two() {
        let mut all = frame(0);
        assert_eq!(
            [1, 3, 32].map(|count| all.allocate(count)),
            [Some(48), Some(52), None].map(|id| id.map(IntId::spi))
        );
        assert_eq!(all.data(IntId::spi(52)), 84);
        let mut relative = frame(XGENE);
        assert_eq!(relative.allocate(4).map(|id| relative.data(id)), Some(0));
        let mut ns2 = frame(BCM_NS2);
        assert_eq!(ns2.allocate(1).map(|id| ns2.data(id)), Some(48));
        assert_eq!(all.allocate(0).or(all.allocate(u32::MAX)), None);
    }

    #[test]
    fn range_outside_of_the_spis_is_rejected() {
        let fake = FakeRegisters::new(0x1000);
        let new = |range| V2mFrame::new(&fake.window(), Some(range), []).err();
        for (first, count) in [(31, 1), (40, 0), (1000, 21), (u32::MAX, 2)] {
            assert_eq!(new((first, count)), Some(V2mError::InvalidRange { first, count }));
        }
        assert_eq!(new((1000, 20)), None);
        let short = FakeRegisters::new(0x100);
        assert!(matches!(V2mFrame::new(&short.window(), None, []).err(), Some(V2mError::TooShort(_))));
    }
}
