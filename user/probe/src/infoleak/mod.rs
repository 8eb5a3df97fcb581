//! Information leaks: kernel addresses, and previous content of memory and registers.

mod memory;
mod registers;
mod structures;

pub use memory::{fill, reuse, scan};
pub use registers::registers;
pub use structures::structures;

/// Whether `word` may be a kernel address: in the upper half of the address space, and not a negative error
/// code.
fn is_kernel_address(word: u64) -> bool {
    word >> 48 == 0xffff && word < u64::MAX - 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_not_kernel_addresses() {
        assert!(
            [0xffff_0000_4000_0000, 0xffff_8000_0000_0000, 0xffff_b000_0000_0008].map(is_kernel_address)
                == [true; 3]
        );
        assert!(
            [0, 0x1000, u64::MAX, -22i64 as u64, 0xaaaa_aaaa_aaaa_aaaa].map(is_kernel_address) == [false; 5]
        );
    }
}
