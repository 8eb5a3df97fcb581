//! Translations, permissions and memory types of mappings.

use super::*;

#[test]
fn mappings_translate_in_the_model() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.attached(STREAM);
        // Scattered pages, a block, a contiguous group.
        let chunks =
            [chunk(0x1_0000_5000, 0), chunk(0x2_0000_0000, 9), chunk(0x3000_0000, 4), chunk(0x9000, 0)];
        fixture.map(&mut domain, 0x1f_f000, &chunks).unwrap();
        let cases = [
            (0x1f_f123, 0x1_0000_5123),
            (0x20_0000, 0x2_0000_0000),
            (0x3f_ffff, 0x2_001f_ffff),
            (0x40_0000, 0x3000_0000),
            (0x40_fabc, 0x3000_fabc),
            (0x41_0fff, 0x9fff),
        ];
        for (at, to) in cases {
            assert_eq!(fixture.reach(at), Some(to), "{at:#x} with {ids:x?} {walks:?}");
        }
        assert_eq!((fixture.reach(0x1f_efff), fixture.reach(0x41_1000)), (None, None));
    }
}

#[test]
fn memory_types_are_encoded_in_descriptors() {
    // Stage 1: the MAIR byte; stage 2: MemAttr (DDI 0487).
    let types = [
        (MemoryType::WriteBack, 0xff, 0b1111),
        (MemoryType::NonCacheable, 0x44, 0b0101),
        (MemoryType::Device, 0x04, 0b0001),
        (MemoryType::DeviceNonPosted, 0x00, 0b0000),
    ];
    for ids in [IdRegisters::STAGE1, IdRegisters::STAGE2] {
        let mut fixture = fixture(ids, WalkCoherency::Coherent);
        let mut domain = fixture.attached(STREAM);
        for (index, (memory, stage1, stage2)) in types.into_iter().enumerate() {
            let at = Iova::new(0x1000 * index as u64);
            let mapping = Mapping::read_write(memory);
            // SAFETY: the device is the model, whose memory is the test's RAM.
            unsafe { domain.map(&mut fixture.memory, &fixture.commands, at, [chunk(0x9000, 0)], mapping) }
                .unwrap();
            let TransactionResult::Translated { attributes, .. } = fixture.access(STREAM, at.raw(), READ)
            else {
                panic!("{memory:?}")
            };
            let expected = if ids.idr[0] & 2 != 0 { stage1 } else { stage2 };
            assert_eq!(attributes.memory, expected, "{memory:?}");
        }
    }
}

#[test]
fn permissions_are_enforced_and_faults_recorded() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    let mapping = Mapping::read_only(MemoryType::WriteBack);
    let at = Iova::new(0x4000);
    // SAFETY: the device is the model, whose memory is the test's RAM.
    unsafe { domain.map(&mut fixture.memory, &fixture.commands, at, [chunk(0x9000, 0)], mapping) }.unwrap();
    assert!(matches!(fixture.access(STREAM, 0x4000, READ), TransactionResult::Translated { to: 0x9000, .. }));
    assert_eq!(
        fixture.access(STREAM, 0x4008, WRITE),
        TransactionResult::Aborted(Some(EventKind::Permission))
    );
    let [EventReport::Event(event)] = fixture.reports()[..] else { panic!() };
    assert_eq!(event.to_string(), "smmu: event F_PERMISSION sid=0x8 iova=0x4008 write stage=1 class=IN");
    assert_eq!(fixture.machine.model.borrow().event_interrupts, 1);
}

#[test]
fn domain_input_size_is_limited_by_the_smmu() {
    let mut fixture = fixture(IdRegisters::STAGE2, WalkCoherency::Coherent);
    let mut memory = TestMemory(fixture.machine.clone());
    for bits in [24, 45, 48, 49] {
        let domain =
            PagingDomain::new(&fixture.features, &mut fixture.tags, &mut memory, &mut fixture.memory, bits);
        assert_eq!(domain.unwrap_err(), DomainError::InputBits(bits));
    }
    for bits in [25, 30, 31, 39, 40, 44] {
        let mut domain =
            PagingDomain::new(&fixture.features, &mut fixture.tags, &mut memory, &mut fixture.memory, bits)
                .unwrap();
        let last = (1 << bits) - PAGE_SIZE;
        fixture.map(&mut domain, last, &[chunk(0x8000, 0)]).unwrap();
        fixture.attach(STREAM, &mut domain).unwrap();
        assert_eq!((fixture.reach(last), fixture.reach(1 << bits)), (Some(0x8000), None), "{bits}");
        fixture.detach(STREAM, &mut domain).unwrap();
    }
}

#[test]
fn domains_are_isolated() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let (mut first, other) = (fixture.attached(STREAM), StreamId::new(3));
        let mut second = fixture.attached(other);
        fixture.map(&mut first, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        fixture.map(&mut second, 0x1000, &[chunk(0x9000, 0)]).unwrap();
        assert_eq!(fixture.reach(0x1000), Some(0x8000));
        assert!(matches!(
            fixture.access(other, 0x1000, READ),
            TransactionResult::Translated { to: 0x9000, .. }
        ));
        let stale = fixture.unmap(&mut first, 0x1000, 1, ());
        fixture.free(stale);
        assert!(matches!(
            fixture.access(other, 0x1000, READ),
            TransactionResult::Translated { to: 0x9000, .. }
        ));
    }
}

/// NESTED, STAGE1 and STAGE2 with 32 bits of physical address (IDR5.OAS = 0).
fn with_32_output_bits() -> impl Iterator<Item = IdRegisters> {
    [IdRegisters::NESTED, IdRegisters::STAGE1, IdRegisters::STAGE2].into_iter().map(|mut ids| {
        ids.idr[5] &= !0b111;
        ids
    })
}

#[test]
fn memory_above_the_output_size_is_not_mapped() {
    for ids in with_32_output_bits() {
        let mut fixture = fixture(ids, WalkCoherency::Coherent);
        let mut domain = fixture.attached(STREAM);
        fixture.map(&mut domain, 0x1000, &[chunk(0xffff_f000, 0)]).unwrap();
        assert_eq!(fixture.reach(0x1000), Some(0xffff_f000));
        let (last, highest) = (PhysAddr::new(0x1_0000_1fff), PhysAddr::new(0xffff_ffff));
        let above = MapError::OutputTooLarge { last, highest };
        let chunks = [chunk(0x8000, 0), chunk(0x1_0000_0000, 1)];
        assert_eq!(fixture.map(&mut domain, 0x4000, &chunks), Err(DomainMapError::Table(above)));
        assert_eq!(fixture.reach(0x4000), None);

        let at = Iova::new(PinnedTable::BYTES);
        // SAFETY: the domain is not destroyed.
        let mut pin =
            |highest| unsafe { domain.pin(&mut fixture.memory, &fixture.commands, at, highest).map(|_| ()) };
        assert_eq!(pin(last), Err(above));
        assert_eq!(pin(highest), Ok(()));
    }
}

#[test]
fn smmu_that_cannot_reach_its_tables_is_rejected() {
    for ids in with_32_output_bits() {
        let machine = TestMachine::new(ids, WalkCoherency::Coherent);
        let start = |last| {
            let registers = machine.registers();
            let features = Features::probe(&registers).unwrap();
            let memory = &mut TestMemory(machine.clone());
            smmu::start(registers, features, PhysAddr::new(last), memory, TestMachine::clock()).err()
        };
        let last = PhysAddr::new(0x1_0000_0000);
        let refused = start(last.raw()).unwrap();
        assert_eq!(refused, StartError::Unreachable { last, bits: 32 });
        assert_eq!(
            refused.to_string(),
            "tables may be at 0x100000000, above its 32-bit addresses (IDR5.OAS)"
        );
        assert_eq!(machine.pages_in_use(), 0);
        assert!(start(0xffff_ffff).is_none());
    }
}
