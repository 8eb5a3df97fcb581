//! What a buffer has in a product in place of a tag.

use crate::dma::Device;
use addr::{AddrRange, Chunk, Iova, MemoryType};

/// Nothing.
#[derive(Clone, Copy, Debug)]
pub struct Tag;

impl Tag {
    /// Nothing.
    #[inline(always)]
    pub fn new(_: &'static str, _: u64, _: Option<&Device>) -> Self {
        Self
    }

    /// Does nothing.
    #[inline(always)]
    pub fn draw(&self, _: impl Iterator<Item = Chunk>, _: MemoryType) {}

    /// Does nothing.
    #[inline(always)]
    pub fn look(&self, _: impl Iterator<Item = Chunk>, _: MemoryType) {}

    /// Does nothing.
    #[inline(always)]
    pub fn attached(&self, _: &Device, _: AddrRange<Iova>) {}
}

/// Does nothing.
#[inline(always)]
pub fn detached(_: &Device, _: AddrRange<Iova>) {}
