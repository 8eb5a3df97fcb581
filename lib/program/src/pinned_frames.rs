//! Frames of programs that a device may be using.

use addr::Pfn;
use alloc::collections::BTreeMap;

/// Which frames are pinned, how often, and which of them no program owns any more. A frame of a program is free when
/// the program has unmapped it *and* nobody has it pinned; whoever comes last gives it back.
#[derive(Debug, Default)]
pub struct PinnedFrames {
    pinned: BTreeMap<Pfn, Pin>,
}

#[derive(Debug)]
struct Pin {
    /// Never 0.
    count: u32,
    /// The program has unmapped it.
    unmapped: bool,
}

impl PinnedFrames {
    /// Nothing pinned.
    pub const fn new() -> Self {
        Self { pinned: BTreeMap::new() }
    }

    /// PinnedFrames a frame that a program has mapped, once more.
    pub fn pin(&mut self, frame: Pfn) {
        self.pinned.entry(frame).or_insert(Pin { count: 0, unmapped: false }).count += 1;
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
        self.pinned.remove(&frame).is_some_and(|pin| pin.unmapped)
    }

    /// A program has unmapped the frame and its TLB entries are gone. `true`: nobody has it pinned, the caller frees
    /// it; otherwise the last [`unpin`](Self::unpin) says so.
    #[must_use]
    pub fn unmap(&mut self, frame: Pfn) -> bool {
        match self.pinned.get_mut(&frame) {
            Some(pin) => {
                pin.unmapped = true;
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
        let mut pinned = PinnedFrames::new();
        assert!(pinned.unmap(FRAME), "nobody pinned it");
        pinned.pin(FRAME);
        pinned.pin(FRAME);
        assert!(!pinned.unpin(FRAME));
        assert!(!pinned.unmap(FRAME), "still pinned once");
        assert!(pinned.unpin(FRAME));
        assert_eq!(pinned.frames(), 0);
    }

    #[test]
    fn a_frame_still_mapped_stays() {
        let mut pinned = PinnedFrames::new();
        pinned.pin(FRAME);
        assert!(!pinned.unpin(FRAME));
        assert!(pinned.unmap(FRAME));
    }

    #[test]
    #[should_panic(expected = "is not pinned")]
    fn unpinning_twice_is_our_mistake() {
        let mut pinned = PinnedFrames::new();
        pinned.pin(FRAME);
        let _ = pinned.unpin(FRAME);
        let _ = pinned.unpin(FRAME);
    }
}
