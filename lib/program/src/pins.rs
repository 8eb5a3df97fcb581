//! Frames of programs that a device may be using.

use addr::Pfn;
use alloc::collections::BTreeMap;

/// Which frames are pinned, how often, and which of them no program owns any more. A frame of a program is free when
/// the program has unmapped it *and* nobody has it pinned; whoever comes last gives it back.
#[derive(Debug, Default)]
pub struct Pins {
    pinned: BTreeMap<Pfn, Pin>,
}

#[derive(Debug)]
struct Pin {
    /// Never 0.
    count: u32,
    /// The program has unmapped it.
    orphaned: bool,
}

impl Pins {
    /// Nothing pinned.
    pub const fn new() -> Self {
        Self { pinned: BTreeMap::new() }
    }

    /// Pins a frame that a program has mapped, once more.
    pub fn pin(&mut self, frame: Pfn) {
        self.pinned.entry(frame).or_insert(Pin { count: 0, orphaned: false }).count += 1;
    }

    /// Takes one pin away. `true`: nobody has the frame any more, the caller frees it.
    ///
    /// Panics when the frame is not pinned: pins are values that exist as often as they were taken.
    #[must_use]
    pub fn unpin(&mut self, frame: Pfn) -> bool {
        let Some(pin) = self.pinned.get_mut(&frame) else { panic!("{frame:?} is not pinned") };
        pin.count -= 1;
        if pin.count > 0 {
            return false;
        }
        self.pinned.remove(&frame).is_some_and(|pin| pin.orphaned)
    }

    /// A program has unmapped the frame and its TLB entries are gone. `true`: nobody has it pinned, the caller frees
    /// it; otherwise the last [`unpin`](Self::unpin) says so.
    #[must_use]
    pub fn orphan(&mut self, frame: Pfn) -> bool {
        match self.pinned.get_mut(&frame) {
            Some(pin) => {
                pin.orphaned = true;
                false
            }
            None => true,
        }
    }

    /// How many frames are pinned.
    pub fn frames(&self) -> usize {
        self.pinned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Pfn = Pfn::new(7);

    #[test]
    fn the_last_one_frees_the_frame() {
        let mut pins = Pins::new();
        assert!(pins.orphan(FRAME), "nobody pinned it");
        pins.pin(FRAME);
        pins.pin(FRAME);
        assert!(!pins.unpin(FRAME));
        assert!(!pins.orphan(FRAME), "still pinned once");
        assert!(pins.unpin(FRAME));
        assert_eq!(pins.frames(), 0);
    }

    #[test]
    fn a_frame_still_mapped_stays() {
        let mut pins = Pins::new();
        pins.pin(FRAME);
        assert!(!pins.unpin(FRAME));
        assert!(pins.orphan(FRAME));
    }

    #[test]
    #[should_panic(expected = "is not pinned")]
    fn unpinning_twice_is_our_mistake() {
        let mut pins = Pins::new();
        pins.pin(FRAME);
        let _ = pins.unpin(FRAME);
        let _ = pins.unpin(FRAME);
    }
}
