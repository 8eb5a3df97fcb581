//! Producer and consumer positions of a queue: index and wrap bit, as in the registers (IHI 0070, 3.5.1).

/// An index into a queue of `2^log2` entries, with the wrap bit above it that distinguishes a full queue from
/// an empty one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    value: u32,
    log2: u8,
}

impl Cursor {
    /// The largest log2 of the number of entries that the registers can hold.
    pub const MAX_LOG2: u8 = 19;

    /// The first entry of a queue of `2^log2` entries, wrap bit clear.
    pub const fn new(log2: u8) -> Self {
        assert!(log2 <= Self::MAX_LOG2, "more entries than the registers can count");
        Self { value: 0, log2 }
    }

    /// The cursor in a PROD or CONS register of the same queue; flags above the wrap bit (OVFLG, ERR) are
    /// masked.
    pub const fn read(self, register: u32) -> Self {
        Self { value: register & self.wrap_mask(), log2: self.log2 }
    }

    /// The register value: index and wrap bit.
    pub const fn raw(self) -> u32 {
        self.value
    }

    /// The index of the entry.
    pub const fn index(self) -> usize {
        (self.value & (self.entries() - 1)) as usize
    }

    /// The number of entries of the queue.
    pub const fn entries(self) -> u32 {
        1 << self.log2
    }

    /// The cursor advanced by `entries`, with wrap-around.
    pub const fn advanced(self, entries: u32) -> Self {
        Self { value: self.value.wrapping_add(entries) & self.wrap_mask(), log2: self.log2 }
    }

    /// The number of entries between `behind` and this cursor of the same queue. More than [`Self::entries`]
    /// means that the two cursors are inconsistent.
    pub const fn distance_from(self, behind: Self) -> u32 {
        self.value.wrapping_sub(behind.value) & self.wrap_mask()
    }

    const fn wrap_mask(self) -> u32 {
        (2 << self.log2) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_empty_queues_differ_only_in_the_wrap_bit() {
        let start = Cursor::new(3);
        let full = start.advanced(8);
        assert_eq!((start.index(), full.index()), (0, 0));
        assert_eq!((full.raw(), full.distance_from(start), start.distance_from(start)), (8, 8, 0));
    }

    #[test]
    fn index_and_wrap_bit_wrap_around() {
        let mut cursor = Cursor::new(2);
        let indices: Vec<_> = (0..9)
            .map(|_| {
                let seen = (cursor.index(), cursor.raw());
                cursor = cursor.advanced(1);
                seen
            })
            .collect();
        assert_eq!(indices, [(0, 0), (1, 1), (2, 2), (3, 3), (0, 4), (1, 5), (2, 6), (3, 7), (0, 0)]);
    }

    #[test]
    fn read_masks_flags_above_the_wrap_bit() {
        let cursor = Cursor::new(19).read(0x8000_0000 | 0x000f_ffff);
        assert_eq!((cursor.raw(), cursor.index()), (0xf_ffff, 0x7_ffff));
        assert_eq!(Cursor::new(8).read(0x0100_000b).index(), 0xb);
    }

    #[test]
    fn distance_exceeds_entries_if_the_consumer_is_ahead_of_the_producer() {
        let producer = Cursor::new(4).advanced(3);
        assert!(producer.distance_from(producer.advanced(1)) > producer.entries());
    }
}
