//! The ITS driver on a model of an ITS with its redistributors.

mod judge;
mod machine;
mod model;
#[path = "../smmu/test_machine/random.rs"]
mod random;

use addr::PhysAddr;
use drivers::gic::its::{
    FIRST_LPI, Its, ItsError, ItsIntegration, ItsVector, LpiError, Lpis, MAX_LPIS, tables_in_use,
};
use machine::{ItsRam, Source};
use model::{CPUS, ItsKind, KIND, RedistributorRegisters, Registers, redistributor_address};
use std::rc::Rc;

/// GICD_TYPER with 16 bits of INTID and LPIs.
const GICD_TYPER: u32 = 15 << 19 | 1 << 17;
const DEVICE: u32 = 8;

/// The driver on a model, with all CPUs.
struct Fixture {
    ram: Rc<ItsRam>,
    registers: Registers,
    lpis: Lpis,
    its: Its<Registers>,
}

fn integration(kind: ItsKind) -> ItsIntegration {
    ItsIntegration { non_coherent: false, below_4_gib: kind.device_bits == 17 }
}

impl Fixture {
    fn new(kind: ItsKind, seed: u64) -> Self {
        let ram = ItsRam::new(kind.coherent);
        let registers = Registers::new(kind, &ram, seed);
        let lpis = Lpis::new(GICD_TYPER, integration(kind), &mut Source(&ram), None).unwrap();
        Self::start(ram, registers, lpis, kind).unwrap()
    }

    fn start(ram: Rc<ItsRam>, registers: Registers, mut lpis: Lpis, kind: ItsKind) -> Result<Self, ItsError> {
        for cpu in 0..CPUS {
            let redistributor = &mut RedistributorRegisters(registers.0.clone(), cpu);
            lpis.enable(redistributor, &mut Source(&ram)).unwrap();
        }
        let its = Its::start(registers.clone(), CPUS.into(), integration(kind), &mut Source(&ram));
        let mut its = its?;
        for cpu in 0..CPUS {
            its.add_cpu(cpu, PhysAddr::new(redistributor_address(cpu)), cpu)?;
        }
        Ok(Self { ram, registers, lpis, its })
    }

    fn allocate(&mut self, device: u32, count: u32, cpu: u16) -> Result<Vec<ItsVector>, ItsError> {
        self.its.allocate(&mut self.lpis, &mut Source(&self.ram), device, count, cpu)
    }

    fn free(&mut self, vectors: Vec<ItsVector>) -> Result<(), ItsError> {
        self.its.free(&mut self.lpis, &mut Source(&self.ram), vectors)
    }

    fn set_enabled(&mut self, vector: &ItsVector, enabled: bool) -> Result<(), ItsError> {
        self.its.set_enabled(&mut self.lpis, vector, enabled)
    }

    /// Sends a message, and returns the CPUs and LPIs that were acknowledged.
    fn signal(&mut self, device: u32, event: u32) -> Vec<(u16, u32)> {
        self.registers.model().signal(device, event);
        self.taken()
    }

    fn taken(&mut self) -> Vec<(u16, u32)> {
        let mut model = self.registers.model();
        (0..CPUS).flat_map(|cpu| model.take(cpu).into_iter().map(move |lpi| (cpu, lpi))).collect()
    }
}

/// All kinds of ITS.
fn kinds() -> Vec<ItsKind> {
    let mut kinds = Vec::new();
    for coherent in [true, false] {
        kinds.extend([
            ItsKind { coherent, ..KIND },
            ItsKind { coherent, indirect: false, targets_by_address: true, ..KIND },
            ItsKind { coherent, page_size: Some(2), own_collections: CPUS.into(), ..KIND },
            ItsKind { coherent, page_size: Some(1), device_bits: 20, iidr: 0x1070, ..KIND },
        ]);
    }
    kinds
}

#[test]
fn message_is_delivered_to_the_cpu_of_its_vector_while_unmasked() {
    for kind in kinds() {
        let mut fixture = Fixture::new(kind, 1);
        assert_eq!(fixture.its.is_coherent(), kind.coherent, "{kind:?}");
        let mut vectors = fixture.allocate(DEVICE, 2, 1).unwrap();
        assert_eq!([vectors[0].event(), vectors[1].event()], [0, 1]);
        let lpi = vectors[0].lpi();
        assert_eq!(fixture.signal(DEVICE, 0), [], "masked");
        fixture.set_enabled(&vectors[0], true).unwrap();
        assert_eq!(fixture.taken(), [(1, lpi)], "it was pending");
        assert_eq!(fixture.registers.model().config_byte(1, lpi), 0xa3);
        assert_eq!((fixture.signal(DEVICE, 0), fixture.signal(DEVICE, 1)), (vec![(1, lpi)], vec![]));
        fixture.its.retarget(&mut vectors[0], 2).unwrap();
        assert_eq!((fixture.signal(DEVICE, 0), vectors[0].cpu()), (vec![(2, lpi)], 2));
        fixture.set_enabled(&vectors[0], false).unwrap();
        assert_eq!(fixture.signal(DEVICE, 0), []);
        fixture.free(vectors).unwrap();
        assert_eq!((fixture.signal(DEVICE, 0), fixture.lpis.used()), (vec![], 0), "freed");
        assert_eq!((fixture.its.devices(), fixture.registers.model().mapped_devices()), (0, 0));
    }
}

#[test]
fn memory_of_a_device_is_released_with_its_last_vector() {
    let mut fixture = Fixture::new(ItsKind { page_size: Some(0), ..KIND }, 1);
    let (first, _) = (fixture.allocate(DEVICE, 1, 0).unwrap(), fixture.free(Vec::new()));
    let one = fixture.ram.allocated_bytes();
    let second = fixture.allocate(DEVICE, 32, 0).unwrap();
    assert_eq!((second[0].event(), fixture.ram.allocated_bytes()), (32, one), "aligned");
    fixture.free(second).unwrap();
    assert_eq!(fixture.ram.allocated_bytes(), one);
    fixture.free(first).unwrap();
    assert_eq!(fixture.ram.allocated_bytes(), one - 4096);
    let far = fixture.allocate(0x2000, 300, 0).unwrap();
    assert_eq!(
        fixture.ram.allocated_bytes(),
        one - 4096 + 4096 + 8192,
        "a page of devices and a larger table"
    );
    fixture.free(far).unwrap();
}

#[test]
fn batch_longer_than_the_queue_is_executed_completely() {
    let mut fixture = Fixture::new(KIND, 1);
    let vectors = fixture.allocate(DEVICE, 300, 0).unwrap();
    for vector in &vectors {
        fixture.set_enabled(vector, true).unwrap();
        assert_eq!(fixture.signal(DEVICE, vector.event()), [(0, vector.lpi())]);
    }
    fixture.free(vectors).unwrap();
    assert_eq!((0..300).flat_map(|event| fixture.signal(DEVICE, event)).count(), 0);
}

#[test]
fn requests_beyond_the_limits_are_errors() {
    let mut fixture = Fixture::new(KIND, 1);
    assert_eq!(fixture.allocate(DEVICE, 0, 0), Ok(vec![]));
    assert_eq!(fixture.allocate(DEVICE, 1, CPUS), Err(ItsError::NoCollection(CPUS)));
    assert_eq!(fixture.allocate(1 << 16, 1, 0), Err(ItsError::DeviceOutOfRange(1 << 16)));
    assert_eq!(fixture.allocate(DEVICE, MAX_LPIS + 1, 0), Err(ItsError::OutOfLpis));
    let first = fixture.allocate(DEVICE, 1, 0).unwrap();
    let error = ItsError::OutOfEvents { device: DEVICE, count: 256 };
    assert_eq!(fixture.allocate(DEVICE, 256, 0), Err(error), "a page has 256 events");
    assert_eq!(fixture.allocate(9, MAX_LPIS, 0), Err(ItsError::OutOfLpis));
    assert_eq!((fixture.its.devices(), fixture.lpis.used()), (1, 1), "nothing is left");
    fixture.free(first).unwrap();
}

#[test]
fn failed_allocation_of_memory_leaves_nothing_behind() {
    for left in 0.. {
        let mut fixture = Fixture::new(KIND, 1);
        let before = fixture.ram.allocated_bytes();
        fixture.ram.until_failure.set(Some(left));
        match fixture.allocate(DEVICE, 4, 0) {
            Ok(vectors) => {
                assert_eq!(left, 2, "a page of devices and a translation table");
                return fixture.free(vectors).unwrap();
            }
            Err(error) => assert_eq!(error, ItsError::OutOfMemory),
        }
        let page_of_devices = if left == 0 { 0 } else { 4096 };
        assert_eq!((fixture.ram.allocated_bytes(), fixture.lpis.used()), (before + page_of_devices, 0));
        fixture.ram.until_failure.set(None);
        let vectors = fixture.allocate(DEVICE, 4, 0).unwrap();
        fixture.free(vectors).unwrap();
    }
}

#[test]
fn failed_start_leaves_nothing_behind() {
    for left in 0..3 {
        let ram = ItsRam::new(true);
        let registers = Registers::new(KIND, &ram, 1);
        ram.until_failure.set(Some(left));
        let its = Its::start(registers, CPUS.into(), ItsIntegration::default(), &mut Source(&ram));
        assert_eq!((its.err(), ram.allocated_bytes()), (Some(ItsError::OutOfMemory), 0), "{left}");
    }
}

#[test]
fn refused_command_leaks_its_vectors_and_the_queue_continues() {
    // MAPD, SYNC, then MAPTI and INV for each vector, SYNC.
    for stalled in 0..7 {
        let mut fixture = Fixture::new(KIND, 1);
        fixture.registers.model().until_stall = Some(stalled);
        let result = fixture.allocate(DEVICE, 2, 0);
        assert!(matches!(result, Err(ItsError::Refused { .. })), "{stalled}: {result:?}");
        if stalled < 2 {
            // The ITS may use the translation table.
            assert_eq!(fixture.allocate(DEVICE, 2, 0), Err(ItsError::DeviceLost(DEVICE)));
            continue;
        }
        let vectors = fixture.allocate(DEVICE, 2, 0).unwrap();
        fixture.set_enabled(&vectors[1], true).unwrap();
        assert_eq!(fixture.signal(DEVICE, vectors[1].event()), [(0, vectors[1].lpi())]);
        fixture.free(vectors).unwrap();
        assert_ne!(fixture.registers.model().stalls, 0);
    }
}

#[test]
fn timed_out_command_leaks_its_vectors() {
    let mut fixture = Fixture::new(KIND, 1);
    let vectors = fixture.allocate(DEVICE, 2, 0).unwrap();
    fixture.registers.model().frozen = true;
    assert_eq!(fixture.free(vectors), Err(ItsError::TimedOut));
    assert_eq!(fixture.allocate(9, 1, 0), Err(ItsError::TimedOut));
    fixture.registers.model().frozen = false;
    assert_eq!(fixture.allocate(9, 1, 0), Err(ItsError::DeviceLost(9)));
    let later = fixture.allocate(DEVICE, 2, 0).unwrap();
    assert_eq!((later[0].event(), fixture.lpis.used()), (2, 4), "the first two stay in use");
    fixture.free(later).unwrap();
}

#[test]
fn its_that_is_never_quiescent_is_not_used() {
    let ram = ItsRam::new(true);
    let registers = Registers::new(KIND, &ram, 1);
    registers.model().busy = u32::MAX;
    registers.model().frozen = true;
    let mut lpis = Lpis::new(GICD_TYPER, ItsIntegration::default(), &mut Source(&ram), None).unwrap();
    let _ = lpis.enable(&mut RedistributorRegisters(registers.0.clone(), 0), &mut Source(&ram));
    arch::fake::advance(1 << 40);
    let its = Its::start(Never, 1, ItsIntegration::default(), &mut Source(&ram));
    assert_eq!(its.err(), Some(ItsError::NotQuiescent));
}

/// An ITS whose GITS_CTLR.Quiescent stays 0.
struct Never;

impl drivers::mmio::RegisterAccess for Never {
    fn read32(&self, _: u64) -> u32 {
        arch::fake::advance(arch::timer::ns_to_ticks(100_000_000));
        0
    }
    fn read64(&self, offset: u64) -> u64 {
        panic!("read at {offset:#x}")
    }
    fn write32(&mut self, offset: u64, _: u32) {
        assert_eq!(offset, 0);
    }
    fn write64(&mut self, offset: u64, _: u64) {
        panic!("write at {offset:#x} before the ITS is quiescent")
    }
}

#[test]
fn implementation_with_an_unsupported_erratum_is_rejected() {
    let ram = ItsRam::new(true);
    let registers = Registers::new(ItsKind { iidr: 0xa100_034c, ..KIND }, &ram, 1);
    let its = Its::start(registers, 1, ItsIntegration::default(), &mut Source(&ram));
    assert!(matches!(its.err(), Some(ItsError::Erratum(name)) if name.contains("ThunderX")));
}

#[test]
fn tables_of_an_earlier_stage_stay_in_use() {
    for coherent in [true, false] {
        let kind = ItsKind { coherent, ..KIND };
        let ram = ItsRam::new(coherent);
        let registers = Registers::new(kind, &ram, 1);
        let (config, pending) = (ram.inherited(8192, !0), ram.inherited(0x1_0000, 0));
        let (config_start, pending_start) = (config.start(), pending.start());
        registers.model().inherit(1, config_start.raw(), pending_start.raw());
        let [none, found] =
            [0, 1].map(|cpu| tables_in_use(&RedistributorRegisters(registers.0.clone(), cpu)));
        assert_eq!(none, None);
        let found = found.unwrap();
        assert_eq!((found.config.start(), found.config.len()), (config_start, 8192));
        assert_eq!((found.pending.start(), found.pending.len()), (pending_start, 2048));
        let lpis = Lpis::new(GICD_TYPER, integration(kind), &mut Source(&ram), Some(config)).unwrap();
        let mut fixture = Fixture::start(ram, registers, lpis, kind).unwrap();
        let vectors = fixture.allocate(DEVICE, 1, 1).unwrap();
        assert_eq!(fixture.signal(DEVICE, 0), [], "the earlier stage's LPIs are disabled");
        fixture.set_enabled(&vectors[0], true).unwrap();
        assert_eq!(fixture.taken(), [(1, vectors[0].lpi())]);
        fixture.free(vectors).unwrap();
    }
}

#[test]
fn redistributor_with_another_table_gets_no_lpis() {
    let ram = ItsRam::new(true);
    let registers = Registers::new(KIND, &ram, 1);
    registers.model().inherit(0, 0x7000_0000, 0x7001_0000);
    let mut lpis = Lpis::new(GICD_TYPER, ItsIntegration::default(), &mut Source(&ram), None).unwrap();
    let result = lpis.enable(&mut RedistributorRegisters(registers.0.clone(), 0), &mut Source(&ram));
    assert_eq!(result, Err(LpiError::ForeignTable(PhysAddr::new(0x7000_0000))));
}

#[test]
fn gic_without_enough_lpis_is_refused() {
    let ram = ItsRam::new(true);
    let new = |typer| Lpis::new(typer, ItsIntegration::default(), &mut Source(&ram), None).err();
    for typer in [15 << 19, 12 << 19 | 1 << 17, 15 << 19 | 1 << 17 | 11 << 11] {
        assert_eq!(new(typer), Some(LpiError::TooFew), "{typer:#x}");
    }
    assert_eq!(new(15 << 19 | 1 << 17 | 12 << 11), None, "num_LPIs: 8192");
    assert_eq!(FIRST_LPI, 8192);
}

#[test]
fn machine_limits_override_the_registers() {
    let ram = ItsRam::new(false);
    let registers = Registers::new(ItsKind { coherent: true, ..KIND }, &ram, 1);
    let forced = ItsIntegration { non_coherent: true, below_4_gib: true };
    let mut lpis = Lpis::new(GICD_TYPER, forced, &mut Source(&ram), None).unwrap();
    lpis.enable(&mut RedistributorRegisters(registers.0.clone(), 0), &mut Source(&ram)).unwrap();
    let mut its = Its::start(registers.clone(), 1, forced, &mut Source(&ram)).unwrap();
    its.add_cpu(0, PhysAddr::new(redistributor_address(0)), 0).unwrap();
    assert!(!its.is_coherent());
    let vectors = its.allocate(&mut lpis, &mut Source(&ram), DEVICE, 1, 0).unwrap();
    its.free(&mut lpis, &mut Source(&ram), vectors).unwrap();
}
