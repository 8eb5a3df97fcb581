//! Misuses of DMA memory, by the classes that Linux's `CONFIG_DMA_API_DEBUG` reports at run time. Here they
//! do not compile, or return an error. The first example is correct and compiles, so that the others fail for
//! the stated reason.
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
//! *Double free*, and *freed with the wrong function*: there is one function, and it consumes the value.
//! ```compile_fail,E0382
//! # use dma_api::*;
//! fn wrong(stream: Stream<DeviceOwned>) {
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
//! *Freed with a different size, address or direction*: the function has no such parameters.
//! ```compile_fail,E0061
//! # use dma_api::*;
//! fn wrong(stream: Stream<DeviceOwned>) {
//!     let _ = stream.unmap(2048, Direction::ToDevice);
//! }
//! ```
//!
//! *Use after free*:
//! ```compile_fail,E0505
//! # use dma_api::*;
//! fn wrong(buffer: DmaBuffer) -> u8 {
//!     let view = buffer.kernel_view().unwrap();
//!     drop(buffer);
//!     view.read(0)
//! }
//! ```
//!
//! *CPU access while the device owns the memory* (a missing sync, or overlapping ones):
//! ```compile_fail,E0599
//! # use dma_api::*;
//! fn wrong(mut stream: Stream<DeviceOwned>) {
//!     stream.bytes().unwrap()[0] = 1;
//! }
//! ```
//!
//! *Address passed to the device while the CPU owns the memory*:
//! ```compile_fail,E0599
//! # use dma_api::*;
//! fn wrong(stream: Stream<CpuOwned>) -> addr::Iova {
//!     stream.iova()
//! }
//! ```
//!
//! *Sync in the wrong direction*, and *sync without a mapping*:
//! ```compile_fail,E0599
//! # use dma_api::*;
//! fn wrong(stream: Stream<CpuOwned>) -> Stream<CpuOwned> {
//!     stream.sync_for_cpu()
//! }
//! ```
//! ```compile_fail,E0382
//! # use dma_api::*;
//! fn wrong(stream: Stream<DeviceOwned>) -> Stream<CpuOwned> {
//!     let _ = stream.unmap();
//!     stream.sync_for_cpu()
//! }
//! ```
//!
//! *Unchecked mapping error* (an unused `Result` is denied by the lints, and there is no address without a
//! check):
//! ```compile_fail,E0599
//! # use dma_api::*; use std::boxed::Box;
//! fn wrong(space: &impl DmaSpace, memory: Box<dyn StreamMemory>) -> addr::Iova {
//!     space.map(memory, Direction::ToDevice).iova()
//! }
//! ```
//!
//! *Mapping of memory in use, stack memory or code*: mapping consumes the memory, and its type has to
//! implement an `unsafe trait`.
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
//! *Concurrent access to a buffer by two CPUs*:
//! ```compile_fail,E0277
//! # use dma_api::*;
//! fn shared(_: impl Sync) {}
//! fn wrong(buffer: DmaBuffer) {
//!     shared(buffer);
//! }
//! ```
//!
//! Errors at run time: memory beyond the DMA mask ([`DmaError::PastMask`](crate::DmaError::PastMask)), cache
//! lines shared with other data ([`SharedLine`](crate::DmaError::SharedLine)), segments not aligned to page
//! boundaries ([`UnalignedSegment`](crate::DmaError::UnalignedSegment)), a length of 0
//! ([`ZeroLength`](crate::DmaError::ZeroLength)). A mapping that its driver does not unmap is unmapped on
//! drop.
