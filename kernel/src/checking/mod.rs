//! What only the checking build does (feature `checking`): make things fail that never fail by themselves.
//!
//! The rest of the kernel asks [`fails`] where something can fail. In a product that is nothing: no load, no branch.

#[cfg(feature = "checking")]
pub mod inject;

/// What can fail, counted each for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Taking frames.
    Frames,
    /// Taking a frame for a page table.
    Tables,
    /// Writing a mapping into a page table.
    Maps,
    /// Taking a range of device addresses.
    Iova,
    /// Taking a range of kernel addresses.
    Vmalloc,
    /// Asking whether the heap has room, or for room in a list.
    Heap,
    /// An IOMMU that says in time that it is done.
    Syncs,
    /// An IOMMU that takes a command.
    Commands,
    /// An interrupt of a device that arrives.
    Interrupts,
}

/// Whether this time it is to fail.
#[inline(always)]
pub fn fails(_class: Class) -> bool {
    #[cfg(feature = "checking")]
    return inject::fails(_class);
    #[cfg(not(feature = "checking"))]
    false
}

/// Whether some time soon one of these is to fail: then what usually cannot fail takes the way that can.
#[inline(always)]
pub fn is_armed(_class: Class) -> bool {
    #[cfg(feature = "checking")]
    return inject::is_armed(_class);
    #[cfg(not(feature = "checking"))]
    false
}
