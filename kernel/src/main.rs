//! The kernel image. On a host this is an empty program, so that the workspace builds everywhere.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod bare {
    use addr::PhysAddr;
    use arch::boot::{self, BootInfo};
    use arch::exception::{Origin, TrapFrame, Vector};
    use core::fmt::{self, Write};
    use core::panic::PanicInfo;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// The PL011 of QEMU's virt board, until the device tree is read.
    const UART: PhysAddr = PhysAddr::new(0x0900_0000);
    static UART_VA: AtomicU64 = AtomicU64::new(0);

    struct Uart;

    impl Write for Uart {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let data = UART_VA.load(Relaxed) as *mut u32;
            for byte in text.bytes() {
                // SAFETY: `kernel_main` mapped the UART's registers before anything prints.
                unsafe { data.write_volatile(byte.into()) };
            }
            Ok(())
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn kernel_main(boot: &BootInfo) -> ! {
        UART_VA.store(boot::map_early_device(UART).raw(), Relaxed);
        let _ = writeln!(Uart, "Tessera: entered at EL{}, image {:?}", boot.entry_el, boot.image);
        let _ = writeln!(Uart, "device tree {:x?}", boot::map_early_dtb(boot.dtb));
        halt()
    }

    #[unsafe(no_mangle)]
    extern "C" fn secondary_main(cpu: usize) -> ! {
        let _ = writeln!(Uart, "CPU {cpu} is up");
        halt()
    }

    #[unsafe(no_mangle)]
    extern "C" fn handle_sync(frame: &mut TrapFrame, from: Origin) {
        panic!("exception from {from:?}: {frame:x?}");
    }

    #[unsafe(no_mangle)]
    extern "C" fn handle_irq(frame: &mut TrapFrame, from: Origin) {
        panic!("interrupt from {from:?}: {frame:x?}");
    }

    #[unsafe(no_mangle)]
    extern "C" fn handle_bad(frame: &mut TrapFrame, vector: Vector) -> ! {
        panic!("{vector:?}: {frame:x?}");
    }

    #[panic_handler]
    fn panic(info: &PanicInfo) -> ! {
        let _ = writeln!(Uart, "kernel {info}");
        halt()
    }

    fn halt() -> ! {
        loop {
            core::hint::spin_loop();
        }
    }
}
