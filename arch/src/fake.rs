//! The host implementation: a per-thread log of instructions, and the state that tests can set.
//!
//! A test clears the log with [`take`], runs the code under test, and compares:
//!
//! ```
//! use arch::{barrier, fake::{self, Instruction}, tlb};
//! use addr::Asid;
//! tlb::asid(Asid::new(7));
//! assert_eq!(
//!     fake::take(),
//!     [
//!         Instruction::Barrier("dsb_ishst"),
//!         Instruction::TlbAsid(Asid::new(7)),
//!         Instruction::Barrier("dsb_ish"),
//!         Instruction::Barrier("isb"),
//!     ]
//! );
//! ```

use crate::tlb_level::Level;
use addr::{AddrRange, Asid, KernelVa, PAGE_SIZE, PhysAddr, UserVa};
use std::cell::{Cell, RefCell};
use std::vec::Vec;

/// An instruction, or a short sequence, in the log. Barriers inside a function have entries of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// A barrier, by the name of its function in [`barrier`](crate::barrier).
    Barrier(&'static str),
    /// Data cache clean to the point of coherency (DC CVAC).
    Clean(AddrRange<KernelVa>),
    /// Data cache invalidate (DC IVAC).
    Invalidate(AddrRange<KernelVa>),
    /// Data cache clean and invalidate (DC CIVAC).
    CleanInvalidate(AddrRange<KernelVa>),
    /// Zeroing of memory.
    Zero(AddrRange<KernelVa>),
    /// Synchronization of instruction fetches with stores.
    SyncInstructions(AddrRange<KernelVa>),
    /// TLB invalidation of kernel addresses on all CPUs.
    TlbKernel(AddrRange<KernelVa>, Level),
    /// TLB invalidation of last-level entries of kernel addresses on this CPU.
    TlbLocal(AddrRange<KernelVa>),
    /// TLB invalidation of user addresses of an ASID on all CPUs.
    TlbUser(Asid, AddrRange<UserVa>, Level),
    /// TLB invalidation of an ASID on all CPUs.
    TlbAsid(Asid),
    /// TLB invalidation of all entries on all CPUs.
    TlbAll,
    /// TLB invalidation of any entry on all CPUs, for its synchronization only.
    TlbAny,
    /// Replacement of TTBR1_EL1.
    ReplaceTtbr1(PhysAddr),
    /// Write of a user table and an ASID to TTBR0_EL1.
    InstallUser(PhysAddr, Asid),
    /// Write of the empty table to TTBR0_EL1.
    UninstallUser,
    /// Release of a parked CPU: its affinity and its SecondaryArgs.
    ReleaseParked(u64, PhysAddr),
    /// Timer compare value, in ticks.
    TimerAt(u64),
    /// Timer disabled.
    TimerOff,
    /// Monitor call that writes a Secure register: address and value.
    SecureWrite(u64, u32),
    /// PSCI call.
    Psci(&'static str),
    /// WFI, WFE or SEV, by the name of its function in [`cpu`](crate::cpu).
    Hint(&'static str),
}

/// Maps a kernel virtual address to a host address.
pub type AddressOf = fn(KernelVa) -> u64;

/// Translates a user address for a read or a write of the program to a host address, which is valid to the
/// end of the page. `None` is a page fault.
pub type UserAddressOf = fn(UserVa, UserAccess) -> Option<u64>;

/// An access of [`user_copy`](crate::user_copy).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserAccess {
    /// A load.
    Read,
    /// A store.
    Write,
}

std::thread_local! {
    static LOG: RefCell<Vec<Instruction>> = const { RefCell::new(Vec::new()) };
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static WATCHER: Cell<Option<fn(Instruction)>> = const { Cell::new(None) };
    static MEMORY: Cell<Option<AddressOf>> = const { Cell::new(None) };
    static MIDR: Cell<u64> = const { Cell::new(0) };
    static MASKED: Cell<bool> = const { Cell::new(true) };
    static USER: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
    static USER_MAP: Cell<Option<UserAddressOf>> = const { Cell::new(None) };
    static USER_ROOT: Cell<Option<(PhysAddr, Asid)>> = const { Cell::new(None) };
}

/// Appends to this thread's log.
pub(crate) fn record(instruction: Instruction) {
    LOG.with_borrow_mut(|log| log.push(instruction));
    if let Some(watcher) = WATCHER.get() {
        watcher(instruction);
    }
}

/// Installs a callback for every later log entry of this thread, called at the time of the instruction: for a
/// cache model, which needs the contents of memory at the time of a clean.
pub fn watch(watcher: fn(Instruction)) {
    WATCHER.set(Some(watcher));
}

/// Sets the mapping from kernel virtual addresses to host addresses for this thread. It is applied per page.
pub fn map_memory(address_of: AddressOf) {
    MEMORY.set(Some(address_of));
}

/// The host address of `va`; `va` itself without [`map_memory`].
pub(crate) fn address_of(va: KernelVa) -> u64 {
    MEMORY.get().map_or(va.raw(), |address_of| address_of(va))
}

/// Sets MIDR_EL1, and with it the errata, for this thread.
pub fn set_midr(midr: u64) {
    MIDR.set(midr);
}

/// MIDR_EL1.
pub(crate) fn midr() -> u64 {
    MIDR.get()
}

/// Takes the log of this thread and leaves it empty.
pub fn take() -> Vec<Instruction> {
    LOG.take()
}

/// The counter of this thread. Each read advances it by one tick, so that a loop with a deadline ends.
pub(crate) fn ticks() -> u64 {
    TICKS.set(TICKS.get() + 1);
    TICKS.get()
}

/// Advances the counter of this thread by `ticks`.
pub fn advance(ticks: u64) {
    TICKS.set(TICKS.get() + ticks);
}

/// Whether interrupts are masked on this thread; initially true, as after boot.
pub(crate) fn irqs_masked() -> bool {
    MASKED.get()
}

/// Masks or unmasks interrupts on this thread.
pub(crate) fn set_irqs_masked(masked: bool) {
    MASKED.set(masked);
}

/// Sets the user memory of this thread for [`user_copy`](crate::user_copy): a copy of `bytes` at `at`.
pub fn set_user_memory(at: UserVa, bytes: &[u8]) {
    USER.set((at.raw(), bytes.to_vec()));
}

/// Translates the user addresses of this thread for [`user_copy`](crate::user_copy) by `address_of`, instead
/// of [`set_user_memory`].
pub fn map_user_memory(address_of: UserAddressOf) {
    USER_MAP.set(Some(address_of));
}

/// Calls `copy` with the user memory from `at` on, at least up to the end of the page; empty after a fault.
pub(crate) fn with_user_memory<R>(at: u64, access: UserAccess, copy: impl FnOnce(&mut [u8]) -> R) -> R {
    if let Some(address_of) = USER_MAP.get() {
        let bytes = (PAGE_SIZE - at % PAGE_SIZE) as usize;
        return match address_of(UserVa::new(at), access) {
            // SAFETY: the test that installed the mapping owns this memory up to the end of the page.
            Some(host) => copy(unsafe {
                std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(host as usize), bytes)
            }),
            None => copy(&mut []),
        };
    }
    USER.with_borrow_mut(|(base, bytes)| {
        let offset = at.checked_sub(*base).and_then(|offset| usize::try_from(offset).ok());
        copy(offset.and_then(|offset| bytes.get_mut(offset..)).unwrap_or_default())
    })
}

/// The user root and ASID of this thread.
pub(crate) fn user_root() -> Option<(PhysAddr, Asid)> {
    USER_ROOT.get()
}

/// Sets the user root and ASID of this thread.
pub(crate) fn set_user_root(root: Option<(PhysAddr, Asid)>) {
    USER_ROOT.set(root);
}
