//! Kernel panic, on a broken invariant of the kernel: prints the message, registers, backtrace and counters,
//! and powers off.

use crate::dma::counters;
use crate::memory::{heap, table_frames};
use crate::perf_counters::Reading;
use crate::{console, debug, iommu, irq, kprintln, power};
use addr::Size;
use arch::exception::TrapFrame;
use core::fmt::Display;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The index of the panicking CPU plus 1; 0 without a panic.
static PANICKING: AtomicUsize = AtomicUsize::new(0);
/// Set by a second panic on that CPU.
static NESTED: AtomicBool = AtomicBool::new(false);

/// Prints `message` and the backtrace of the caller, and powers off.
pub fn report(message: &dyn Display) -> ! {
    begin();
    kprintln!("kernel panic: {message}");
    finish(arch::backtrace::here())
}

/// Prints `message`, and the registers and backtrace of the interrupted context, and powers off.
pub fn report_trap(message: &dyn Display, frame: &TrapFrame) -> ! {
    begin();
    kprintln!("kernel panic: {message}");
    print_registers(frame);
    finish(arch::backtrace::from_exception(frame))
}

/// Makes this CPU the panicking one, masks its interrupts and stops the others. If another CPU is panicking,
/// this one halts. A nested panic on the same CPU powers off; a panic in that power-off halts.
fn begin() {
    core::mem::forget(arch::cpu::mask_irqs());
    let me = arch::cpu::index() + 1;
    match PANICKING.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {}
        Err(panicking) if panicking == me && !NESTED.swap(true, Ordering::Relaxed) => power::off(),
        Err(_) => arch::cpu::halt(),
    }
    irq::stop_other_cpus();
    // SAFETY: nothing below returns, so an interrupted print on this CPU is never resumed.
    unsafe { console::seize() };
}

fn finish(backtrace: impl Iterator<Item = u64>) -> ! {
    kprintln!("cpu {}; backtrace:", arch::cpu::index());
    for address in backtrace {
        kprintln!("  {address:#018x}");
    }
    debug::on_panic();
    iommu::all().iter().for_each(|smmu| smmu.print_events());
    statistics();
    console::flush();
    power::off()
}

/// Prints the counters that can be read without a lock, since this CPU may hold any.
fn statistics() {
    let (free, grown) = heap::gauges();
    let Reading { now: in_use, peak } = table_frames::usage();
    kprintln!("heap: {} free, {} from lowmem; tables: {in_use}, peak {peak}", Size(free), Size(grown));
    let dma = counters::gauges();
    for (name, value) in [
        ("low bytes", dma.low_bytes),
        ("high bytes", dma.high_bytes),
        ("vmalloc bytes", dma.vmalloc_bytes),
        ("device tables", dma.table_pages),
        ("device ranges", dma.iova_ranges),
        ("lost bytes", dma.lost_bytes),
    ] {
        kprintln!("dma: {name}: {}, peak {}", value.now, value.peak);
    }
}

/// Prints the registers of `frame`, four to a line.
pub fn print_registers(frame: &TrapFrame) {
    for (row, values) in frame.x().chunks(4).enumerate() {
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
            [a, b, c] => {
                kprintln!("x28 {a:016x}  x29 {b:016x}  x30 {c:016x}  sp_el0 {:016x}", frame.sp_el0())
            }
            _ => {}
        }
    }
    kprintln!(
        "elr {:016x}  spsr {:016x}  esr {:016x}  far {:016x}",
        frame.elr(),
        frame.spsr(),
        frame.esr(),
        frame.far()
    );
}
