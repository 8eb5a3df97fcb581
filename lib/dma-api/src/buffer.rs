//! Coherent buffers.

use crate::KernelView;
use addr::{AddrRange, Chunk, Iova};
use alloc::boxed::Box;
use core::fmt;
use core::ptr::NonNull;

/// The provider's part of a buffer. Dropping it detaches the device and frees the memory.
pub trait BufferBacking: Send {
    /// Visits the chunks in the order of the device's addresses.
    fn chunks(&self, visit: &mut dyn FnMut(Chunk));
}

/// A coherent buffer: memory shared by one device and the CPU until it is dropped.
///
/// It can be sent to another CPU, but not shared between CPUs: access through the view is not atomic.
pub struct DmaBuffer {
    iova: AddrRange<Iova>,
    view: Option<NonNull<u8>>,
    backing: Box<dyn BufferBacking>,
}

// SAFETY: the view is of memory that belongs to this value alone (`new`) on any CPU; `backing` is Send.
unsafe impl Send for DmaBuffer {}

impl DmaBuffer {
    /// The buffer that the device reaches at `iova`, and the kernel at `view`.
    ///
    /// # Safety
    /// Until `backing` is dropped,
    /// 1. `view`, if there is one, is page-aligned, and `iova.len()` bytes from there on are mapped, readable
    ///    and writable;
    /// 2. these bytes are accessed only through this value, and by the device.
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

    /// The length in bytes, a multiple of the page size.
    pub fn len(&self) -> usize {
        self.iova.len() as usize
    }

    /// Always false: no buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.iova.is_empty()
    }

    /// The kernel mapping, if there is one. `NO_KERNEL_MAPPING` is a hint: there may be a mapping
    /// nevertheless.
    pub fn kernel_view(&self) -> Option<KernelView<'_>> {
        // SAFETY: `new` requires both points until `backing` is dropped, which this borrow prevents; the
        // value is not Sync, so that no other thread uses a view of it at the same time.
        self.view.map(|base| unsafe { KernelView::new(base, self.len()) })
    }

    /// Visits the chunks in the order of the device's addresses.
    pub fn chunks(&self, mut visit: impl FnMut(Chunk)) {
        self.backing.chunks(&mut visit);
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaBuffer").field("iova", &self.iova).field("view", &self.view).finish()
    }
}
