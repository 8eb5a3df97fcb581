//! The kernel image: the functions that assembly calls by name. On a host this is an empty program, so that
//! the workspace builds everywhere. The boot sequence is `kernel::boot`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod run;

#[cfg(target_os = "none")]
mod entry {
    use crate::run;
    use arch::boot::BootInfo;
    use arch::exception::{Origin, TrapFrame, Vector};
    use kernel::{boot, panic, trap};

    #[unsafe(no_mangle)]
    extern "C" fn kernel_main(boot: &BootInfo) -> ! {
        #[cfg(feature = "checking")]
        kernel::debug::install(&selftest::debug::AllChecks);
        // SAFETY: boot.s calls this once, on the boot CPU.
        unsafe { boot::start_kernel(boot, run::main) }
    }

    #[unsafe(no_mangle)]
    extern "C" fn secondary_main(_cpu: usize) -> ! {
        // SAFETY: boot.s calls this once on each secondary CPU.
        unsafe { boot::start_secondary() }
    }

    #[unsafe(no_mangle)]
    extern "C" fn handle_sync(frame: &mut TrapFrame, from: Origin) {
        match from {
            // SAFETY: by `from`, which exception.s derives from the vector.
            Origin::User => trap::user_exception(unsafe { frame.as_user() }),
            Origin::Kernel => trap::kernel_exception(frame),
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn handle_irq(frame: &mut TrapFrame, from: Origin) {
        match from {
            // SAFETY: as above.
            Origin::User => trap::user_interrupt(unsafe { frame.as_user() }),
            Origin::Kernel => trap::kernel_interrupt(),
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn handle_unexpected(frame: &TrapFrame, vector: Vector) -> ! {
        trap::unexpected(frame, vector)
    }

    #[panic_handler]
    fn on_panic(info: &core::panic::PanicInfo) -> ! {
        match info.location() {
            Some(at) => panic::report(&format_args!("{} at {at}", info.message())),
            None => panic::report(&info.message()),
        }
    }
}
