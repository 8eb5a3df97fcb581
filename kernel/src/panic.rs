//! The end: a broken invariant of ours. Says everything that helps, once, and switches the machine off.

use crate::{console, kprintln, power};
use arch::exception::TrapFrame;
use core::fmt::Display;
use core::sync::atomic::{AtomicBool, Ordering};

/// Set by the first CPU that panics; a second panic has nothing to add.
static PANICKING: AtomicBool = AtomicBool::new(false);
/// How often the console's lock is tried before it is taken by force.
const CONSOLE_TRIES: usize = 1_000_000;

/// Prints `message` and the backtrace of the caller, and powers off.
pub fn report(message: &dyn Display) -> ! {
    begin();
    kprintln!("kernel panic: {message}");
    finish(arch::backtrace::here())
}

/// Prints `message`, the registers and the backtrace of what was interrupted, and powers off.
pub fn report_trap(message: &dyn Display, frame: &TrapFrame) -> ! {
    begin();
    kprintln!("kernel panic: {message}");
    registers(frame);
    finish(core::iter::once(frame.elr).chain(arch::backtrace::from(frame.x[29])))
}

fn begin() {
    core::mem::forget(arch::cpu::mask_irqs());
    if PANICKING.swap(true, Ordering::Relaxed) {
        arch::cpu::halt();
    }
    if !(0..CONSOLE_TRIES).any(|_| console::is_free()) {
        // SAFETY: nothing below returns. Another CPU that still prints mixes its text with ours, which is all that
        // can go wrong: the port has no state.
        unsafe { console::seize() };
    }
}

fn finish(backtrace: impl Iterator<Item = u64>) -> ! {
    kprintln!("cpu {}; backtrace:", arch::cpu::index());
    for address in backtrace {
        kprintln!("  {address:#018x}");
    }
    power::off()
}

/// Prints the registers of `frame`, four to a line.
pub fn registers(frame: &TrapFrame) {
    for (row, values) in frame.x.chunks(4).enumerate() {
        match *values {
            [a, b, c, d] => {
                let x = row * 4;
                kprintln!(
                    "x{x:<2} {a:016x}  x{:<2} {b:016x}  x{:<2} {c:016x}  x{:<2} {d:016x}",
                    x + 1,
                    x + 2,
                    x + 3
                );
            }
            [a, b, c] => kprintln!("x28 {a:016x}  x29 {b:016x}  x30 {c:016x}  sp_el0 {:016x}", frame.sp_el0),
            _ => {}
        }
    }
    kprintln!(
        "elr {:016x}  spsr {:016x}  esr {:016x}  far {:016x}",
        frame.elr,
        frame.spsr,
        frame.esr,
        frame.far
    );
}
