//! The host's log: what the functions of this crate were asked, in order, one log per thread.
//!
//! A test takes the log before and after what it checks and compares:
//!
//! ```
//! use arch::{barrier, fake::{self, Instruction}, tlb};
//! use addr::Asid;
//! tlb::asid(Asid::new(7));
//! assert_eq!(
//!     fake::take(),
//!     [Instruction::Barrier("dsb_ishst"), Instruction::TlbAsid(Asid::new(7)), Instruction::Barrier("dsb_ish"), Instruction::Barrier("isb")]
//! );
//! ```

use crate::tlb::Level;
use addr::{AddrRange, Asid, KernelVa, PhysAddr, UserVa};
use std::cell::{Cell, RefCell};
use std::vec::Vec;

/// One thing that was asked for. Barriers inside a function are events of their own, after or around its event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// A barrier, by the name of its function in [`barrier`](crate::barrier).
    Barrier(&'static str),
    /// Lines written back to the point of coherency.
    Clean(AddrRange<KernelVa>),
    /// Lines dropped.
    Invalidate(AddrRange<KernelVa>),
    /// Lines written back and dropped.
    CleanInvalidate(AddrRange<KernelVa>),
    /// Memory zeroed.
    Zero(AddrRange<KernelVa>),
    /// Instruction fetches made to see earlier stores.
    SyncInstructions(AddrRange<KernelVa>),
    /// Kernel translations dropped on all CPUs.
    TlbKernel(AddrRange<KernelVa>, Level),
    /// Kernel leaves that this CPU alone can have, dropped there.
    TlbLocal(AddrRange<KernelVa>),
    /// A program's translations dropped on all CPUs.
    TlbUser(Asid, AddrRange<UserVa>, Level),
    /// All of a program's translations dropped on all CPUs.
    TlbAsid(Asid),
    /// All translations dropped on all CPUs.
    TlbAll,
    /// The kernel's tables replaced.
    ReplaceTtbr1(PhysAddr),
    /// A program's tables installed.
    InstallUser(PhysAddr, Asid),
    /// No program's tables installed.
    UninstallUser,
    /// A CPU released to a SecondaryArgs.
    ReleaseParked(u64, PhysAddr),
    /// The next timer interrupt, in ticks.
    TimerAt(u64),
    /// The timer turned off.
    TimerOff,
    /// A register written as the secure side: where and what.
    SecureWrite(u64, u32),
    /// A call to the firmware.
    Psci(&'static str),
    /// A wait for interrupts or events, by the name of its function in [`cpu`](crate::cpu).
    Hint(&'static str),
}

/// Says where on the host an address of the kernel's is.
pub type AddressOf = fn(KernelVa) -> u64;

std::thread_local! {
    static LOG: RefCell<Vec<Instruction>> = const { RefCell::new(Vec::new()) };
    static TICKS: Cell<u64> = const { Cell::new(0) };
    static WATCHER: Cell<Option<fn(Instruction)>> = const { Cell::new(None) };
    static MEMORY: Cell<Option<AddressOf>> = const { Cell::new(None) };
    static MASKED: Cell<bool> = const { Cell::new(true) };
    static USER: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
}

/// Appends to this thread's log.
pub(crate) fn record(instruction: Instruction) {
    LOG.with_borrow_mut(|log| log.push(instruction));
    if let Some(watcher) = WATCHER.get() {
        watcher(instruction);
    }
}

/// Calls `watcher` with every event on this thread from now on, when it happens: for a test that plays the cache, and has
/// to know what memory holds at the moment it is cleaned.
pub fn watch(watcher: fn(Instruction)) {
    WATCHER.set(Some(watcher));
}

/// Says where on the host this thread finds what the kernel has mapped at an address, for as long as the address does not
/// leave its page.
pub fn map_memory(address_of: AddressOf) {
    MEMORY.set(Some(address_of));
}

/// Where on the host `va` is; without [`map_memory`] it is an address of the host's.
pub(crate) fn address_of(va: KernelVa) -> u64 {
    MEMORY.get().map_or(va.raw(), |address_of| address_of(va))
}

/// Takes this thread's log, leaving it empty.
pub fn take() -> Vec<Instruction> {
    LOG.take()
}

/// This thread's counter. Each look moves it on by one, so that a loop with a deadline ends.
pub(crate) fn ticks() -> u64 {
    TICKS.set(TICKS.get() + 1);
    TICKS.get()
}

/// Moves this thread's counter on by `ticks`.
pub fn pass(ticks: u64) {
    TICKS.set(TICKS.get() + ticks);
}

/// Whether interrupts are masked on this thread; true at first, as after boot.
pub(crate) fn irqs_masked() -> bool {
    MASKED.get()
}

/// Masks or unmasks this thread's interrupts.
pub(crate) fn set_irqs_masked(masked: bool) {
    MASKED.set(masked);
}

/// Gives this thread's program a copy of `bytes` at `at`, and nothing else, for [`user_copy`](crate::user_copy).
pub fn set_user_memory(at: UserVa, bytes: &[u8]) {
    USER.set((at.raw(), bytes.to_vec()));
}

/// Calls `access` with the program's memory from `at` on, empty where there is none.
pub(crate) fn with_user_memory<R>(at: u64, access: impl FnOnce(&mut [u8]) -> R) -> R {
    USER.with_borrow_mut(|(base, bytes)| {
        let offset = at.checked_sub(*base).and_then(|offset| usize::try_from(offset).ok());
        access(offset.and_then(|offset| bytes.get_mut(offset..)).unwrap_or_default())
    })
}
