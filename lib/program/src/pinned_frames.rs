//! User frames pinned for DMA.

use addr::Pfn;
use alloc::collections::BTreeMap;

/// Pin counts of user frames. A frame is freed when it is unmapped *and* its pin count is 0, by the later of
/// the two operations ([`unmap`](Self::unmap) or the last [`unpin`](Self::unpin)).
#[derive(Debug, Default)]
pub struct PinnedFrames {
    pinned: BTreeMap<Pfn, Pin>,
}

#[derive(Debug)]
struct Pin {
    /// Never 0.
    count: u32,
    /// The process has unmapped the frame.
    unmapped: bool,
}

impl PinnedFrames {
    /// An empty set.
    pub const fn new() -> Self {
        Self { pinned: BTreeMap::new() }
    }

    /// Increments the pin count of a mapped frame.
    pub fn pin(&mut self, frame: Pfn) {
        self.pinned.entry(frame).or_insert(Pin { count: 0, unmapped: false }).count += 1;
    }

    /// Decrements the pin count. Returns `true` if the frame is unmapped and no longer pinned: the caller
    /// frees it.
    ///
    /// Panics if the frame is not pinned.
    #[must_use]
    pub fn unpin(&mut self, frame: Pfn) -> bool {
        let Some(pin) = self.pinned.get_mut(&frame) else { panic!("{frame:?} is not pinned") };
        pin.count -= 1;
        if pin.count > 0 {
            return false;
        }
        self.pinned.remove(&frame).is_some_and(|pin| pin.unmapped)
    }

    /// Records that the process has unmapped the frame and its TLB entries are invalidated. Returns `true` if
    /// the frame is not pinned: the caller frees it. Otherwise the last [`unpin`](Self::unpin) returns
    /// `true`.
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

    /// The number of pinned frames.
    pub fn frames(&self) -> usize {
        self.pinned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Pfn = Pfn::new(7);

    #[test]
    fn unmapped_frame_is_freed_by_the_last_unpin() {
        let mut pinned = PinnedFrames::new();
        assert!(pinned.unmap(FRAME), "not pinned");
        pinned.pin(FRAME);
        pinned.pin(FRAME);
        assert!(!pinned.unpin(FRAME));
        assert!(!pinned.unmap(FRAME), "still pinned once");
        assert!(pinned.unpin(FRAME));
        assert_eq!(pinned.frames(), 0);
    }

    #[test]
    fn mapped_frame_is_not_freed_by_unpin() {
        let mut pinned = PinnedFrames::new();
        pinned.pin(FRAME);
        assert!(!pinned.unpin(FRAME));
        assert!(pinned.unmap(FRAME));
    }

    #[test]
    #[should_panic(expected = "is not pinned")]
    fn unbalanced_unpin_panics() {
        let mut pinned = PinnedFrames::new();
        pinned.pin(FRAME);
        let _ = pinned.unpin(FRAME);
        let _ = pinned.unpin(FRAME);
    }
}
