//! Processes without a CPU that runs them: their mappings, signal frames and files, on a kernel with memory
//! management on the host.

mod files;
#[path = "../host_memory/mod.rs"]
mod host_memory;
mod mappings;
mod pipes;
mod signals;

use abi::memory::Prot;
use addr::{PAGE_SIZE, UserVa};
use kernel::vm::address_space::{AddressSpace, MmapPlacement};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const READ_WRITE: Prot = Prot::READ.union(Prot::WRITE);
const BASE: UserVa = UserVa::new(0x40_0000);

/// Boots the kernel of this process; the tests run in turn.
fn boot() -> MutexGuard<'static, ()> {
    static KERNEL: Mutex<()> = Mutex::new(());
    let guard = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    host_memory::boot();
    guard
}

/// An address space with `pages` anonymous pages at [`BASE`], installed on this CPU.
fn space_with_pages(pages: u64) -> Arc<AddressSpace> {
    let space = Arc::new(AddressSpace::new().unwrap());
    space.map_anonymous(pages * PAGE_SIZE, MmapPlacement::Fixed(BASE), READ_WRITE).unwrap();
    // SAFETY: the next test installs another one before this one is dropped, or it is not dropped.
    unsafe { std::mem::ManuallyDrop::new(space.clone()).install() };
    space
}
