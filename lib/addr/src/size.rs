//! Parsing and printing of sizes: `256M`, `256 MiB`.

use core::fmt;

/// Why a text is not a valid size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SizeError {
    /// Not a number with an optional suffix.
    Malformed,
    /// The number of bytes exceeds 64 bits.
    TooLarge,
}

/// Parses a size in bytes: a decimal or `0x` number with an optional suffix `K`, `M`, `G` or `T` (powers of
/// 1024, any case).
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let suffix = text.chars().last().map(|c| c.to_ascii_uppercase());
    let shift = match suffix {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    let (digits, radix) = match digits.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (digits, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(SizeError::Malformed);
    }
    let number = u64::from_str_radix(digits, radix).map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)
}

/// A number of bytes, printed in the largest unit that divides it: `512 MiB`, `4 KiB`, `17 B`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(
    /// Bytes.
    pub u64,
);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let steps = if self.0 == 0 { 0 } else { (self.0.trailing_zeros() / 10).min(4) };
        write!(f, "{} {}", self.0 >> (steps * 10), units[steps as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_and_without_suffix() {
        let cases = [
            ("4096", 4096),
            ("4k", 4096),
            ("256M", 256 << 20),
            ("1G", 1 << 30),
            ("0x10", 16),
            ("0x1K", 1024),
            ("2T", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn invalid_sizes_are_rejected() {
        for text in ["", "M", "12X", "-1", "+1", "1.5G", "0x", "1 M", "é", "1KK"] {
            assert_eq!(parse_size(text), Err(SizeError::Malformed), "{text}");
        }
        for text in ["18446744073709551616", "16777216T"] {
            assert_eq!(parse_size(text), Err(SizeError::TooLarge), "{text}");
        }
    }

    #[test]
    fn size_is_printed_in_the_largest_exact_unit() {
        let cases = [
            (0, "0 B"),
            (17, "17 B"),
            (4096, "4 KiB"),
            (512 << 20, "512 MiB"),
            (3 << 30, "3 GiB"),
            (4097, "4097 B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
