//! Invalid accesses that must terminate the program. Each of these probes returns only if the access
//! succeeded.

use std::thread;

use dmabuf::{Heap, Protection, SYSTEM, View};

use crate::result::ProbeResult;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Reads from an address that may be invalid.
fn read(address: usize) {
    // SAFETY: deliberately violated: the access is expected to terminate this program.
    let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() };
    println!("  read {byte:#x} at {address:#x}");
}

fn write(address: usize) {
    // SAFETY: deliberately violated: the access is expected to terminate this program.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(0) };
    println!("  wrote at {address:#x}");
}

/// Calls `address`; returns if a `ret` instruction is executed there.
fn execute(address: usize) {
    // SAFETY: deliberately violated: the call is expected to terminate this program.
    let function: extern "C" fn() = unsafe { std::mem::transmute(address) };
    function();
    println!("  executed {address:#x}");
}

fn address(view: &View) -> usize {
    view.pointer().expose_provenance()
}

/// Writes return instructions to the start of the view.
fn with_code(view: &View) -> usize {
    // AArch64 `ret; ret`; not executed on other architectures.
    view.set_word(0, 0xd65f_03c0_d65f_03c0);
    address(view)
}

/// Null pointer write.
pub fn null(_: &[String]) -> ProbeResult {
    write(0);
    Ok(())
}

/// Read in the kernel half of the address space.
pub fn kernel_address(_: &[String]) -> ProbeResult {
    read(0xffff_8000_0000_0000);
    Ok(())
}

/// Write to a page that was written before it became read-only, so that its translation is in the TLB.
pub fn write_after_mprotect(_: &[String]) -> ProbeResult {
    let view = View::anonymous(PAGE)?;
    view.set_word(0, 1);
    view.protect(0, PAGE, libc::PROT_READ)?;
    write(address(&view));
    Ok(())
}

/// Write to the program's text segment.
pub fn write_code(_: &[String]) -> ProbeResult {
    write(write_code as *const () as usize);
    Ok(())
}

/// Execution of anonymous memory without PROT_EXEC.
pub fn execute_data(_: &[String]) -> ProbeResult {
    execute(with_code(&View::anonymous(MIB)?));
    Ok(())
}

/// Execution of a DMA buffer, which a device may write.
pub fn execute_buffer(_: &[String]) -> ProbeResult {
    execute(with_code(&Heap::open(SYSTEM)?.allocate(MIB as u64)?.map(Protection::ReadWrite)?));
    Ok(())
}

/// Read past the end of a buffer.
pub fn beyond_buffer(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(3 * MIB as u64)?.map(Protection::ReadWrite)?;
    read(address(&view) + 3 * MIB - 1);
    read(address(&view) + 3 * MIB);
    Ok(())
}

/// Read before the start of a buffer.
pub fn before_buffer(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(3 * MIB as u64)?.map(Protection::ReadWrite)?;
    read(address(&view));
    read(address(&view) - 1);
    Ok(())
}

/// Write to a read-only mapping of a buffer.
pub fn write_read_only_buffer(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(MIB as u64)?.map(Protection::Read)?;
    read(address(&view));
    write(address(&view));
    Ok(())
}

/// Read of a page unmapped from the middle of a buffer's mapping.
pub fn unmapped_hole(_: &[String]) -> ProbeResult {
    let view = Heap::open(SYSTEM)?.allocate(4 * MIB as u64)?.map(Protection::ReadWrite)?;
    read(address(&view) + 2 * MIB);
    // SAFETY: accessed afterwards only to provoke the fault.
    unsafe { view.unmap_part(2 * MIB, 4096)? };
    read(address(&view) + 2 * MIB - 1);
    read(address(&view) + 2 * MIB + 4096);
    read(address(&view) + 2 * MIB);
    Ok(())
}

/// A fault in a second thread terminates the process while the first thread waits.
pub fn in_thread(_: &[String]) -> ProbeResult {
    thread::spawn(|| write(0)).join().map_err(|_| "the thread panicked")?;
    Ok(())
}

pub fn undefined_instruction(_: &[String]) -> ProbeResult {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: expected to terminate this program; otherwise it has no effect.
    unsafe {
        std::arch::asm!("udf #0")
    };
    Ok(())
}
