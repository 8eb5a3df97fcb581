//! Registers with side effects.

use super::{PhysicalMemory, RegisterFile, SmmuModel};
use crate::cursor::Cursor;
use crate::field::{extract, mask};

/// Offsets (IHI 0070, 6.2).
pub(super) mod offset {
    pub const IDR0: usize = 0x00;
    pub const IIDR: usize = 0x18;
    pub const AIDR: usize = 0x1c;
    pub const CR0: usize = 0x20;
    pub const CR0ACK: usize = 0x24;
    pub const CR1: usize = 0x28;
    pub const CR2: usize = 0x2c;
    pub const GBPA: usize = 0x44;
    pub const IRQ_CTRL: usize = 0x50;
    pub const IRQ_CTRLACK: usize = 0x54;
    pub const GERROR: usize = 0x60;
    pub const GERRORN: usize = 0x64;
    pub const STRTAB_BASE: usize = 0x80;
    pub const STRTAB_BASE_CFG: usize = 0x88;
    pub const CMDQ_BASE: usize = 0x90;
    pub const CMDQ_PROD: usize = 0x98;
    pub const CMDQ_CONS: usize = 0x9c;
    pub const EVENTQ_BASE: usize = 0xa0;
    pub const EVENTQ_PROD: usize = 0x1_00a8;
    pub const EVENTQ_CONS: usize = 0x1_00ac;
}

pub(super) mod cr0 {
    pub const SMMUEN: u32 = 1;
    pub const EVENTQEN: u32 = 4;
    pub const CMDQEN: u32 = 8;
    pub const ATSCHK: u32 = 1 << 4;
}

pub(super) mod irq {
    pub const GERROR: u32 = 1;
    pub const EVENTQ: u32 = 4;
}

pub(super) mod gerror {
    pub const CMDQ: u32 = 1;
    pub const EVENTQ_ABORT: u32 = 4;
    pub const SERVICE_FAILURE: u32 = 1 << 8;
}

/// Registers that software must not write while an enable bit is set: offset, whether 64-bit, enable bits.
const GUARDED_BY: [(usize, bool, u32); GUARDED] = [
    (offset::CR1, false, cr0::SMMUEN | cr0::CMDQEN | cr0::EVENTQEN),
    (offset::CR2, false, cr0::SMMUEN),
    (offset::STRTAB_BASE, true, cr0::SMMUEN),
    (offset::STRTAB_BASE_CFG, false, cr0::SMMUEN),
    (offset::CMDQ_BASE, true, cr0::CMDQEN),
    (offset::EVENTQ_BASE, true, cr0::EVENTQEN),
];
pub(super) const GUARDED: usize = 6;

const GBPA_UPDATE: u32 = 1 << 31;

/// Base address and size of a queue, from its BASE register.
pub(super) struct QueueGeometry {
    pub base: u64,
    pub start: Cursor,
}

impl<R: RegisterFile, M: PhysicalMemory> SmmuModel<R, M> {
    /// Applies a GBPA write, which takes effect only with UPDATE, and clears UPDATE.
    pub(super) fn update_gbpa(&mut self) {
        let value = self.registers.get(offset::GBPA);
        if value & GBPA_UPDATE != 0 {
            self.gbpa = value & !GBPA_UPDATE;
        }
        self.registers.set(offset::GBPA, self.gbpa);
    }

    /// Acknowledges the enable bits of CR0 and IRQ_CTRL.
    pub(super) fn acknowledge_enables(&mut self) {
        self.check_guarded();
        self.check_enables();
        for (control, ack) in [(offset::CR0, offset::CR0ACK), (offset::IRQ_CTRL, offset::IRQ_CTRLACK)] {
            let enables = self.registers.get(control);
            self.registers.set(ack, enables);
        }
    }

    /// Panics if a register changed while it was in use.
    fn check_guarded(&mut self) {
        let enables = self.registers.get(offset::CR0ACK);
        for (index, (at, wide, guards)) in GUARDED_BY.into_iter().enumerate() {
            let value = if wide { self.get64(at) } else { self.registers.get(at).into() };
            let changed = value != self.in_use[index];
            assert!(!changed || enables & guards == 0, "register {at:#x} changed to {value:#x} while in use");
            self.in_use[index] = value;
        }
    }

    /// Panics if an enable bit is set before its prerequisites.
    fn check_enables(&self) {
        let (wanted, now) = (self.registers.get(offset::CR0), self.registers.get(offset::CR0ACK));
        let new = wanted & !now;
        let checkable = self.ids.has(0, 10);
        assert!(checkable || wanted & cr0::ATSCHK == 0, "CR0.ATSCHK is RES0 without IDR0.ATS");
        if new & cr0::SMMUEN != 0 {
            assert!(wanted & cr0::CMDQEN != 0, "SMMUEN without a command queue for invalidation");
            let log2 = extract(5, 0, self.registers.get(offset::STRTAB_BASE_CFG).into());
            assert!(log2 <= self.ids.stream_bits().into(), "a stream table for 2^{log2} streams");
        }
        let queues = [
            (
                cr0::CMDQEN,
                offset::CMDQ_BASE,
                offset::CMDQ_PROD,
                offset::CMDQ_CONS,
                extract(25, 21, self.ids.idr[1].into()),
            ),
            (
                cr0::EVENTQEN,
                offset::EVENTQ_BASE,
                offset::EVENTQ_PROD,
                offset::EVENTQ_CONS,
                extract(20, 16, self.ids.idr[1].into()),
            ),
        ];
        for (enable, base, prod, cons, most) in queues {
            if new & enable != 0 {
                let (prod, cons) = (self.registers.get(prod), self.registers.get(cons));
                assert!((prod, cons) == (0, 0), "a queue enabled with PROD={prod:#x} CONS={cons:#x}");
                let log2 = extract(4, 0, self.get64(base));
                assert!(log2 <= most, "a queue of 2^{log2} entries, the maximum is 2^{most}");
            }
        }
    }

    pub(super) fn get64(&self, at: usize) -> u64 {
        u64::from(self.registers.get(at)) | u64::from(self.registers.get(at + 4)) << 32
    }

    /// The queue of `2^entry_log2`-byte entries that the register at `base` describes. Its address is taken
    /// as aligned to its size (IHI 0070, 6.3.26).
    pub(super) fn queue(&self, base: usize, entry_log2: u32) -> QueueGeometry {
        let register = self.get64(base);
        let log2 = extract(4, 0, register) as u8;
        let size = u64::from(entry_log2) + u64::from(log2);
        QueueGeometry { base: register & mask(55, 5) & !((1 << size) - 1), start: Cursor::new(log2) }
    }

    /// Raises a global error unless it is already active.
    pub(super) fn raise(&mut self, error: u32) {
        if self.active_errors() & error != 0 {
            return;
        }
        self.registers.set(offset::GERROR, self.registers.get(offset::GERROR) ^ error);
        if self.registers.get(offset::IRQ_CTRLACK) & irq::GERROR != 0 {
            self.error_interrupts += 1;
        }
    }

    pub(super) fn active_errors(&self) -> u32 {
        self.registers.get(offset::GERROR) ^ self.registers.get(offset::GERRORN)
    }
}
