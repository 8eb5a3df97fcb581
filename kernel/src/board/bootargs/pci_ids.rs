//! A list of PCI ids.

/// Vendor and device ids: `8086:10c9,1b36:0010`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PciIds<'a>(&'a str);

impl<'a> PciIds<'a> {
    /// `None` if an entry is not two hexadecimal numbers of 16 bits.
    pub fn parse(text: &'a str) -> Option<Self> {
        text.split(',').all(|entry| parse_id(entry).is_some()).then_some(Self(text))
    }

    /// Returns whether the list has these ids.
    pub fn contains(&self, vendor: u16, device: u16) -> bool {
        self.0.split(',').any(|entry| parse_id(entry) == Some((vendor, device)))
    }
}

fn parse_id(text: &str) -> Option<(u16, u16)> {
    let (vendor, device) = text.split_once(':')?;
    let number = |text: &str| u16::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'));
    Some((number(vendor)?, number(device)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal() {
        let ids = PciIds::parse("8086:10C9,1b36:10").unwrap();
        assert!(ids.contains(0x8086, 0x10c9) && ids.contains(0x1b36, 0x10));
        assert!(!ids.contains(0x8086, 0x10) && !PciIds::default().contains(0, 0));
        for text in ["", "8086", "8086:", ":1", "8086:10c9,", "8086:110c9", "8086:+1", "8086:10c9 1b36:10"] {
            assert_eq!(PciIds::parse(text), None, "{text}");
        }
    }
}
