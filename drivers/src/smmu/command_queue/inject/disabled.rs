//! The hooks of the product, all empty.

use super::super::CommandError;
use addr::PhysAddr;

/// The armed faults: none.
#[derive(Default)]
pub struct Injected(());

impl Injected {
    /// The base that replaces the queue's own.
    #[inline(always)]
    pub fn base(&self) -> Option<PhysAddr> {
        None
    }

    /// `result`, or the injected error.
    #[inline(always)]
    pub fn apply(&self, result: Result<(), CommandError>) -> Result<(), CommandError> {
        result
    }
}
