//! Handlers of message-signalled interrupts, by interrupt number: LPIs, and SPIs of a message frame.
//!
//! A slot is locked while its handler runs, and only then: [`set_handler`] returns after a running handler of
//! the slot has returned, so the handler can be dropped. The table is read without a lock of other
//! interrupts.

use super::Handler;
use crate::memory::heap;
use crate::sync::SpinLock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use drivers::gic::IntId;
use drivers::gic::its::{FIRST_LPI, MAX_LPIS};
use spin::Once;

/// A handler that can be replaced.
pub type SharedHandler = Arc<dyn Handler + Send>;

/// The number of interrupts of a block of the table.
const BLOCK: usize = 64;
/// The SPIs are below this number.
const SPI_END: usize = 1024;

type HandlerSlot = SpinLock<Option<SharedHandler>>;
/// Blocks are allocated on demand and never freed.
type HandlerTable<const BLOCKS: usize> = [Once<Box<[HandlerSlot; BLOCK]>>; BLOCKS];

static LPIS: HandlerTable<{ MAX_LPIS as usize / BLOCK }> = [const { Once::new() }; MAX_LPIS as usize / BLOCK];
static SPIS: HandlerTable<{ SPI_END / BLOCK }> = [const { Once::new() }; SPI_END / BLOCK];

/// The block of an interrupt and its index there.
fn block(id: IntId) -> Option<(&'static Once<Box<[HandlerSlot; BLOCK]>>, usize)> {
    let number = u32::from(id);
    let (blocks, index) = match number.checked_sub(FIRST_LPI) {
        Some(lpi) => (&LPIS[..], lpi as usize),
        None => (&SPIS[..], number as usize),
    };
    Some((blocks.get(index / BLOCK)?, index % BLOCK))
}

/// Allocates the slot of an interrupt. Returns whether it exists.
pub fn reserve(id: IntId) -> bool {
    let Some((block, _)) = block(id) else { return false };
    if !block.is_completed() {
        let Some(slots) = heap::try_box([const { SpinLock::new(None) }; BLOCK]) else { return false };
        block.call_once(|| slots);
    }
    true
}

/// Sets the handler of an interrupt with a slot. The earlier handler does not run any longer; it is dropped
/// by the caller, in a thread.
#[must_use = "dropped in a thread"]
pub fn set_handler(id: IntId, handler: Option<SharedHandler>) -> Option<SharedHandler> {
    let Some((block, index)) = block(id) else { return handler };
    let Some(slots) = block.get() else { return handler };
    core::mem::replace(&mut *slots[index].lock(), handler)
}

/// Handles an interrupt with a slot. Returns `false` if it is not message-signalled. A message without a
/// handler has no effect.
pub(super) fn handle(id: IntId) -> bool {
    let slot = block(id).and_then(|(block, index)| Some(&block.get()?[index]));
    let handled = slot.is_some_and(|slot| match &*slot.lock() {
        Some(handler) => {
            handler.handle();
            true
        }
        None => false,
    });
    handled || u32::from(id) >= FIRST_LPI
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

    struct Count(AtomicU32);

    impl Handler for Count {
        fn handle(&self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn message_is_handled_by_the_handler_of_its_slot_until_it_is_replaced() {
        let (lpi, spi) = (IntId::lpi(MAX_LPIS - 1), IntId::spi(500));
        let count = Arc::new(Count(AtomicU32::new(0)));
        for id in [lpi, spi] {
            assert_eq!(handle(id), id == lpi, "without a slot");
            assert!(set_handler(id, Some(count.clone())).is_some(), "no slot");
            assert!(reserve(id) && reserve(id));
            assert!(set_handler(id, Some(count.clone())).is_none());
            assert!(handle(id) && handle(id));
            assert!(set_handler(id, None).is_some());
            assert_eq!(handle(id), id == lpi, "an SPI may have another handler");
        }
        assert_eq!((count.0.load(Relaxed), Arc::strong_count(&count)), (4, 1));
        assert!(!reserve(IntId::lpi(MAX_LPIS)) && handle(IntId::lpi(MAX_LPIS)));
    }
}
