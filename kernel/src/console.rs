//! The console: a UART, the logger behind the `log` macros, and [`kprintln!`](crate::kprintln) for output
//! that other programs parse.

use crate::board::{Uart, UartKind};
use crate::memory::early_device::{self, EarlyDevice, OpenDriver};
use addr::{AddrRange, KernelVa, PAGE_SIZE, PhysAddr};
use arch::boot::{self, IMAGE_BASE};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use drivers::mmio::Mmio;
use drivers::uart::{Console, MiniUart, Pl011, UartReceiver};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// A UART of any kind. Not boxed: the console works before the heap is initialized, and after the heap has
/// failed.
enum Port {
    Pl011(Pl011),
    MiniUart(MiniUart),
}

impl Port {
    fn console(&mut self) -> &mut dyn Console {
        match self {
            Self::Pl011(uart) => uart,
            Self::MiniUart(uart) => uart,
        }
    }
}

static PORT: EarlyDevice<Port> = EarlyDevice::new();
/// Whether the early page tables are in use, in which a UART can be mapped.
static EARLY: AtomicBool = AtomicBool::new(true);
/// The index of the panicking CPU plus 1; 0 without a panic.
static SEIZED: AtomicUsize = AtomicUsize::new(0);
/// The number of attempts of a panicking CPU to lock the console before it ignores the lock: enough for the
/// lock holder to print a line at 115200 baud. A count, no `poll_until`: a panic must not rely on the timer.
const LOCK_ATTEMPTS: usize = 1_000_000;

/// Opens the UART from the device tree, or else the PL011 of a known machine, and installs the logger, at
/// level "info". The early page tables must be in use.
pub fn start_early(named: Option<Uart>) {
    assert!(EARLY.load(Ordering::Relaxed), "the early page tables are no longer in use");
    // SAFETY: a UART by the device tree; at most a received character is lost.
    let is_present = |uart: &Uart| unsafe { early_device::is_present(uart.registers) };
    let uart = named.filter(is_present).or_else(find);
    if let Some(uart) = uart {
        let open: OpenDriver<Port> = match uart.kind {
            UartKind::Pl011 => open_pl011,
            UartKind::MiniUart => open_mini_uart,
        };
        // SAFETY: the device tree or the identification registers show that this is a UART of this kind; only
        // the console drives it.
        unsafe { PORT.open(uart.registers, open) };
    }
    start_log();
    if let Some(missing) = named.filter(|_| uart != named) {
        log::warn!("console: no UART responds at {}", missing.registers.start());
    }
}

/// Finds the PL011 of a known machine by its identification registers, so that no other device is written.
fn find() -> Option<Uart> {
    let addresses = known_addresses(boot::image_phys(IMAGE_BASE)).iter().map(|&at| PhysAddr::new(at));
    let found = addresses.into_iter().find(|&at| {
        // SAFETY: registers of a known machine, not memory.
        let registers = unsafe { boot::map_early_device(at) };
        // SAFETY: an identification register of a PL011. A machine of the family without one has no device
        // there on which a read has an effect.
        Pl011::is_present(|offset| unsafe { arch::probe::read_u32(registers + offset) })
    });
    let registers = AddrRange::from_len(found?, PAGE_SIZE)?;
    Some(Uart { kind: UartKind::Pl011, registers, interrupt: None, baud: None })
}

/// The addresses of the PL011 on known machines, which are distinguished by the start of RAM: 0 on a
/// Raspberry Pi (3 and 4), 1 GiB on QEMU's virt, 1 TiB on its sbsa-ref.
fn known_addresses(image: PhysAddr) -> &'static [u64] {
    match image.raw() {
        0..0x4000_0000 => &[0x3f20_1000, 0xfe20_1000],
        0x4000_0000..0x100_0000_0000 => &[0x0900_0000],
        _ => &[0x6000_0000],
    }
}

/// Maps the UART in the kernel's own page tables; see [`EarlyDevice::remap`]. No output is permitted between
/// the switch of the tables and this call.
pub fn remap() {
    EARLY.store(false, Ordering::Relaxed);
    // On an error there is no console to report it on.
    let _ = PORT.remap();
}

/// # Safety
/// As for [`OpenDriver`], for a PL011.
unsafe fn open_pl011(at: KernelVa) -> Port {
    // SAFETY: passed on to the caller.
    Port::Pl011(Pl011::new(unsafe { Mmio::new(at) }))
}

/// # Safety
/// As for [`OpenDriver`], for a mini UART.
unsafe fn open_mini_uart(at: KernelVa) -> Port {
    // SAFETY: passed on to the caller.
    Port::MiniUart(MiniUart::new(unsafe { Mmio::new(at) }))
}

fn start_log() {
    // Fails only if the logger is installed already.
    let _ = log::set_logger(&ConsoleLog);
    log::set_max_level(LevelFilter::Info);
}

/// Writes bytes to the console unchanged, atomically with respect to other output.
pub fn write_bytes(bytes: &[u8]) {
    with_port(|port| port.write(bytes));
}

/// Enables the receiver of the UART, and its interrupt if `interrupt`. Called once, after [`remap`]; `None`
/// without a UART.
pub fn receiver(interrupt: bool) -> Option<UartReceiver> {
    with_port(|port| port.receiver(interrupt))
}

/// Waits until the UART has sent all output.
pub fn flush() {
    with_port(|port| port.flush());
}

/// Prints the arguments and a newline, atomically with respect to other output. Use
/// [`kprintln!`](crate::kprintln).
pub fn print_line(args: fmt::Arguments<'_>) {
    with_port(|port| {
        let mut out = ConsoleWriter(port);
        // `ConsoleWriter` never fails; only a `Display` implementation could.
        let _ = out.write_fmt(args);
        let _ = out.write_str("\n");
    });
}

/// Reserves the console for this CPU, which panics: output of other CPUs is dropped from now on. Waits for a
/// line in progress, but only for a bounded time, since this CPU may have been interrupted while it printed
/// that line. Opens the console if it is not open yet.
///
/// # Safety
/// The caller does not use any reference to the port again, and never returns.
pub unsafe fn seize() {
    let started = (0..LOCK_ATTEMPTS).find_map(|_| PORT.try_is_open());
    if started == Some(false) && EARLY.load(Ordering::Relaxed) {
        start_early(None);
    }
    SEIZED.store(arch::cpu::index() + 1, Ordering::Relaxed);
    if started.is_none() {
        write_bytes(b"\r\n");
    }
}

fn with_port<R>(f: impl FnOnce(&mut dyn Console) -> R) -> Option<R> {
    match SEIZED.load(Ordering::Relaxed) {
        0 => PORT.with(|port| f(port.console())),
        cpu if cpu == arch::cpu::index() + 1 => {
            // SAFETY: only the CPU that called `seize` gets here. If another CPU holds the lock for longer
            // than `seize` waits, their output may be mixed, but there is no data race: a port is the address
            // of its registers, which never changes.
            unsafe { PORT.with_unlocked(|port| f(port.console())) }
        }
        _ => None,
    }
}

fn send(port: &mut dyn Console, bytes: &[u8]) {
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.split_last() {
            Some((b'\n', text)) => {
                port.write(text);
                port.write(b"\r\n");
            }
            _ => port.write(line),
        }
    }
}

struct ConsoleWriter<'a>(&'a mut dyn Console);

impl Write for ConsoleWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        send(self.0, text.as_bytes());
        Ok(())
    }
}

struct ConsoleLog;

impl Log for ConsoleLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let kind = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        print_line(format_args!("{kind}{}", record.args()));
    }

    fn flush(&self) {}
}

/// Prints a line of the output contract (KTAP, `dma:`, `init:`), independent of the log level.
#[macro_export]
macro_rules! kprintln {
    ($($arg:tt)*) => { $crate::console::print_line(format_args!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uart_address_follows_from_the_load_address() {
        for (image, uart) in [
            (0x8_0000, 0x3f20_1000),
            (0x20_0000, 0xfe20_1000),
            (0x4020_0000, 0x0900_0000),
            (0x100_0020_0000, 0x6000_0000),
        ] {
            let addresses = known_addresses(PhysAddr::new(image));
            assert!(addresses.contains(&uart), "{image:#x}: {addresses:x?}");
        }
    }
}
