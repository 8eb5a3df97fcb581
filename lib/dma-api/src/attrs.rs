//! Attributes of [`alloc()`](crate::DmaSpace::alloc).

use core::fmt;

bitflags::bitflags! {
    /// Attributes of a buffer, with Linux's names and bits (`DMA_ATTR_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Attrs: u32 {
        /// The CPU's writes may be gathered and reordered: non-cacheable memory even for a coherent device.
        const WRITE_COMBINE = 1 << 2;
        /// The kernel does not access the data and needs no mapping of it.
        const NO_KERNEL_MAPPING = 1 << 4;
        /// Physically contiguous memory. Not a hint: the allocation fails without it.
        const FORCE_CONTIGUOUS = 1 << 6;
        /// Single frames are sufficient; larger chunks are not tried.
        const ALLOC_SINGLE_PAGES = 1 << 7;
        /// Failure is expected and not logged.
        const NO_WARN = 1 << 8;
        /// Accessible to privileged transactions of the device only, if the bus distinguishes them.
        const PRIVILEGED = 1 << 9;
    }
}

/// Prints the names in bit order, separated by `|`, or `0`.
impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("0");
        }
        for (index, (name, _)) in self.iter_names().enumerate() {
            let joint = if index == 0 { "" } else { "|" };
            write!(f, "{joint}{name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_print_as_names_or_zero() {
        let cases = [
            (Attrs::empty(), "0"),
            (Attrs::NO_KERNEL_MAPPING, "NO_KERNEL_MAPPING"),
            (Attrs::PRIVILEGED | Attrs::WRITE_COMBINE, "WRITE_COMBINE|PRIVILEGED"),
        ];
        for (attrs, text) in cases {
            assert_eq!(attrs.to_string(), text);
        }
        assert_eq!(Attrs::all().to_string().matches('|').count(), 5);
    }

    #[test]
    fn bits_match_linux() {
        assert_eq!(Attrs::all().bits(), 0b11_1101_0100);
    }
}
