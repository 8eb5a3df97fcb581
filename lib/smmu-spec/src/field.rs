//! Bit fields, in the notation of the manual's tables: high bit, low bit, value.

/// A 64-bit word with `value` in bits `hi` down to `lo` and zeroes elsewhere. Panics if the bits do not exist
/// or the value does not fit: both are bugs in the caller, never consequences of external input.
#[inline(always)]
pub const fn field(hi: u32, lo: u32, value: u64) -> u64 {
    assert!(value <= mask(hi, lo) >> lo, "value does not fit its field");
    value << lo
}

/// A 64-bit word with bit `at` equal to `set` and zeroes elsewhere.
#[inline(always)]
pub const fn flag(at: u32, set: bool) -> u64 {
    field(at, at, set as u64)
}

/// Bits `hi` down to `lo` of `word`, shifted down to bit 0.
#[inline(always)]
pub const fn extract(hi: u32, lo: u32, word: u64) -> u64 {
    (word & mask(hi, lo)) >> lo
}

/// Whether bit `at` of `word` is set.
#[inline(always)]
pub const fn is_set(at: u32, word: u64) -> bool {
    extract(at, at, word) != 0
}

/// An address field: bits `hi` down to `lo` of `address`, unshifted, as the manual stores addresses. Panics
/// if `address` has other bits set, which hardware would ignore.
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
    fn field_flag_address_and_mask_encode_at_the_given_bits() {
        assert_eq!(field(3, 1, 0b101), 0b1010);
        assert_eq!(field(63, 0, u64::MAX), u64::MAX);
        assert_eq!(field(63, 63, 1), 1 << 63);
        assert_eq!((flag(31, true), flag(31, false)), (0x8000_0000, 0));
        assert_eq!(address(51, 6, 0x1234_5678_9ac0), 0x1234_5678_9ac0);
        assert_eq!((mask(0, 0), mask(63, 48)), (1, 0xffff_0000_0000_0000));
    }

    #[test]
    fn extract_inverts_field() {
        for (hi, lo) in [(3, 1), (63, 0), (63, 59), (0, 0), (47, 32)] {
            let largest = mask(hi, lo) >> lo;
            assert_eq!(extract(hi, lo, field(hi, lo, largest)), largest);
            assert_eq!(extract(hi, lo, !field(hi, lo, largest)), 0);
        }
        assert!(is_set(31, 0x8000_0000) && !is_set(30, 0x8000_0000));
    }

    #[test]
    #[should_panic(expected = "does not fit its field")]
    fn field_panics_if_the_value_does_not_fit() {
        field(3, 1, 8);
    }

    #[test]
    #[should_panic(expected = "address does not fit")]
    fn address_panics_if_unaligned() {
        address(51, 6, 0x20);
    }
}
