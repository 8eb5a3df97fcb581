//! Sizes as people write them.

const UNITS: [(char, u32); 3] = [('K', 10), ('M', 20), ('G', 30)];

/// Bytes in `512M`, `64K`, `1G` or `4096`; at least one page, and whole pages.
pub fn parse(text: &str) -> Option<u64> {
    let unit = UNITS.iter().find(|(letter, _)| text.ends_with(*letter));
    let (digits, shift) = unit.map_or((text, 0), |(letter, shift)| (text.trim_end_matches(*letter), *shift));
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0 && bytes.is_multiple_of(4096)).then_some(bytes)
}

/// The largest unit that keeps it whole: `512 MiB`.
pub fn shown(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or(format!("{bytes} bytes"), |(letter, shift)| format!("{} {letter}iB", bytes >> shift))
}

/// Rounded to whole MiB: `about 1791 MiB`, for what nobody chose.
pub fn about(bytes: u64) -> String {
    format!("about {} MiB", (bytes + (1 << 19)) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown_as) in [
            ("512M", 512 << 20, "512 MiB"),
            ("1G", 1 << 30, "1 GiB"),
            ("68K", 68 << 10, "68 KiB"),
            ("4096", 4096, "4 KiB"),
        ] {
            assert_eq!((parse(text), shown(bytes).as_str()), (Some(bytes), shown_as));
        }
        assert_eq!(shown(4097), "4097 bytes");
        assert_eq!(
            [0, (1 << 19) - 1, 1 << 19, 5 << 20].map(about),
            [0, 0, 1, 5].map(|n| format!("about {n} MiB"))
        );
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "0", "5", "-4096", "1T", "99999999999G", "4096MM0"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
