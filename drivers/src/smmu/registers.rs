//! Register blocks (IHI 0070, 6.1 and 6.3): page 0, and the event queue's indices in page 1.
//!
//! All accesses are 32 bits wide except those to the base registers, for which the manual allows 64 bits.

use crate::mmio::{Mmio, ReadOnly};
use addr::{KernelVa, PhysAddr};
use core::mem::{offset_of, size_of};
use smmu_spec::field::{address, field};
use tock_registers::registers::ReadWrite;

/// The non-secure registers that the driver uses.
#[repr(C)]
pub struct Registers {
    /// Identification and enables.
    pub control: ControlRegisters,
    /// Global errors and the command queue.
    pub commands: CommandRegisters,
    /// Base of the event queue.
    pub eventq_base: ReadWrite<u64>,
    _eventq_base_irq_cfg0: u64,
    /// Address of the MSI for events; 0 disables it.
    pub eventq_irq_cfg0: ReadWrite<u64>,
    _irq_cfg0_page1: [u64; (PAGE_1 + 0xa8 - 0xb8) / 8],
    /// The event queue's indices, in page 1.
    pub events: EventRegisters,
    _events_end: [u64; (PAGE_1 - 0xb0) / 8],
}

/// Identification, enables and access attributes.
#[repr(C)]
pub struct ControlRegisters {
    /// Capabilities: IDR0 to IDR5.
    pub id: [ReadOnly<u32>; 6],
    /// Implementer.
    pub iidr: ReadOnly<u32>,
    /// Architecture revision.
    pub aidr: ReadOnly<u32>,
    /// Enables.
    pub cr0: ReadWrite<u32>,
    /// Acknowledged enables.
    pub cr0ack: ReadOnly<u32>,
    /// Memory attributes of tables and queues.
    pub cr1: ReadWrite<u32>,
    /// Recorded events and broadcast TLB maintenance.
    pub cr2: ReadWrite<u32>,
    _cr2_gbpa: [u32; 5],
    /// Treatment of transactions while SMMUEN is 0.
    pub gbpa: ReadWrite<u32>,
    _gbpa_irq_ctrl: [u32; 2],
    /// Interrupt enables.
    pub irq_ctrl: ReadWrite<u32>,
    /// Acknowledged interrupt enables.
    pub irq_ctrl_ack: ReadOnly<u32>,
    _irq_ctrl_ack_gerror: [u32; 2],
}

/// Registers of the command queue's owner after reset.
#[repr(C)]
pub struct CommandRegisters {
    /// Global errors: active where different from `gerrorn`.
    pub gerror: ReadOnly<u32>,
    /// Acknowledged global errors.
    pub gerrorn: ReadWrite<u32>,
    /// Address of the MSI for global errors; 0 disables it.
    pub gerror_irq_cfg0: ReadWrite<u64>,
    _irq_cfg0_strtab: [u64; 2],
    /// Base of the stream table.
    pub strtab_base: ReadWrite<u64>,
    /// Format and size of the stream table.
    pub strtab_base_cfg: ReadWrite<u32>,
    _strtab_cmdq: u32,
    /// Base of the command queue.
    pub cmdq_base: ReadWrite<u64>,
    /// Producer index.
    pub cmdq_prod: ReadWrite<u32>,
    /// Consumer index and error code.
    pub cmdq_cons: ReadWrite<u32>,
}

/// Registers of the event queue's owner after reset.
#[repr(C)]
pub struct EventRegisters {
    /// Producer index and overflow flag.
    pub eventq_prod: ReadWrite<u32>,
    /// Consumer index and overflow acknowledgement.
    pub eventq_cons: ReadWrite<u32>,
}

const PAGE_1: usize = 0x1_0000;

const _: () = {
    assert!(offset_of!(ControlRegisters, aidr) == 0x1c && offset_of!(ControlRegisters, cr0) == 0x20);
    assert!(offset_of!(ControlRegisters, cr0ack) == 0x24 && offset_of!(ControlRegisters, cr2) == 0x2c);
    assert!(offset_of!(ControlRegisters, gbpa) == 0x44 && offset_of!(ControlRegisters, irq_ctrl) == 0x50);
    assert!(offset_of!(ControlRegisters, irq_ctrl_ack) == 0x54);
    assert!(offset_of!(Registers, control) == 0 && offset_of!(Registers, commands) == 0x60);
    assert!(offset_of!(CommandRegisters, gerrorn) == 0x64 - 0x60);
    assert!(offset_of!(CommandRegisters, gerror_irq_cfg0) == 0x68 - 0x60);
    assert!(offset_of!(CommandRegisters, strtab_base) == 0x80 - 0x60);
    assert!(offset_of!(CommandRegisters, strtab_base_cfg) == 0x88 - 0x60);
    assert!(offset_of!(CommandRegisters, cmdq_base) == 0x90 - 0x60);
    assert!(offset_of!(CommandRegisters, cmdq_prod) == 0x98 - 0x60);
    assert!(offset_of!(CommandRegisters, cmdq_cons) == 0x9c - 0x60);
    assert!(offset_of!(Registers, eventq_base) == 0xa0 && offset_of!(Registers, eventq_irq_cfg0) == 0xb0);
    assert!(offset_of!(Registers, events) == PAGE_1 + 0xa8);
    assert!(offset_of!(EventRegisters, eventq_cons) == 4);
    assert!(size_of::<Registers>() == 2 * PAGE_1);
};

impl Registers {
    /// Length of the mapping: both pages.
    pub const BYTES: u64 = size_of::<Self>() as u64;
}

/// Splits the registers by owner: control, command queue, event queue.
pub(super) fn split(
    registers: Mmio<Registers>,
) -> (Mmio<ControlRegisters>, Mmio<CommandRegisters>, Mmio<EventRegisters>) {
    let at = |offset: usize| KernelVa::new(registers.address().raw() + offset as u64);
    let control = at(offset_of!(Registers, control));
    let commands = at(offset_of!(Registers, commands));
    let events = at(offset_of!(Registers, events));
    // SAFETY: the parts are blocks of `tock-registers` fields inside `registers`, which is consumed here: so
    // they remain mapped, no other code accesses them, and they do not overlap.
    unsafe { (Mmio::new(control), Mmio::new(commands), Mmio::new(events)) }
}

/// CMDQ_BASE or EVENTQ_BASE of a queue with `2^log2` entries.
pub(super) fn queue_base(queue: PhysAddr, log2: u8) -> u64 {
    address(55, 5, queue.raw()) | field(4, 0, log2.into()) | bits::BASE_ALLOCATE
}

/// Bits of the registers, as the manual numbers them.
pub(super) mod bits {
    use smmu_spec::field::flag;

    pub const CR0_SMMUEN: u32 = flag(0, true) as u32;
    pub const CR0_EVENTQEN: u32 = flag(2, true) as u32;
    pub const CR0_CMDQEN: u32 = flag(3, true) as u32;
    /// ATS Translated transactions are checked against the stream table. RES0 without IDR0.ATS.
    pub const CR0_ATSCHK: u32 = flag(4, true) as u32;

    /// RECINVSID: C_BAD_STREAMID is recorded.
    pub const CR2_RECINVSID: u32 = flag(1, true) as u32;
    /// PTM: the SMMU takes no part in the CPUs' broadcast TLB maintenance.
    pub const CR2_PTM: u32 = flag(2, true) as u32;

    pub const GBPA_ABORT: u32 = flag(20, true) as u32;
    pub const GBPA_UPDATE: u32 = flag(31, true) as u32;

    pub const IRQ_GERROR: u32 = flag(0, true) as u32;
    pub const IRQ_EVENTQ: u32 = flag(2, true) as u32;

    /// GERROR.CMDQ_ERR: the command queue has stopped.
    pub const GERROR_CMDQ: u32 = flag(0, true) as u32;

    /// GERROR.SFM_ERR: the SMMU is in service failure mode.
    pub const GERROR_SFM: u32 = flag(8, true) as u32;

    /// OVFLG and OVACKFLG.
    pub const OVERFLOW: u32 = flag(31, true) as u32;

    /// The read-allocate (tables, command queue) or write-allocate (event queue) hint of the base registers.
    pub const BASE_ALLOCATE: u64 = flag(62, true);
}
