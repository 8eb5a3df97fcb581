//! The hooks of the product build, all empty.

use super::{DomainKey, FailPoint, LastOwner, StreamKey};
use addr::{AddrRange, Chunk, Iova, MemoryType};
use core::alloc::Layout;
use smmu_spec::EventRecord;

/// The tag of a buffer, zero-sized without the checking build.
#[derive(Clone, Copy, Debug)]
pub struct DebugTag;

impl DebugTag {
    #[inline(always)]
    pub fn new(_: &'static str, _: u64, _: Option<&str>) -> Self {
        Self
    }

    /// # Safety
    /// None.
    #[inline(always)]
    pub unsafe fn write_canary(&self, _: impl Iterator<Item = Chunk>, _: MemoryType) {}

    /// # Safety
    /// None.
    #[inline(always)]
    pub unsafe fn check_canary(&self, _: impl Iterator<Item = Chunk>, _: MemoryType) {}
}

/// A value that only the checking build stores.
#[derive(Clone, Copy, Default, Debug)]
pub struct DebugOnly;

impl DebugOnly {
    #[inline(always)]
    pub fn new(_: LastOwner) -> Self {
        Self
    }

    #[inline(always)]
    pub fn get(&self) -> LastOwner {
        LastOwner::Unknown
    }
}

#[inline(always)]
pub fn fail_point(_: FailPoint) -> bool {
    false
}

#[inline(always)]
pub fn is_armed(_: FailPoint) -> bool {
    false
}

#[inline(always)]
pub fn scaled(count: u64) -> u64 {
    count
}

#[inline(always)]
pub fn time_slice(ns: u64) -> u64 {
    ns
}

#[inline(always)]
pub fn heap_used(_: Layout) {}

#[inline(always)]
pub fn frame_allocated(_: Chunk) {}

#[inline(always)]
pub fn frame_freed(_: Chunk, _: LastOwner) {}

#[inline(always)]
pub fn buffer_named(_: &DebugTag, _: &[u8]) {}

#[inline(always)]
pub fn mapping_added(_: &DebugTag, _: DomainKey, _: AddrRange<Iova>) {}

#[inline(always)]
pub fn mapping_removed(_: DomainKey, _: AddrRange<Iova>) {}

#[inline(always)]
pub fn device_attached(_: StreamKey, _: DomainKey, _: &str) {}

#[inline(always)]
pub fn device_removed(_: StreamKey) {}

#[inline(always)]
pub fn translation_fault(_: StreamKey, _: &EventRecord) {}

#[inline(always)]
pub fn on_panic() {}
