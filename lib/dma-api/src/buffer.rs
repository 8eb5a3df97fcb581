//! A coherent buffer in a driver's hands.

use crate::KernelView;
use addr::{AddrRange, Chunk, Iova};
use alloc::boxed::Box;
use core::fmt;
use core::ptr::NonNull;

/// What a buffer is made of, seen from its provider: dropping it detaches the device and frees the memory.
pub trait BufferBacking: Send {
    /// Calls `visit` with each chunk, in the order of the device's addresses.
    fn chunks(&self, visit: &mut dyn FnMut(Chunk));
}

/// Memory that one device and the CPU share, for as long as this value lives.
///
/// It may be sent to another CPU, but not shared between two: access through the view is not atomic.
pub struct DmaBuffer {
    iova: AddrRange<Iova>,
    view: Option<NonNull<u8>>,
    backing: Box<dyn BufferBacking>,
}

// SAFETY: the view shows memory that belongs to this value alone (`new`), wherever it goes; `backing` is Send.
unsafe impl Send for DmaBuffer {}

impl DmaBuffer {
    /// # Safety
    /// Until `backing` is dropped,
    /// 1. a `view` is aligned to a page, and all `iova.len()` bytes from there on are mapped, readable and writable;
    /// 2. they are touched through this value alone, and by the device.
    pub unsafe fn new(
        iova: AddrRange<Iova>,
        view: Option<NonNull<u8>>,
        backing: Box<dyn BufferBacking>,
    ) -> Self {
        Self { iova, view, backing }
    }

    /// The device's address of the first byte.
    pub fn iova(&self) -> Iova {
        self.iova.start()
    }

    /// Bytes, whole pages.
    pub fn len(&self) -> usize {
        self.iova.len() as usize
    }

    /// Always false: no buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.iova.is_empty()
    }

    /// The kernel's mapping, if there is one. With `NO_KERNEL_MAPPING` there may still be: it is a hint.
    pub fn kernel_view(&self) -> Option<KernelView<'_>> {
        // SAFETY: `new` was promised both, until `backing` is dropped, which this borrow prevents; the value is
        // not Sync, so that no other thread uses a view of it meanwhile.
        self.view.map(|base| unsafe { KernelView::new(base, self.len()) })
    }

    /// Calls `visit` with each chunk, in the order of the device's addresses.
    pub fn chunks(&self, mut visit: impl FnMut(Chunk)) {
        self.backing.chunks(&mut visit);
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer").field("iova", &self.iova).field("view", &self.view).finish()
    }
}
