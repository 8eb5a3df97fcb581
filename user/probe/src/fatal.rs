//! What no program may do. Each of these returns only if the kernel let it happen.

use std::thread;

use dmabuf::{Heap, Protection, SYSTEM, View};

use crate::result::ProbeResult;

const MIB: usize = 1 << 20;

/// Reads without believing that the address is good for it.
fn read(address: usize) {
    // SAFETY: on purpose none: the access is expected to end this program.
    let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() };
    println!("  read {byte:#x} at {address:#x}");
}

fn write(address: usize) {
    // SAFETY: on purpose none: the access is expected to end this program.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(0) };
    println!("  wrote at {address:#x}");
}

/// Jumps to `address`; where that holds `ret`, it comes back.
fn execute(address: usize) {
    // SAFETY: on purpose none: the jump is expected to end this program.
    let function: extern "C" fn() = unsafe { std::mem::transmute(address) };
    function();
    println!("  executed {address:#x}");
}

fn address(view: &View) -> usize {
    view.pointer().expose_provenance()
}

/// A view whose first words are instructions that return.
fn with_code(view: &View) -> usize {
    // On AArch64 `ret; ret`, elsewhere never run in earnest.
    view.set_word(0, 0xd65f_03c0_d65f_03c0);
    address(view)
}

/// Address 0, as most programs that fail do.
pub fn null(_: &[String]) -> ProbeResult {
    write(0);
    Ok(())
}

/// The kernel's half of the address space.
pub fn kernel_address(_: &[String]) -> ProbeResult {
    read(0xffff_8000_0000_0000);
    Ok(())
}

/// This program's own instructions.
pub fn write_code(_: &[String]) -> ProbeResult {
    write(write_code as *const () as usize);
    Ok(())
}

/// Fresh memory that was never mapped for execution.
pub fn execute_data(_: &[String]) -> ProbeResult {
    execute(with_code(&View::anonymous(MIB)?));
    Ok(())
}

/// A buffer for devices: what a device writes must never run.
pub fn execute_buffer(_: &[String]) -> ProbeResult {
    execute(with_code(&Heap::open(SYSTEM)?.allocate(MIB as u64)?.map(Protection::ReadWrite)?));
    Ok(())
}

/// The first byte behind a buffer.
pub fn beyond_buffer(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(3 * MIB as u64)?.map(Protection::ReadWrite)?;
    read(address(&view) + 3 * MIB - 1);
    read(address(&view) + 3 * MIB);
    Ok(())
}

/// The last byte before a buffer.
pub fn before_buffer(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(3 * MIB as u64)?.map(Protection::ReadWrite)?;
    read(address(&view));
    read(address(&view) - 1);
    Ok(())
}

/// A buffer mapped for reading.
pub fn write_read_only_buffer(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(MIB as u64)?.map(Protection::Read)?;
    read(address(&view));
    write(address(&view));
    Ok(())
}

/// A page taken out of the middle of a buffer's mapping.
pub fn unmapped_hole(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(4 * MIB as u64)?.map(Protection::ReadWrite)?;
    read(address(&view) + 2 * MIB);
    // SAFETY: touched afterwards only to see the fault.
    unsafe { view.unmap_part(2 * MIB, 4096)? };
    read(address(&view) + 2 * MIB - 1);
    read(address(&view) + 2 * MIB + 4096);
    read(address(&view) + 2 * MIB);
    Ok(())
}

/// A second thread dies, and the program with it, while the first one waits.
pub fn in_thread(_: &[String]) -> ProbeResult {
    thread::spawn(|| write(0)).join().map_err(|_| "the thread panicked")?;
    Ok(())
}

/// An instruction that is none.
pub fn undefined_instruction(_: &[String]) -> ProbeResult {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: expected to end this program; if not, it has no effect.
    unsafe {
        std::arch::asm!("udf #0")
    };
    Ok(())
}
