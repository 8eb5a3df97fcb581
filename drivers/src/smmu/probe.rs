//! Capabilities of the SMMU from its ID registers (IHI 0070, 6.3.1 to 6.3.8).

use super::registers::Registers;
use core::fmt;
use pagetable::OutputSize;
use smmu_spec::field::{extract, is_set};
use smmu_spec::{Cursor, Erratum, RangeInvalidation, WalkCoherency, cd};
use tock_registers::interfaces::Readable;

/// Default of [`Features::max_event_queue_log2`]: one faulting page leaves up to 1024 records under QEMU.
const DEFAULT_EVENT_QUEUE_LOG2: u8 = 10;

/// Implemented translation stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stages {
    /// Stage 1 only.
    One,
    /// Stage 2 only: domains are tagged by VMID and have no context descriptor.
    Two,
    /// Both; this driver uses stage 1.
    Both,
}

/// The capabilities that the driver uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Translation stages.
    pub stages: Stages,
    /// Whether the SMMU's own accesses snoop (IDR0.COHACC). If the device tree says otherwise, the caller
    /// changes this before [`start`](super::start).
    pub coherency: WalkCoherency,
    /// Bits of ASID: 8 or 16.
    pub asid_bits: u8,
    /// Bits of VMID: 8 or 16.
    pub vmid_bits: u8,
    /// Whether the stream table may have two levels.
    pub two_level_streams: bool,
    /// Bits of StreamID.
    pub stream_bits: u8,
    /// Maximum number of commands in the queue, log2.
    pub command_log2: u8,
    /// Maximum number of events in the queue, log2.
    pub event_log2: u8,
    /// Limit on the size of the event queue, log2, chosen by the caller; [`DEFAULT_EVENT_QUEUE_LOG2`] at
    /// first.
    pub max_event_queue_log2: u8,
    /// Whether range invalidation is supported.
    pub range_invalidation: RangeInvalidation,
    /// Bits of physical address.
    pub output_bits: u8,
    /// Whether it supports MSIs; the driver uses wired interrupts and disables MSIs.
    pub msi: bool,
    /// Whether it accepts ATS requests; the driver forbids them.
    pub ats: bool,
    /// The architecture's minor revision: 1 for SMMUv3.1.
    pub minor: u8,
    /// The erratum of the implementation (IIDR), if it has one that needs a workaround.
    pub erratum: Option<&'static Erratum>,
}

/// A capability that the driver requires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// A stage of translation.
    Translation,
    /// AArch64 tables (TTF).
    Aarch64Tables,
    /// Little-endian tables (TTENDIAN).
    LittleEndianTables,
    /// Faults that terminate a transaction instead of stalling it (STALL_MODEL).
    Termination,
    /// Queues and tables at addresses of the driver's choice (TABLES_PRESET, QUEUES_PRESET).
    OwnQueues,
    /// A queue of at least two entries, for a command and its CMD_SYNC (CMDQS).
    Commands,
    /// The 4 KiB granule (GRAN4K).
    Granule,
    /// A supported version of the architecture (AIDR).
    Architecture,
}

/// The SMMU lacks a required capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsupported {
    /// Name of the register.
    pub register: &'static str,
    /// Value of the register.
    pub value: u32,
    /// The capability.
    pub missing: Missing,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:#010x}: no {:?}", self.register, self.value, self.missing)
    }
}

/// The identification registers.
#[derive(Clone, Copy, Debug)]
struct Ids {
    idr0: u32,
    idr1: u32,
    idr3: u32,
    idr5: u32,
    iidr: u32,
    aidr: u32,
}

impl Features {
    /// Number of entries of the event queue, log2.
    pub(super) fn event_queue_log2(&self) -> u8 {
        self.event_log2.min(self.max_event_queue_log2)
    }

    /// Number of entries of the event queue.
    pub fn event_queue_entries(&self) -> u64 {
        1 << self.event_queue_log2()
    }

    /// Reads the ID registers.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn probe(registers: &Registers) -> Result<Self, Unsupported> {
        let [idr0, idr1, _, idr3, _, idr5] = &registers.control.id;
        let ids = Ids {
            idr0: idr0.get(),
            idr1: idr1.get(),
            idr3: idr3.get(),
            idr5: idr5.get(),
            iidr: registers.control.iidr.get(),
            aidr: registers.control.aidr.get(),
        };
        ids.check()?;
        Ok(ids.features())
    }

    /// Whether domains use stage 1.
    pub(super) fn uses_stage1(&self) -> bool {
        self.stages != Stages::Two
    }

    /// Maximum input size of a domain in bits. Stage 2 is limited by the physical address size, and below 44
    /// bits to 39 bits (walks from level 1), since tables are not concatenated.
    pub fn input_bits(&self) -> u8 {
        const VIRTUAL: u8 = 48;
        match self.stages {
            Stages::One | Stages::Both => VIRTUAL,
            Stages::Two if self.output_bits < 44 => self.output_bits.min(39),
            Stages::Two => self.output_bits.min(VIRTUAL),
        }
    }

    /// The physical addresses that translations may lead to (IDR5.OAS).
    pub fn output(&self) -> OutputSize {
        OutputSize::new(self.output_bits)
    }

    /// CD.IPS, STE.S2PS.
    pub(super) fn output_size(&self) -> u64 {
        cd::output_size(self.output_bits)
    }
}

impl Ids {
    fn check(&self) -> Result<(), Unsupported> {
        self.check_version()?;
        self.check_tables()?;
        self.check_queues()
    }

    fn check_version(&self) -> Result<(), Unsupported> {
        let known = extract(7, 4, self.aidr.into()) == 0;
        require(known, "AIDR", self.aidr, Missing::Architecture)
    }

    fn check_tables(&self) -> Result<(), Unsupported> {
        let idr0 = |hi, lo| extract(hi, lo, self.idr0.into());
        let idr0_has = |has, missing| require(has, "IDR0", self.idr0, missing);
        idr0_has(idr0(1, 0) != 0, Missing::Translation)?;
        idr0_has(idr0(3, 3) != 0, Missing::Aarch64Tables)?;
        // 0b00 either endianness, 0b10 little, 0b11 big.
        idr0_has(matches!(idr0(22, 21), 0b00 | 0b10), Missing::LittleEndianTables)?;
        // 0b10: all faults stall.
        idr0_has(idr0(25, 24) != 0b10, Missing::Termination)?;
        require(is_set(4, self.idr5.into()), "IDR5", self.idr5, Missing::Granule)
    }

    fn check_queues(&self) -> Result<(), Unsupported> {
        let own = extract(30, 29, self.idr1.into()) == 0;
        require(own, "IDR1", self.idr1, Missing::OwnQueues)?;
        require(extract(25, 21, self.idr1.into()) >= 1, "IDR1", self.idr1, Missing::Commands)
    }

    fn features(&self) -> Features {
        let (idr0, idr1, idr3) = (self.idr0.into(), self.idr1.into(), self.idr3.into());
        let queue_log2 = |hi, lo| (extract(hi, lo, idr1) as u8).min(Cursor::MAX_LOG2);
        Features {
            stages: match extract(1, 0, idr0) {
                0b01 => Stages::Two,
                0b10 => Stages::One,
                _ => Stages::Both,
            },
            coherency: if is_set(4, idr0) { WalkCoherency::Coherent } else { WalkCoherency::NonCoherent },
            asid_bits: if is_set(12, idr0) { 16 } else { 8 },
            vmid_bits: if is_set(18, idr0) { 16 } else { 8 },
            two_level_streams: extract(28, 27, idr0) != 0,
            stream_bits: (extract(5, 0, idr1) as u8).min(32),
            command_log2: queue_log2(25, 21),
            event_log2: queue_log2(20, 16),
            max_event_queue_log2: DEFAULT_EVENT_QUEUE_LOG2,
            range_invalidation: if is_set(10, idr3) {
                RangeInvalidation::Supported
            } else {
                RangeInvalidation::Unsupported
            },
            output_bits: output_bits(self.idr5),
            msi: is_set(13, idr0),
            ats: is_set(10, idr0),
            minor: extract(3, 0, self.aidr.into()) as u8,
            erratum: Erratum::of(self.iidr),
        }
    }
}

fn require(has: bool, register: &'static str, value: u32, missing: Missing) -> Result<(), Unsupported> {
    if has { Ok(()) } else { Err(Unsupported { register, value, missing }) }
}

/// IDR5.OAS.
fn output_bits(idr5: u32) -> u8 {
    [32, 36, 40, 42, 44, 48, 52, 56][extract(2, 0, idr5.into()) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU's nested SMMU.
    const QEMU: Ids =
        Ids { idr0: 0x0d44_101b, idr1: 0x0273_0010, idr3: 0x1414, idr5: 0x74, iidr: 0, aidr: 1 };

    #[test]
    fn qemu_smmu_is_supported() {
        QEMU.check().unwrap();
        let expected = Features {
            stages: Stages::Both,
            coherency: WalkCoherency::Coherent,
            asid_bits: 16,
            vmid_bits: 16,
            two_level_streams: true,
            stream_bits: 16,
            command_log2: 19,
            event_log2: 19,
            max_event_queue_log2: DEFAULT_EVENT_QUEUE_LOG2,
            range_invalidation: RangeInvalidation::Supported,
            output_bits: 44,
            msi: false,
            ats: false,
            minor: 1,
            erratum: None,
        };
        assert_eq!(QEMU.features(), expected);
        assert_eq!((expected.input_bits(), expected.output_size()), (48, 4));
        assert_eq!(Ids { idr0: 0x0d44_101a, ..QEMU }.features().stages, Stages::One);
        assert_eq!(Ids { idr0: 0x0d44_1019, ..QEMU }.features().stages, Stages::Two);
    }

    #[test]
    fn stage_2_input_size_follows_output_size() {
        let stage2 = Features { stages: Stages::Two, ..QEMU.features() };
        for (output, input) in [(32, 32), (36, 36), (40, 39), (42, 39), (44, 44), (48, 48), (52, 48)] {
            assert_eq!(Features { output_bits: output, ..stage2 }.input_bits(), input);
        }
    }

    #[test]
    fn unsupported_smmu_is_rejected_with_the_register() {
        let cases = [
            (Ids { idr0: QEMU.idr0 & !0b11, ..QEMU }, "IDR0", Missing::Translation),
            (Ids { idr0: QEMU.idr0 & !0b1000, ..QEMU }, "IDR0", Missing::Aarch64Tables),
            (Ids { idr0: QEMU.idr0 | 0b11 << 21, ..QEMU }, "IDR0", Missing::LittleEndianTables),
            (Ids { idr0: QEMU.idr0 & !(0b11 << 24) | 0b10 << 24, ..QEMU }, "IDR0", Missing::Termination),
            (Ids { idr1: QEMU.idr1 | 1 << 29, ..QEMU }, "IDR1", Missing::OwnQueues),
            (Ids { idr1: QEMU.idr1 | 1 << 30, ..QEMU }, "IDR1", Missing::OwnQueues),
            (Ids { idr1: QEMU.idr1 & !(0x1f << 21), ..QEMU }, "IDR1", Missing::Commands),
            (Ids { idr5: QEMU.idr5 & !(1 << 4), ..QEMU }, "IDR5", Missing::Granule),
            (Ids { aidr: 0x10, ..QEMU }, "AIDR", Missing::Architecture),
        ];
        for (ids, register, missing) in cases {
            let refused = ids.check().unwrap_err();
            assert_eq!((refused.register, refused.missing), (register, missing));
        }
        let refused = Unsupported { register: "IDR5", value: 0x60, missing: Missing::Granule };
        assert_eq!(alloc::format!("{refused}"), "IDR5=0x00000060: no Granule");
    }

    #[test]
    fn minimal_smmu_is_supported() {
        let small = Ids { idr0: 0b1010 | 2 << 21, idr1: 1 << 21 | 4, idr3: 0, idr5: 0x12, iidr: 0, aidr: 0 }
            .features();
        assert_eq!((small.asid_bits, small.vmid_bits, small.stream_bits), (8, 8, 4));
        assert_eq!((small.command_log2, small.event_log2, small.output_bits), (1, 0, 40));
        assert_eq!(
            (small.coherency, small.range_invalidation),
            (WalkCoherency::NonCoherent, RangeInvalidation::Unsupported)
        );
        assert!(!small.two_level_streams);
    }
}
