//! [`Slots`] under all interleavings and memory orderings that loom explores.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use memory::Slots;

/// Slots with few free ones, and a cell for each: loom reports two owners at a time, and an owner that does
/// not see the writes of the previous one.
struct OwnedSlots {
    slots: Slots,
    owned: [UnsafeCell<()>; 4],
}

impl OwnedSlots {
    /// Only the first `free` slots are free, at most 4.
    fn new(free: usize) -> Arc<Self> {
        let slots = Slots::new();
        while slots.alloc(64, 0).is_some() {}
        (0..free).for_each(|slot| slots.free(slot, 1));
        Arc::new(Self { slots, owned: Default::default() })
    }

    /// Allocates, writes and frees a run, if there is one.
    fn use_run(&self, len: u32) -> bool {
        let Some(first) = self.slots.alloc(len, 0) else { return false };
        self.owned[first..first + len as usize].iter().for_each(|slot| slot.with_mut(|_| ()));
        self.slots.free(first, len);
        true
    }
}

/// Runs one thread per length, and returns whether each got its run.
fn contend<const N: usize>(free: usize, lens: [u32; N]) -> [bool; N] {
    let shared = OwnedSlots::new(free);
    let threads = lens.map(|len| {
        let shared = shared.clone();
        thread::spawn(move || shared.use_run(len))
    });
    let got = threads.map(|thread| thread.join().unwrap());
    assert_eq!(shared.slots.free_count() as usize, free);
    got
}

#[test]
fn slot_has_one_owner_that_sees_the_writes_of_the_previous_one() {
    loom::model(|| assert!(contend(1, [1, 1]).contains(&true)));
}

#[test]
fn no_thread_fails_while_slots_suffice_for_all() {
    loom::model(|| assert_eq!(contend(2, [1, 1]), [true, true]));
}

#[test]
fn runs_and_single_slots_do_not_overlap() {
    loom::model(|| assert!(contend(4, [2, 1, 4]).contains(&true)));
}
