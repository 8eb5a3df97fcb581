//! Pointers to registers: [`Mmio`] for a register block described by a struct, [`MmioWindow`] for registers
//! known by offset (PCI configuration space, a BAR without a driver).
//!
//! Both are created once, where the mapping is known (the kernel's board code), by an `unsafe fn`; drivers
//! then need no `unsafe` for their registers. Register structs are `#[repr(C)]` blocks of `tock-registers`
//! fields (`WriteOnly`, `ReadWrite`) and of this module's [`ReadOnly`], whose accesses are volatile and
//! exactly as wide as the field. Ordering against memory accesses (DSB, DMB) is the driver's task.

use addr::{Address, KernelVa};
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use tock_registers::interfaces::Readable;
use tock_registers::registers::ReadWrite;
use tock_registers::{RegisterLongName, UIntLike};

/// A device's registers with the layout of `T`. Derefs to `T`, so that `registers.cr0.set(1)` reads as in the
/// manual.
pub struct Mmio<T> {
    registers: NonNull<T>,
}

// SAFETY: the registers are accessed by volatile accesses only, from the CPU that owns this value; the caller
// of `new` guarantees that the mapping outlives it on every CPU.
unsafe impl<T> Send for Mmio<T> {}

impl<T> Mmio<T> {
    /// The block of registers at `at`. Panics when `at` is null or not aligned for `T`.
    ///
    /// # Safety
    ///
    /// - `T` is a `#[repr(C)]` struct of [`ReadOnly`], of `tock-registers`' `WriteOnly` and `ReadWrite`, and
    ///   of padding, so that every access is volatile, any bit pattern is valid, and every field that the
    ///   device changes is a cell.
    /// - `at` maps `size_of::<T>()` bytes of such registers as Device memory (or a fake's memory) for as long
    ///   as the value lives.
    /// - no other code accesses the same registers during that time.
    pub unsafe fn new(at: KernelVa) -> Self {
        assert!(at.is_aligned(align_of::<T>() as u64), "unaligned registers at {at}");
        let pointer = core::ptr::with_exposed_provenance_mut(at.raw() as usize);
        Self { registers: NonNull::new(pointer).expect("registers at address 0") }
    }

    /// The virtual address of the registers.
    pub fn address(&self) -> KernelVa {
        KernelVa::new(self.registers.as_ptr().expose_provenance() as u64)
    }
}

impl<T> Deref for Mmio<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: not null and aligned (`new` asserts it); mapped while `self` lives and made of volatile
        // cells alone (`new`'s caller), so a shared reference claims nothing about the values behind it.
        unsafe { self.registers.as_ref() }
    }
}

/// A read-only register.
///
/// The type of this name in `tock-registers` contains a plain value, and a shared reference to a plain value
/// implies that it does not change during the lifetime of the reference. A device changes it, so here it is a
/// cell.
#[repr(transparent)]
pub struct ReadOnly<T: UIntLike, R: RegisterLongName = ()>(ReadWrite<T, R>);

impl<T: UIntLike, R: RegisterLongName> Readable for ReadOnly<T, R> {
    type T = T;
    type R = R;

    #[inline]
    fn get(&self) -> T {
        self.0.get()
    }
}

/// A range of registers known by offset. Every access is checked against the length, then volatile and
/// exactly as wide as its name says.
pub struct MmioWindow {
    start: NonNull<u8>,
    len: u64,
    _registers: PhantomData<*mut u8>,
}

// SAFETY: as for `Mmio`.
unsafe impl Send for MmioWindow {}

macro_rules! access {
    ($read:ident, $write:ident, $width:ty) => {
        /// Reads the register at `offset` bytes. Panics if it exceeds the window or `offset` is not aligned
        /// to the width: callers check untrusted offsets.
        pub fn $read(&self, offset: u64) -> $width {
            let register = self.register::<$width>(offset);
            // SAFETY: inside the mapping and aligned (`register`); registers may be read at any time.
            unsafe { register.read_volatile() }
        }
        /// Writes the register at `offset` bytes. Panics like the read.
        pub fn $write(&mut self, offset: u64, value: $width) {
            let register = self.register::<$width>(offset);
            // SAFETY: inside the mapping and aligned (`register`); `&mut self` and `new`'s requirements
            // exclude other writers.
            unsafe { register.write_volatile(value) }
        }
    };
}

/// Registers known by their offset in bytes: a [`MmioWindow`], a part of one, or a model in tests.
pub trait RegisterAccess {
    /// Reads 32 bits at `offset`.
    fn read32(&self, offset: u64) -> u32;
    /// Reads 64 bits at `offset`.
    fn read64(&self, offset: u64) -> u64;
    /// Writes 32 bits at `offset`.
    fn write32(&mut self, offset: u64, value: u32);
    /// Writes 64 bits at `offset`.
    fn write64(&mut self, offset: u64, value: u64);
}

impl RegisterAccess for MmioWindow {
    fn read32(&self, offset: u64) -> u32 {
        Self::read32(self, offset)
    }
    fn read64(&self, offset: u64) -> u64 {
        Self::read64(self, offset)
    }
    fn write32(&mut self, offset: u64, value: u32) {
        Self::write32(self, offset, value);
    }
    fn write64(&mut self, offset: u64, value: u64) {
        Self::write64(self, offset, value);
    }
}

/// A window is shorter than the register block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooShort {
    /// Length of the window in bytes.
    pub len: u64,
    /// Length of the register block in bytes.
    pub wanted: u64,
}

impl fmt::Display for TooShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registers of {:#x} bytes, {:#x} wanted", self.len, self.wanted)
    }
}

impl core::error::Error for TooShort {}

impl MmioWindow {
    /// The `len` bytes of registers at `at`. Panics when `at` is null or not aligned to 8 bytes.
    ///
    /// # Safety
    ///
    /// `at` maps `len` bytes of device registers as Device memory (or a fake's memory) for as long as the
    /// value lives, and no other code accesses them during that time.
    pub unsafe fn new(at: KernelVa, len: u64) -> Self {
        assert!(at.is_aligned(8), "unaligned registers at {at}");
        let pointer = core::ptr::with_exposed_provenance_mut(at.raw() as usize);
        Self { start: NonNull::new(pointer).expect("registers at address 0"), len, _registers: PhantomData }
    }

    /// The virtual address of the registers.
    pub fn address(&self) -> KernelVa {
        KernelVa::new(self.start.as_ptr().expose_provenance() as u64)
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Checks that the window has at least `wanted` bytes.
    ///
    /// # Errors
    /// [`TooShort`].
    pub fn at_least(&self, wanted: u64) -> Result<(), TooShort> {
        if self.len < wanted { Err(TooShort { len: self.len, wanted }) } else { Ok(()) }
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);

    fn register<W>(&self, offset: u64) -> *mut W {
        let width = size_of::<W>() as u64;
        let inside = offset.checked_add(width).is_some_and(|end| end <= self.len);
        assert!(inside && offset.is_multiple_of(width), "register {offset:#x} of {:#x}", self.len);
        // SAFETY: `offset` is inside the mapping by the assert, and the mapping is one allocation (`new`).
        unsafe { self.start.as_ptr().add(offset as usize) }.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;
    use core::mem::offset_of;
    use tock_registers::interfaces::Writeable;

    #[repr(C)]
    struct Registers {
        id: ReadOnly<u32>,
        control: ReadWrite<u32>,
        address: ReadWrite<u64>,
    }
    const _: () = assert!(offset_of!(Registers, address) == 8 && size_of::<Registers>() == 16);

    #[test]
    fn fields_access_memory_at_their_offsets() {
        let fake = FakeRegisters::new(16);
        let registers = fake.mmio::<Registers>();
        fake.set32(0, 0xed);
        registers.control.set(7);
        registers.address.set(0x1_0000_0002);
        assert_eq!(registers.id.get(), 0xed);
        assert_eq!((fake.get32(4), fake.get32(8), fake.get32(12)), (7, 2, 1));
    }

    #[test]
    fn window_reads_and_writes_each_width() {
        let fake = FakeRegisters::new(16);
        let mut window = fake.window();
        window.write64(8, 0x0807_0605_0403_0201);
        assert_eq!((window.read8(9), window.read16(10), window.read32(12)), (2, 0x0403, 0x0807_0605));
        window.write8(0, 1);
        window.write16(2, 2);
        window.write32(4, 3);
        assert_eq!((window.read64(0), window.len(), window.is_empty()), (0x3_0002_0001, 16, false));
    }

    #[test]
    #[should_panic(expected = "register 0xd of 0x10")]
    fn access_past_the_window_panics() {
        FakeRegisters::new(16).window().read32(13);
    }

    #[test]
    #[should_panic(expected = "register 0xfffffffffffffffc of 0x10")]
    fn offset_overflow_panics() {
        FakeRegisters::new(16).window().read64(u64::MAX - 3);
    }

    #[test]
    #[should_panic(expected = "unaligned registers")]
    fn unaligned_registers_panic() {
        // SAFETY: panics before any access.
        let _ = unsafe { Mmio::<Registers>::new(KernelVa::new(0x1004)) };
    }
}
