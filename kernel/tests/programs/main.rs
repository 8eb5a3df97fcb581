//! Processes without a CPU that runs them, on a kernel with memory management on the host.

#[path = "../host_memory/mod.rs"]
mod host_memory;
mod mappings;

use abi::memory::Prot;
use addr::UserVa;
use std::sync::{Mutex, MutexGuard, PoisonError};

const READ_WRITE: Prot = Prot::READ.union(Prot::WRITE);
const BASE: UserVa = UserVa::new(0x40_0000);

/// Boots the kernel of this process; the tests run in turn.
fn boot() -> MutexGuard<'static, ()> {
    static KERNEL: Mutex<()> = Mutex::new(());
    let guard = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    host_memory::boot();
    guard
}
