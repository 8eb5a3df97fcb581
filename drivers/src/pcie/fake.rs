//! Tests only: a tree of functions and bridges with the behaviour of hardware in configuration space,
//! including BAR sizing and the forwarding of bus numbers.

use super::address::Bdf;
use super::config::{ConfigSpace, Width};
use core::ops::RangeInclusive;
use std::vec::Vec;

/// The buses that tests enumerate: all, except under Miri, where they take a minute.
pub const BUSES: RangeInclusive<u8> = 0..=if cfg!(miri) { 17 } else { 255 };

/// A function: its registers, their writable bits, and the functions behind it.
pub struct FakeFunction {
    registers: Vec<u8>,
    writable: Vec<u8>,
    /// Functions behind a bridge, at device 0, 1, ...
    behind: Vec<FakeFunction>,
    /// Functions 1, 2, ... of the same device.
    beside: Vec<FakeFunction>,
    removed: bool,
}

impl FakeFunction {
    pub fn endpoint(vendor: u16, device: u16) -> Self {
        let empty = || vec![0; 4096];
        let mut function = Self {
            registers: empty(),
            writable: empty(),
            behind: Vec::new(),
            beside: Vec::new(),
            removed: false,
        };
        function.set32(0, u32::from(device) << 16 | u32::from(vendor));
        function.writable[0x04] = 0xff;
        function.writable[0x05] = 0xff;
        function
    }

    /// A bridge without PCI Express capability.
    pub fn bridge(behind: impl IntoIterator<Item = FakeFunction>) -> Self {
        let mut function = Self::endpoint(0x1b36, 1);
        function.set32(0x08, 0x0604_0000);
        function.set8(0x0e, 1);
        function.writable[0x18..0x1b].fill(0xff);
        function = function.writable32(0x20, 0xfff0_fff0).writable32(0x24, 0xfff0_fff0);
        function = function.writable32(0x28, u32::MAX).writable32(0x2c, u32::MAX);
        function.set32(0x24, 0x0001_0001);
        function.behind = behind.into_iter().collect();
        function
    }

    /// A bridge with this device/port type: 4 root port, 7 PCI Express to PCI.
    pub fn express(port: u8, behind: impl IntoIterator<Item = FakeFunction>) -> Self {
        Self::bridge(behind).with_express(port)
    }

    pub fn with_express(mut self, port: u8) -> Self {
        self.set8(0x06, 1 << 4);
        self.set8(0x34, 0x60);
        self.set8(0x60, 0x10);
        self.set8(0x62, port << 4);
        self
    }

    /// The header of a last extended capability.
    pub fn header(mut self, at: u16, id: u16) -> Self {
        self.set32(at, 1 << 16 | u32::from(id));
        self
    }

    /// An extended capability, followed by the one at `next`, with two writable words after its header.
    pub fn extended(self, at: u16, id: u16, next: u16, words: [u32; 2]) -> Self {
        let mut function = self.writable32(at + 4, u32::MAX).writable32(at + 8, u32::MAX);
        function.set32(at, u32::from(next) << 20 | 1 << 16 | u32::from(id));
        function.set32(at + 4, words[0]);
        function.set32(at + 8, words[1]);
        function
    }

    /// A BAR with these flags. The upper half of the size applies to a 64-bit BAR only.
    pub fn bar(mut self, index: u16, flags: u32, size: u64) -> Self {
        let mask = !(size - 1);
        let register = 0x10 + 4 * index;
        self = self.writable32(register, mask as u32);
        self.set32(register, flags);
        if flags & 6 == 4 && index < 5 { self.writable32(register + 4, (mask >> 32) as u32) } else { self }
    }

    pub fn beside(mut self, functions: impl IntoIterator<Item = FakeFunction>) -> Self {
        self.set8(0x0e, self.registers[0x0e] | 0x80);
        self.beside = functions.into_iter().collect();
        self
    }

    pub fn pin(mut self, pin: u8) -> Self {
        self.set8(0x3d, pin);
        self
    }

    pub fn writable32(mut self, register: u16, mask: u32) -> Self {
        self.writable[register.into()..][..4].copy_from_slice(&mask.to_le_bytes());
        self
    }

    pub fn read_only8(mut self, register: u16) -> Self {
        self.writable[usize::from(register)] = 0;
        self
    }

    pub fn set8(&mut self, register: u16, value: u8) {
        self.registers[usize::from(register)] = value;
    }

    pub fn set32(&mut self, register: u16, value: u32) {
        self.registers[register.into()..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn buses(&self) -> Option<(u8, u8)> {
        (self.registers[0x0e] & 0x7f == 1 && !self.removed)
            .then_some((self.registers[0x19], self.registers[0x1a]))
    }
}

/// A host bridge with one or more root buses.
pub struct FakeBus {
    roots: Vec<(u8, Vec<FakeFunction>)>,
}

impl FakeBus {
    /// Bus 0 with these functions at device 0, 1, ...
    pub fn new(functions: impl IntoIterator<Item = FakeFunction>) -> Self {
        Self { roots: vec![(0, functions.into_iter().collect())] }
    }

    /// Adds a root bus, as a `pxb-pcie` does.
    pub fn root(mut self, number: u8, functions: impl IntoIterator<Item = FakeFunction>) -> Self {
        self.roots.push((number, functions.into_iter().collect()));
        self
    }

    /// Removes the function, and the buses behind it.
    pub fn remove(&mut self, at: Bdf) {
        self.find_mut(at).expect("a function").removed = true;
    }

    fn find(&self, at: Bdf) -> Option<&FakeFunction> {
        let root = self.roots.iter().find(|(number, _)| *number == at.bus());
        let bus = match root {
            Some((_, functions)) => functions,
            None => self.roots.iter().find_map(|(_, functions)| behind(functions, at.bus()))?,
        };
        let first = bus.get(usize::from(at.device()))?;
        let found = match at.function() {
            0 => Some(first),
            other => first.beside.get(usize::from(other) - 1),
        };
        found.filter(|function| !function.removed)
    }

    fn find_mut(&mut self, at: Bdf) -> Option<&mut FakeFunction> {
        let found: *const FakeFunction = self.find(at)?;
        self.roots.iter_mut().find_map(|(_, functions)| by_address(functions, found))
    }
}

fn by_address(functions: &mut [FakeFunction], wanted: *const FakeFunction) -> Option<&mut FakeFunction> {
    functions.iter_mut().find_map(|function| match core::ptr::eq(function, wanted) {
        true => Some(function),
        false => {
            by_address(&mut function.behind, wanted).or_else(|| by_address(&mut function.beside, wanted))
        }
    })
}

/// The bus `number`, found as the bridges forward it.
fn behind(functions: &[FakeFunction], number: u8) -> Option<&Vec<FakeFunction>> {
    functions.iter().find_map(|bridge| match bridge.buses()? {
        (secondary, _) if secondary == number => Some(&bridge.behind),
        (secondary, subordinate) if secondary < number && number <= subordinate => {
            behind(&bridge.behind, number)
        }
        _ => None,
    })
}

impl ConfigSpace for FakeBus {
    fn read(&self, at: Bdf, offset: u16, width: Width) -> u32 {
        let len = width as usize;
        let Some(function) = self.find(at) else { return u32::MAX };
        let mut bytes = [0; 4];
        bytes[..len].copy_from_slice(&function.registers[offset.into()..][..len]);
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, at: Bdf, offset: u16, width: Width, value: u32) {
        let Some(function) = self.find_mut(at) else { return };
        for (at, byte) in (usize::from(offset)..).zip(value.to_le_bytes()).take(width as usize) {
            let mask = function.writable[at];
            function.registers[at] = function.registers[at] & !mask | byte & mask;
        }
    }
}
