//! Message-signalled interrupts: the controllers that turn the messages of devices into interrupts, and the
//! vectors of a device.
//!
//! [`alloc()`] returns the [`MessageVectors`] of a device, masked and without handlers. In this order:
//! [`MessageVectors::set_handler`], [`MessageVectors::unmask`], then the device is given the
//! [`MessageVectors::message`]s. A handler runs with interrupts masked, and neither allocates nor waits.
//! Vectors are freed when they are dropped, after their device was told not to send messages.
//!
//! Lock order: the vectors of a device, its controller, the LPIs of all ITSs.

mod controller;
mod inherited;

pub use controller::{MsiError, init};
pub use inherited::tables_in_use;

use crate::dma::Device;
use crate::irq::messages::{self, SharedHandler};
use crate::sched::Mutex;
use alloc::sync::Arc;
use controller::{MessageController, Vectors};
use drivers::pcie::{Message, Phandle};

/// The vectors of a device, numbered from 0. Used and dropped in a thread, or during boot.
pub struct MessageVectors {
    controller: &'static MessageController,
    /// The doorbell's address for the device.
    address: u64,
    /// The sender of the messages, in whose domain the doorbell is mapped.
    device: Arc<Device>,
    vectors: Mutex<Vectors>,
}

/// Allocates `count` vectors for the device with the number `id` at the controller `phandle`, with the
/// calling CPU as the target. They have consecutive data, starting at a multiple of the next power of two.
/// The messages are transactions of `device`.
///
/// # Errors
/// [`MsiError`].
pub fn alloc(
    phandle: Phandle,
    id: u32,
    count: u32,
    device: &Arc<Device>,
) -> Result<MessageVectors, MsiError> {
    let controller = controller::find(phandle).ok_or(MsiError::NoController(phandle))?;
    // SAFETY: the page of the doorbell has no other register that a write changes: GITS_TRANSLATER is alone
    // in its frame, and those of a GICv2m are read-only.
    let address = unsafe { device.domain().doorbell(controller.doorbell()) };
    let address = address.map_err(MsiError::Doorbell)?;
    let vectors = controller.allocate(id, count)?;
    let vectors =
        MessageVectors { controller, address, device: device.clone(), vectors: Mutex::new(vectors) };
    let reserved = vectors.vectors.lock().ids().all(messages::reserve);
    if reserved { Ok(vectors) } else { Err(MsiError::OutOfMemory) }
}

/// Returns whether the controller accepts from a device only its own messages: an ITS does, by the device's
/// number; a message frame does not.
pub fn checks_sender(phandle: Phandle) -> bool {
    controller::find(phandle).is_some_and(MessageController::checks_sender)
}

impl MessageVectors {
    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.vectors.lock().len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message of vector `index`. Panics, like the other functions, unless the vector exists.
    pub fn message(&self, index: usize) -> Message {
        Message { address: self.address, data: self.controller.data(&self.vectors.lock(), index) }
    }

    /// Sets the handler of a vector. The earlier handler has returned, and is dropped.
    pub fn set_handler(&self, index: usize, handler: Option<SharedHandler>) {
        let id = self.vectors.lock().id(index);
        drop(messages::set_handler(id, handler));
    }

    /// Lets messages of the vector raise interrupts; one that arrived while it was masked does so now.
    ///
    /// # Errors
    /// [`MsiError::Its`], [`MsiError::Irq`]: the vector may still be masked.
    pub fn unmask(&self, index: usize) -> Result<(), MsiError> {
        self.controller.set_enabled(&mut self.vectors.lock(), index, true)
    }

    /// Masks a vector: its handler is not called again until it is unmasked, but may be running.
    ///
    /// # Errors
    /// [`MsiError::Its`], [`MsiError::Irq`]: the vector may not be masked.
    pub fn mask(&self, index: usize) -> Result<(), MsiError> {
        self.controller.set_enabled(&mut self.vectors.lock(), index, false)
    }

    /// Makes CPU `cpu` the target of a vector.
    ///
    /// # Errors
    /// [`MsiError::Its`], [`MsiError::Irq`]: the CPU receives no messages.
    pub fn set_affinity(&self, index: usize, cpu: usize) -> Result<(), MsiError> {
        self.controller.retarget(&mut self.vectors.lock(), index, cpu)
    }
}

impl Drop for MessageVectors {
    fn drop(&mut self) {
        let vectors = core::mem::take(&mut *self.vectors.lock());
        for id in vectors.ids() {
            drop(messages::set_handler(id, None));
        }
        if let Err(error) = self.controller.free(vectors) {
            log::error!("{}: leaked message vectors: {error}", self.device.name());
        }
    }
}
