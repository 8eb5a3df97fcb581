//! Attachment of streams to domains.

use super::*;

#[test]
fn unattached_streams_abort() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let _domain = fixture.attached(STREAM);
        // Streams in the table of an attached stream, in another table, and outside of all tables.
        for stream in [StreamId::new(9), StreamId::new(0x4321), StreamId::new(u32::MAX)] {
            assert!(matches!(fixture.access(stream, 0, READ), TransactionResult::Aborted(_)), "{stream:?}");
        }
    }
    let fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let beyond = fixture.access(StreamId::new(0x1_0000), 0, READ);
    assert_eq!(beyond, TransactionResult::Aborted(Some(EventKind::BadStreamId)));
}

#[test]
fn stream_aborts_before_attach_and_after_detach() {
    for (ids, walks) in kinds() {
        let mut fixture = fixture(ids, walks);
        let mut domain = fixture.domain().unwrap();
        fixture.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        // The model caches the aborting entry, and an invalid first-level descriptor.
        assert_eq!(fixture.reach(0x1000), None);
        fixture.attach(STREAM, &mut domain).unwrap();
        assert_eq!(fixture.reach(0x1000), Some(0x8000), "{ids:x?} {walks:?}");
        fixture.detach(STREAM, &mut domain).unwrap();
        assert_eq!(fixture.access(STREAM, 0x1000, WRITE), TransactionResult::Aborted(None));
        assert_eq!(fixture.destroy(domain).map_err(|error| format!("{error:?}")), Ok(()));
        assert_eq!(fixture.machine.model.borrow().cached_translations(), 0);
    }
}

#[test]
fn stream_cannot_be_attached_twice() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut first = fixture.attached(STREAM);
    let mut second = fixture.domain().unwrap();
    assert_ne!(first.tag(), second.tag());
    assert_eq!(fixture.attach(STREAM, &mut second), Err(StreamError::AlreadyAttached(STREAM)));
    assert_eq!(fixture.detach(STREAM, &mut second), Err(StreamError::NotAttached(STREAM)));
    let far = StreamId::new(1 << 16);
    assert_eq!(fixture.attach(far, &mut second), Err(StreamError::OutOfRange(far)));
    let Err(DestroyError::InUse(domain)) = fixture.destroy(first) else { panic!() };
    first = domain;
    fixture.detach(STREAM, &mut first).unwrap();
    fixture.attach(STREAM, &mut second).unwrap();
    assert_eq!((first.streams(), second.streams()), (0, 1));
}

#[test]
fn streams_of_a_domain_share_its_mappings() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.attached(STREAM);
    let other = StreamId::new(0x100);
    fixture.attach(other, &mut domain).unwrap();
    fixture.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    assert!(matches!(fixture.access(other, 0, READ), TransactionResult::Translated { to: 0x8000, .. }));
    fixture.detach(other, &mut domain).unwrap();
    assert_eq!(fixture.access(other, 0, READ), TransactionResult::Aborted(None));
    assert_eq!(fixture.reach(0), Some(0x8000));
}

#[test]
fn second_level_table_is_allocated_once_per_span() {
    let mut fixture = fixture(IdRegisters::NESTED, WalkCoherency::Coherent);
    let mut domain = fixture.domain().unwrap();
    let before = fixture.machine.pages_in_use();
    for (stream, tables) in [(0x8, 1), (0x3f, 1), (0x40, 2), (0xffff, 3), (0x9, 3)] {
        assert!(matches!(fixture.access(StreamId::new(stream), 0, READ), TransactionResult::Aborted(_)));
        fixture.attach(StreamId::new(stream), &mut domain).unwrap();
        assert_eq!(fixture.machine.pages_in_use() - before, tables, "{stream:#x}");
    }
    fixture.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    for stream in [0x8, 0x3f, 0x40, 0xffff, 0x9] {
        assert!(
            matches!(fixture.access(StreamId::new(stream), 0, READ), TransactionResult::Translated { .. }),
            "{stream:#x}"
        );
    }
    // Their entries abort the neighbours without an event.
    assert_eq!(fixture.access(StreamId::new(0x41), 0, READ), TransactionResult::Aborted(None));
}

#[test]
fn eight_bits_of_tag_are_255_domains() {
    let mut fixture = fixture(IdRegisters::SMALL, WalkCoherency::Coherent);
    let mut domains: Vec<_> = (0..255).map(|_| fixture.domain().unwrap()).collect();
    let pages = fixture.machine.pages_in_use();
    assert_eq!(fixture.domain().unwrap_err(), DomainError::OutOfTags);
    assert_eq!(fixture.machine.pages_in_use(), pages);
    let tag: TlbTag = domains[7].tag();
    fixture.destroy(domains.remove(7)).map_err(|error| format!("{error:?}")).unwrap();
    assert_eq!(fixture.domain().unwrap().tag(), tag);
}
