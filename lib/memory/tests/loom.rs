//! What several CPUs may see of one another in [`Slots`]: all of it, as far as loom tries.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use memory::Slots;

/// Slots of which few are free, and what their owners have there: two owners at a time, or one who does not see what the
/// last one did, are a mistake that loom notices.
struct Shared {
    slots: Slots,
    owned: [UnsafeCell<()>; 4],
}

impl Shared {
    /// The first `free` slots are free, 4 at most.
    fn new(free: usize) -> Arc<Self> {
        let slots = Slots::new();
        while slots.take(64, 0).is_some() {}
        (0..free).for_each(|slot| slots.give(slot, 1));
        Arc::new(Self { slots, owned: Default::default() })
    }

    /// Has a run for a moment, if there is one.
    fn use_run(&self, len: u32) -> bool {
        let Some(first) = self.slots.take(len, 0) else { return false };
        self.owned[first..first + len as usize].iter().for_each(|slot| slot.with_mut(|_| ()));
        self.slots.give(first, len);
        true
    }
}

/// Threads that want runs of these lengths; the result of each.
fn meet<const N: usize>(free: usize, lens: [u32; N]) -> [bool; N] {
    let shared = Shared::new(free);
    let threads = lens.map(|len| {
        let shared = shared.clone();
        thread::spawn(move || shared.use_run(len))
    });
    let got = threads.map(|thread| thread.join().unwrap());
    assert_eq!(shared.slots.free() as usize, free);
    got
}

#[test]
fn a_slot_has_one_owner_who_sees_what_the_last_one_did() {
    loom::model(|| assert!(meet(1, [1, 1]).contains(&true)));
}

#[test]
fn whoever_finds_room_for_all_gets_some() {
    loom::model(|| assert_eq!(meet(2, [1, 1]), [true, true]));
}

#[test]
fn runs_and_single_slots_do_not_overlap() {
    loom::model(|| assert!(meet(4, [2, 1, 4]).contains(&true)));
}
