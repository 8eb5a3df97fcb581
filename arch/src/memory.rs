//! Copying and filling: `memcpy` and `memset`, which the compiler calls by name, and zeroing frames (`memory.s`).
//!
//! The compiler's own are for targets whose accesses must be aligned and go byte by byte where they are not.

#[cfg(target_os = "none")]
mod target {
    core::arch::global_asm!(include_str!("memory.s"), options(raw));

    unsafe extern "C" {
        /// Zeroes `start..end`, a multiple of 64 bytes.
        ///
        /// # Safety
        /// Normal memory, mapped writable, that nobody else refers to.
        pub fn zero_lines(start: u64, end: u64);
    }
}

#[cfg(target_os = "none")]
pub(crate) use target::zero_lines;
