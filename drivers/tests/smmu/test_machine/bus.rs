//! The registers and RAM between driver and SMMU model, with hooks that mutate them.

use super::ram::Ram;
use super::{TestMachine, word};
use addr::{AddrRange, KernelVa};
use drivers::fake::FakeRegisters;
use smmu_spec::Command;
use smmu_spec::model::{PhysicalMemory, RegisterFile};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const CMDQ_BASE: usize = 0x90;
const QUEUE_ADDRESS: u64 = 0xff_ffff_ffff_ffe0;
const CMDQ_PROD: usize = 0x98;
const CMDQ_CONS: usize = 0x9c;

/// Mutation of the driver's commands.
pub trait MutateCommands {
    /// The command that the SMMU reads in place of `command`, given its neighbours in the queue. `after` is
    /// given only if it is published.
    fn command(&mut self, before: Option<Command>, command: Command, after: Option<Command>) -> Command;
    /// Whether the driver reads CONS = PROD.
    fn reports_all_consumed(&self) -> bool;
}

/// The active mutation, if any.
pub type CommandMutation = Rc<RefCell<Option<Box<dyn MutateCommands>>>>;

/// The registers as accessed by the model.
pub struct FakeFile {
    pub registers: Rc<FakeRegisters>,
    pub mutation: CommandMutation,
    /// The actual CMDQ_CONS, if the driver reads another value.
    pub consumed: Cell<Option<u32>>,
}

impl RegisterFile for FakeFile {
    fn get(&self, offset: usize) -> u32 {
        let value = self.registers.get32(offset);
        if offset != CMDQ_CONS {
            return value;
        }
        let consumed = self.consumed.get().unwrap_or(value);
        self.show_consumed(consumed);
        consumed
    }

    fn set(&self, offset: usize, value: u32) {
        match offset {
            CMDQ_CONS => self.show_consumed(value),
            _ => self.registers.set32(offset, value),
        }
    }
}

impl FakeFile {
    /// Sets the driver's view of CMDQ_CONS.
    fn show_consumed(&self, consumed: u32) {
        let lies = self.mutation.borrow().as_ref().is_some_and(|mutate| mutate.reports_all_consumed());
        // After the first false value, the actual one is kept here.
        if lies || self.consumed.get().is_some() {
            self.consumed.set(Some(consumed));
        }
        let shown = if lies { self.registers.get32(CMDQ_PROD) } else { consumed };
        self.registers.set32(CMDQ_CONS, shown);
    }
}

/// RAM as accessed by the model.
pub struct Bus {
    pub ram: Rc<Ram>,
    pub bad_reads: Rc<Cell<u32>>,
    pub bad_commands: Rc<Cell<u32>>,
    pub registers: Rc<FakeRegisters>,
    pub mutation: CommandMutation,
}

/// Whether this read aborts.
fn fails(left: &Cell<u32>) -> bool {
    let fails = left.get() > 0;
    left.set(left.get().saturating_sub(1));
    fails
}

impl PhysicalMemory for Bus {
    fn read(&self, at: u64) -> Option<u64> {
        assert!(at.is_multiple_of(8));
        if fails(&self.bad_reads) || self.queue_slot(at).is_some() && fails(&self.bad_commands) {
            return None;
        }
        let index = word(at).unwrap_or_else(|| panic!("the SMMU reads {at:#x}, which is not RAM"));
        Some(self.mutated(at).unwrap_or_else(|| self.ram.device_read(index)))
    }

    fn write(&mut self, at: u64, value: u64) -> bool {
        word(at).map(|index| self.ram.device_write(index, value)).is_some()
    }
}

impl TestMachine {
    /// Whether `range` of the CPU's addresses is in the command queue.
    pub fn is_command_queue(&self, range: AddrRange<KernelVa>) -> bool {
        let base = self.ram.cpu().as_ptr().addr() as u64;
        let at = range.start().raw() - base + super::RAM;
        let register = u64::from(self.register(CMDQ_BASE)) | u64::from(self.register(CMDQ_BASE + 4)) << 32;
        let start = register & QUEUE_ADDRESS;
        (start..start + (16 << (register & 0x1f))).contains(&at)
    }
}

impl Bus {
    /// The slot of the command queue at this address, and the number of slots.
    fn queue_slot(&self, at: u64) -> Option<(u64, u64)> {
        let register = self.registers.get64(CMDQ_BASE);
        let entries = 1 << (register & 0x1f);
        let slot = at.checked_sub(register & QUEUE_ADDRESS)? / 16;
        (slot < entries).then_some((slot, entries))
    }

    /// The mutated word of the command queue, if `at` is one.
    fn mutated(&self, at: u64) -> Option<u64> {
        let mut mutation = self.mutation.borrow_mut();
        let mutate = mutation.as_mut()?;
        let (slot, entries) = self.queue_slot(at)?;
        let base = at - at % 16 - 16 * slot;
        let command = |slot: u64| {
            let first = word(base + 16 * (slot % entries))?;
            Command::decode([self.ram.device_read(first), self.ram.device_read(first + 1)])
        };
        let produced = u64::from(self.registers.get32(CMDQ_PROD)) % entries;
        let after = Some((slot + 1) % entries).filter(|next| *next != produced).and_then(command);
        // The decision at the first word holds for both.
        let words = mutate.command(command(slot + entries - 1), command(slot)?, after).encode();
        Some(words[(at / 8 % 2) as usize])
    }
}
