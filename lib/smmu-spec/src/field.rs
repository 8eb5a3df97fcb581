//! Bit fields, written as the manual's tables write them: high bit, low bit, value.

/// A 64-bit word with `value` in bits `hi` down to `lo` and zeroes around it. Panics when the bits do not exist or the
/// value does not fit: both are mistakes of the caller, never of the outside.
#[inline(always)]
pub const fn field(hi: u32, lo: u32, value: u64) -> u64 {
    assert!(value <= mask(hi, lo) >> lo, "value does not fit its field");
    value << lo
}

/// A 64-bit word with bit `at` set if `set`.
#[inline(always)]
pub const fn flag(at: u32, set: bool) -> u64 {
    field(at, at, set as u64)
}

/// Bits `hi` down to `lo` of `word`, moved down to bit 0.
#[inline(always)]
pub const fn extract(hi: u32, lo: u32, word: u64) -> u64 {
    (word & mask(hi, lo)) >> lo
}

/// Whether bit `at` of `word` is set.
#[inline(always)]
pub const fn is_set(at: u32, word: u64) -> bool {
    extract(at, at, word) != 0
}

/// The bits of `address` inside `hi` down to `lo`, where they are: how the manual stores addresses. Panics when the
/// address has bits outside, which hardware would drop.
#[inline(always)]
pub const fn address(hi: u32, lo: u32, address: u64) -> u64 {
    assert!(address & !mask(hi, lo) == 0, "address does not fit its field");
    address
}

/// Ones in bits `hi` down to `lo`.
#[inline(always)]
pub const fn mask(hi: u32, lo: u32) -> u64 {
    assert!(lo <= hi && hi < 64, "no such bits");
    (u64::MAX >> (63 - hi)) & (u64::MAX << lo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_go_where_the_table_says() {
        assert_eq!(field(3, 1, 0b101), 0b1010);
        assert_eq!(field(63, 0, u64::MAX), u64::MAX);
        assert_eq!(field(63, 63, 1), 1 << 63);
        assert_eq!((flag(31, true), flag(31, false)), (0x8000_0000, 0));
        assert_eq!(address(51, 6, 0x1234_5678_9ac0), 0x1234_5678_9ac0);
        assert_eq!((mask(0, 0), mask(63, 48)), (1, 0xffff_0000_0000_0000));
    }

    #[test]
    fn extraction_is_the_way_back() {
        for (hi, lo) in [(3, 1), (63, 0), (63, 59), (0, 0), (47, 32)] {
            let largest = mask(hi, lo) >> lo;
            assert_eq!(extract(hi, lo, field(hi, lo, largest)), largest);
            assert_eq!(extract(hi, lo, !field(hi, lo, largest)), 0);
        }
        assert!(is_set(31, 0x8000_0000) && !is_set(30, 0x8000_0000));
    }

    #[test]
    #[should_panic(expected = "does not fit its field")]
    fn a_value_that_is_too_large_is_a_bug() {
        field(3, 1, 8);
    }

    #[test]
    #[should_panic(expected = "address does not fit")]
    fn an_unaligned_address_is_a_bug() {
        address(51, 6, 0x20);
    }
}
