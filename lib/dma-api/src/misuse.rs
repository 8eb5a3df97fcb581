//! What drivers do wrong with DMA memory, by the classes that Linux's `CONFIG_DMA_API_DEBUG` finds when they happen. Here
//! they cannot be written, or are errors with a name. Each example has to fail to compile; the first one compiles, so
//! that they fail for what they say.
//!
//! ```
//! # use dma_api::*; use std::boxed::Box;
//! fn right(space: &impl DmaSpace, memory: Box<dyn StreamMemory>) -> Result<(), DmaError> {
//!     let buffer = space.alloc(4096, Attrs::empty())?;
//!     let _for_the_device = buffer.iova();
//!     let stream = space.map(memory, Direction::Bidirectional).map_err(|refused| refused.error)?;
//!     let _for_the_device = stream.iova();
//!     let mut mine = stream.sync_for_cpu();
//!     mine.bytes().unwrap()[0] = 1;
//!     let _memory = mine.sync_for_device().unmap()?;
//!     Ok(())
//! }
//! ```
//!
//! *Freed twice*, and *freed by another function than it was mapped with*: there is one, and it takes the value.
//! ```compile_fail,E0382
//! # use dma_api::*;
//! fn wrong(stream: Stream<Device>) {
//!     let _ = stream.unmap();
//!     let _ = stream.unmap();
//! }
//! ```
//! ```compile_fail,E0382
//! # use dma_api::*;
//! fn wrong(buffer: DmaBuffer) {
//!     drop(buffer);
//!     drop(buffer);
//! }
//! ```
//!
//! *Freed with another size, address or direction*: there are none to give.
//! ```compile_fail,E0061
//! # use dma_api::*;
//! fn wrong(stream: Stream<Device>) {
//!     let _ = stream.unmap(2048, Direction::ToDevice);
//! }
//! ```
//!
//! *Used after it was freed*:
//! ```compile_fail,E0505
//! # use dma_api::*;
//! fn wrong(buffer: DmaBuffer) -> u8 {
//!     let view = buffer.kernel_view().unwrap();
//!     drop(buffer);
//!     view.read(0)
//! }
//! ```
//!
//! *Touched by the CPU while the device has it* (an overlap of two mappings' syncs, or none):
//! ```compile_fail,E0599
//! # use dma_api::*;
//! fn wrong(mut stream: Stream<Device>) {
//!     stream.bytes().unwrap()[0] = 1;
//! }
//! ```
//!
//! *Told to the device while the CPU has it*:
//! ```compile_fail,E0599
//! # use dma_api::*;
//! fn wrong(stream: Stream<Cpu>) -> addr::Iova {
//!     stream.iova()
//! }
//! ```
//!
//! *Synced towards the wrong side*, and *synced without a mapping*:
//! ```compile_fail,E0599
//! # use dma_api::*;
//! fn wrong(stream: Stream<Cpu>) -> Stream<Cpu> {
//!     stream.sync_for_cpu()
//! }
//! ```
//! ```compile_fail,E0382
//! # use dma_api::*;
//! fn wrong(stream: Stream<Device>) -> Stream<Cpu> {
//!     let _ = stream.unmap();
//!     stream.sync_for_cpu()
//! }
//! ```
//!
//! *A failed mapping not looked at* (unused `Result`, which the lints deny, and no address without looking):
//! ```compile_fail,E0599
//! # use dma_api::*; use std::boxed::Box;
//! fn wrong(space: &impl DmaSpace, memory: Box<dyn StreamMemory>) -> addr::Iova {
//!     space.map(memory, Direction::ToDevice).iova()
//! }
//! ```
//!
//! *Memory mapped that is still used, on the stack, or code*: what is lent has been given away, and only what says that
//! it may be lent (an `unsafe trait`) can be.
//! ```compile_fail,E0382
//! # use dma_api::*; use std::boxed::Box;
//! fn wrong(space: &impl DmaSpace, mut memory: Box<dyn StreamMemory>) {
//!     let _stream = space.map(memory, Direction::ToDevice);
//!     memory.bytes();
//! }
//! ```
//! ```compile_fail,E0277
//! # use dma_api::*; use std::boxed::Box;
//! fn wrong(space: &impl DmaSpace) {
//!     let _stream = space.map(Box::new([0u8; 64]), Direction::ToDevice);
//! }
//! ```
//!
//! *Two CPUs in one buffer at once*:
//! ```compile_fail,E0277
//! # use dma_api::*;
//! fn shared(_: impl Sync) {}
//! fn wrong(buffer: DmaBuffer) {
//!     shared(buffer);
//! }
//! ```
//!
//! At run time, by name: past the device's mask ([`DmaError::PastMask`](crate::DmaError::PastMask)), lines shared with
//! something else ([`SharedLine`](crate::DmaError::SharedLine)), pieces that do not meet at pages
//! ([`Ragged`](crate::DmaError::Ragged)), nothing at all ([`ZeroLength`](crate::DmaError::ZeroLength)). A mapping that its
//! driver forgets is unmapped when it is dropped.
