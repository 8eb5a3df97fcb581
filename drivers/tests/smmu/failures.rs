//! What cannot be done leaves nothing behind.

use super::*;

#[test]
fn a_failed_map_that_cannot_be_taken_back_says_so() {
    let mut rig = rig(Ids::NESTED, Walks::Coherent);
    let mut domain = rig.attached(STREAM);
    rig.map(&mut domain, 0x20_0000, &[chunk(0x8000, 0)]).unwrap();
    let pages = rig.world.pages_in_use();
    rig.world.model.borrow_mut().hung = true;
    // Its second half meets the page that is there.
    let chunks = [chunk(0x5000, 0), chunk(0x7000, 0)];
    let error = rig.map(&mut domain, 0x1f_f000, &chunks).unwrap_err();
    assert!(matches!(error, MapError::NotForgotten { .. }), "{error:?}");
    assert!(rig.world.pages_in_use() > pages, "the tables of the first half may still be walked");
}

#[test]
fn a_failed_map_leaves_nothing_behind() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        rig.map(&mut domain, 0x20_0000, &[chunk(0x8000, 0)]).unwrap();
        let (pages, tables) = (rig.world.pages_in_use(), domain.table_frames());
        let chunks = [chunk(0x5000, 0), chunk(0x7000, 0)];
        let error = rig.map(&mut domain, 0x1f_f000, &chunks).unwrap_err();
        let cause = pagetable::MapError::AlreadyMapped(Iova::new(0x20_0000));
        assert_eq!(error, MapError::Table(cause));
        assert_eq!((rig.reach(0x1f_f000), rig.reach(0x20_0000)), (None, Some(0x8000)));
        // One empty table stays for the next mapping, until it is asked back.
        domain.trim(&mut rig.source, &rig.commands).unwrap();
        assert_eq!((rig.world.pages_in_use(), domain.table_frames()), (pages, tables));
        assert_eq!(rig.reach(0x1f_f000), None);
    }
}

#[test]
fn a_map_that_fails_under_the_devices_eyes_is_forgotten_with_its_tables() {
    for (ids, walks) in kinds() {
        let mut rig = rig(ids, walks);
        let mut domain = rig.attached(STREAM);
        rig.map(&mut domain, 0x60_0000, &[chunk(0x8000, 0)]).unwrap();
        let before = rig.world.pages_in_use();
        // Three tables are filled and used by the device before the page that is there already.
        let (world, seen) = (rig.world.clone(), RefCell::new(0));
        let scattered = (0..3 * 512 + 1).map(|page| chunk(0x1_0000_0000 + page * 0x2000, 0)).inspect(|_| {
            for at in [0x0, 0x20_0000, 0x40_0000] {
                let outcome = world.model.borrow_mut().access(STREAM, at, READ);
                *seen.borrow_mut() += usize::from(matches!(outcome, Outcome::Translated { .. }));
            }
        });
        let at = Iova::new(0);
        let failed = iommu::Domain::map(&mut domain, &mut rig.source, &rig.commands, at, scattered, RW);
        assert!(matches!(failed, Err(MapError::Table(_))), "{failed:?}");
        assert!(seen.into_inner() > 0, "the device never saw the first part");
        for at in [0x0, 0x1000, 0x20_0000, 0x20_1000, 0x40_0000, 0x40_1000] {
            assert_eq!(rig.reach(at), None, "{at:#x}");
        }
        domain.trim(&mut rig.source, &rig.commands).unwrap();
        assert_eq!((rig.reach(0x40_2000), rig.world.pages_in_use()), (None, before));
    }
}

/// What a kernel does with a device from start to end; `?` at every step that can fail.
fn story(rig: &mut Rig) -> Option<()> {
    let mut domain = rig.domain().ok()?;
    let told = story_of(rig, &mut domain);
    if domain.streams() > 0 {
        rig.detach(STREAM, &mut domain).unwrap();
    }
    rig.destroy(domain).map_err(|error| format!("{error:?}")).unwrap();
    told
}

fn story_of(rig: &mut Rig, domain: &mut Domain) -> Option<()> {
    rig.attach(STREAM, domain).ok()?;
    let chunks = [chunk(0x1_0000_5000, 0), chunk(0x2_0000_0000, 9), chunk(0x9000, 0)];
    rig.map(domain, 0x1f_f000, &chunks).ok()?;
    rig.reach(0x20_0000);
    let stale = rig.unmap(domain, 0x1f_f000, 514, ());
    rig.free(stale);
    Some(())
}

/// Starts an SMMU and tells the story with so many allocations; whether they were enough.
fn story_with(ids: Ids, walks: Walks, allowance: u64) -> bool {
    let world = World::new(ids, walks);
    world.allowance.set(allowance);
    let Ok(mut rig) = Rig::start(world.clone()) else {
        assert_eq!(world.pages_in_use(), 0, "start failed");
        return false;
    };
    let before = world.pages_in_use();
    let told = story(&mut rig).is_some();
    // A second-level table stays for the next stream; nothing else does.
    assert_eq!(world.pages_in_use(), before + rig.streams.second_level_tables() as u64);
    world.allowance.set(u64::MAX);
    assert_eq!(story(&mut rig), Some(()), "the failure left something in the way");
    told
}

#[test]
fn every_allocation_may_fail_once_and_leaves_nothing_behind() {
    for (ids, walks) in kinds() {
        let enough = (0..40).position(|allowance| story_with(ids, walks, allowance));
        assert!(enough.is_some_and(|failures| failures >= 7), "{enough:?}");
    }
}
