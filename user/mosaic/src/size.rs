//! The size argument, and rounded sizes.

use addr::parse_size;

const PAGE: u64 = 4096;

/// The bytes of a size such as `512M` that is a non-zero multiple of the page size.
pub fn parse_pages(text: &str) -> Option<u64> {
    parse_size(text).ok().filter(|&bytes| bytes > 0 && bytes.is_multiple_of(PAGE))
}

/// Rounded to whole MiB, for a size that results from the state of the machine: `about 1791 MiB`.
pub fn about(bytes: u64) -> String {
    format!("about {} MiB", (bytes + (1 << 19)) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_must_be_whole_pages() {
        for (text, bytes) in [
            ("512M", Some(512 << 20)),
            ("68K", Some(68 << 10)),
            ("4096", Some(4096)),
            ("0", None),
            ("5", None),
        ] {
            assert_eq!(parse_pages(text), bytes, "{text}");
        }
        for text in ["", "M", "-4096", "99999999999G", "4096MM0"] {
            assert_eq!(parse_pages(text), None, "{text}");
        }
    }

    #[test]
    fn about_rounds_to_the_nearest_mib() {
        assert_eq!(
            [0, (1 << 19) - 1, 1 << 19, 5 << 20].map(about),
            [0, 0, 1, 5].map(|n| format!("about {n} MiB"))
        );
    }
}
