//! The smallest static program: it exits.

#![cfg_attr(all(target_arch = "aarch64", not(test)), no_std, no_main)]

#[cfg(all(target_arch = "aarch64", not(test)))]
core::arch::global_asm!(".global _start", "_start:", "mov x0, #0", "mov x8, #94", "svc #0");

#[cfg(all(target_arch = "aarch64", not(test)))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(any(not(target_arch = "aarch64"), test))]
fn main() {}
