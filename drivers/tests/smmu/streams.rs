//! Who may use which domain.

use super::*;

#[test]
fn streams_nobody_attached_abort() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let _domain = rig.attached(STREAM);
        // In the same table as an attached stream, in another, and outside of all.
        for stream in [StreamId::new(9), StreamId::new(0x4321), StreamId::new(u32::MAX)] {
            assert!(matches!(rig.access(stream, 0, READ), Outcome::Aborted(_)), "{stream:?}");
        }
    }
    let rig = rig(Ids::NESTED, Walks::Coherent);
    let beyond = rig.access(StreamId::new(0x1_0000), 0, READ);
    assert_eq!(beyond, Outcome::Aborted(Some(EventKind::BadStreamId)));
}

#[test]
fn an_attached_stream_was_aborted_before_and_is_after_detaching() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.domain().unwrap();
        rig.map(&mut domain, 0x1000, &[chunk(0x8000, 0)]).unwrap();
        // The model keeps the aborting entry, and a first-level descriptor without a table.
        assert_eq!(rig.reach(0x1000), None);
        rig.attach(STREAM, &mut domain).unwrap();
        assert_eq!(rig.reach(0x1000), Some(0x8000), "{ids:x?} {walks:?}");
        rig.detach(STREAM, &mut domain).unwrap();
        assert_eq!(rig.access(STREAM, 0x1000, WRITE), Outcome::Aborted(None));
        assert_eq!(rig.destroy(domain).map_err(|error| format!("{error:?}")), Ok(()));
        assert_eq!(rig.world.model.borrow().cached_translations(), 0);
    }
}

#[test]
fn a_stream_has_one_domain() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut first = rig.attached(STREAM);
    let mut second = rig.domain().unwrap();
    assert_ne!(first.tag(), second.tag());
    assert_eq!(rig.attach(STREAM, &mut second), Err(StreamError::AlreadyAttached(STREAM)));
    assert_eq!(rig.detach(STREAM, &mut second), Err(StreamError::NotAttached(STREAM)));
    let far = StreamId::new(1 << 16);
    assert_eq!(rig.attach(far, &mut second), Err(StreamError::OutOfRange(far)));
    let Err(DestroyError::InUse(domain)) = rig.destroy(first) else { panic!() };
    first = domain;
    rig.detach(STREAM, &mut first).unwrap();
    rig.attach(STREAM, &mut second).unwrap();
    assert_eq!((first.streams(), second.streams()), (0, 1));
}

#[test]
fn streams_of_one_domain_share_its_addresses() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    let other = StreamId::new(0x100);
    rig.attach(other, &mut domain).unwrap();
    rig.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    assert!(matches!(rig.access(other, 0, READ), Outcome::Translated { to: 0x8000, .. }));
    rig.detach(other, &mut domain).unwrap();
    assert_eq!(rig.access(other, 0, READ), Outcome::Aborted(None));
    assert_eq!(rig.reach(0), Some(0x8000));
}

#[test]
fn a_second_level_grows_for_each_span_once() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.domain().unwrap();
    for (stream, tables) in [(0x8, 1), (0x3f, 1), (0x40, 2), (0xffff, 3), (0x9, 3)] {
        assert!(matches!(rig.access(StreamId::new(stream), 0, READ), Outcome::Aborted(_)));
        rig.attach(StreamId::new(stream), &mut domain).unwrap();
        assert_eq!(rig.streams.second_level_tables(), tables, "{stream:#x}");
    }
    rig.map(&mut domain, 0, &[chunk(0x8000, 0)]).unwrap();
    for stream in [0x8, 0x3f, 0x40, 0xffff, 0x9] {
        assert!(
            matches!(rig.access(StreamId::new(stream), 0, READ), Outcome::Translated { .. }),
            "{stream:#x}"
        );
    }
    // Its neighbours abort without an event: their entries say so.
    assert_eq!(rig.access(StreamId::new(0x41), 0, READ), Outcome::Aborted(None));
}

#[test]
fn eight_bits_of_tag_are_255_domains() {
    let mut rig = rig(Ids::SMALL, Walks::Coherent);
    let mut domains: Vec<_> = (0..255).map(|_| rig.domain().unwrap()).collect();
    let pages = rig.world.pages_in_use();
    assert_eq!(rig.domain().unwrap_err(), DomainError::OutOfTags);
    assert_eq!(rig.world.pages_in_use(), pages);
    let tag: Tag = domains[7].tag();
    rig.destroy(domains.remove(7)).map_err(|error| format!("{error:?}")).unwrap();
    assert_eq!(rig.domain().unwrap().tag(), tag);
}
